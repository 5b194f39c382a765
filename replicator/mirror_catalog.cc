// SPDX-License-Identifier: Apache-2.0
#include "replicator/mirror_catalog.h"

#include <sqlite3.h>

#include <charconv>

#include "common/printable.h"

namespace somfs::replicator {

namespace {

constexpr int kApplicationId = 0x534d4652;  // "SMFR"
constexpr int kFormat = 1;

constexpr const char* kSchema =
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE object(id INTEGER PRIMARY KEY, ino INTEGER NOT NULL, birth INTEGER NOT NULL, kind INTEGER NOT NULL,"
    " m_ino INTEGER NOT NULL, m_birth INTEGER NOT NULL, size INTEGER NOT NULL, mtime INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,"
    " ctime INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, attr_hash INTEGER NOT NULL, UNIQUE(ino, birth));"
    "CREATE INDEX object_inode ON object(m_ino);"
    "CREATE TABLE name(parent INTEGER NOT NULL, name BLOB NOT NULL, object INTEGER NOT NULL, epoch INTEGER NOT NULL,"
    " PRIMARY KEY(parent, name)) WITHOUT ROWID;"
    "CREATE INDEX name_object ON name(object);";

#define SOMFS_OBJECT_COLUMNS \
  "o.id, o.ino, o.birth, o.kind, o.m_ino, o.m_birth, o.size, o.mtime, o.mtime_ns, o.ctime, o.ctime_ns, o.attr_hash"

constexpr const char* kStatements[] = {
    "SELECT " SOMFS_OBJECT_COLUMNS " FROM object o WHERE ino = ?1 AND birth = ?2",
    "SELECT " SOMFS_OBJECT_COLUMNS " FROM object o WHERE id = ?1",
    "SELECT " SOMFS_OBJECT_COLUMNS " FROM object o WHERE m_ino = ?1 AND m_birth = ?2",
    "SELECT object FROM name WHERE parent = ?1 AND name = ?2",
    "SELECT parent, name FROM name WHERE object = ?1",
    "SELECT " SOMFS_OBJECT_COLUMNS ", n.name FROM name n JOIN object o ON o.id = n.object WHERE n.parent = ?1 ORDER BY n.name",
    "SELECT parent, name FROM name WHERE epoch <> ?1",
    "SELECT coalesce(max(id), 0) FROM object",
    "SELECT count(*) FROM object",
    "SELECT value FROM meta WHERE key = ?1",
    "BEGIN IMMEDIATE",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    ("INSERT INTO object VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT(id) DO UPDATE SET ino = ?2, birth = ?3,"
    " kind = ?4, m_ino = ?5, m_birth = ?6, size = ?7, mtime = ?8, mtime_ns = ?9, ctime = ?10, ctime_ns = ?11, attr_hash = ?12"),
    "INSERT OR REPLACE INTO name VALUES(?1, ?2, ?3, ?4)",
    "DELETE FROM name WHERE parent = ?1 AND name = ?2",
    "DELETE FROM object WHERE id = ?1",
    "INSERT OR REPLACE INTO meta VALUES(?1, ?2)",
};

std::int64_t i64(std::uint64_t v) { return static_cast<std::int64_t>(v); }
std::uint64_t u64(std::int64_t v) { return static_cast<std::uint64_t>(v); }

std::string blob(sqlite3_stmt* s, int column) {
  const void* p = sqlite3_column_blob(s, column);
  int n = sqlite3_column_bytes(s, column);
  return n > 0 ? std::string(static_cast<const char*>(p), static_cast<std::size_t>(n)) : std::string();
}

ObjectRow object_of(sqlite3_stmt* s) {
  ObjectRow r;
  r.row = sqlite3_column_int64(s, 0);
  r.id = {u64(sqlite3_column_int64(s, 1)), u64(sqlite3_column_int64(s, 2))};
  r.kind = static_cast<Kind>(sqlite3_column_int(s, 3));
  r.inode = {u64(sqlite3_column_int64(s, 4)), u64(sqlite3_column_int64(s, 5))};
  r.size = u64(sqlite3_column_int64(s, 6));
  r.mtime = {sqlite3_column_int64(s, 7), static_cast<std::uint32_t>(sqlite3_column_int64(s, 8))};
  r.ctime = {sqlite3_column_int64(s, 9), static_cast<std::uint32_t>(sqlite3_column_int64(s, 10))};
  r.attr_hash = u64(sqlite3_column_int64(s, 11));
  return r;
}

}  // namespace

// A prepared statement in use: bound left to right, reset when it goes out of scope.
class CatalogDb::Use {
 public:
  explicit Use(sqlite3_stmt* s) : s_(s) {}
  ~Use() {
    if (s_ != nullptr) sqlite3_reset(s_);
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  Use& operator<<(std::int64_t v) {
    if (s_ != nullptr) sqlite3_bind_int64(s_, ++at_, v);
    return *this;
  }
  Use& operator<<(std::string_view v) {  // borrowed until reset
    if (s_ != nullptr) sqlite3_bind_blob(s_, ++at_, v.data() != nullptr ? v.data() : "", static_cast<int>(v.size()), SQLITE_STATIC);
    return *this;
  }
  int step() { return s_ != nullptr ? sqlite3_step(s_) : SQLITE_ERROR; }
  sqlite3_stmt* get() { return s_; }

 private:
  sqlite3_stmt* s_;
  int at_ = 0;
};

CatalogDb::~CatalogDb() {
  for (sqlite3_stmt* s : statements_) sqlite3_finalize(s);
  sqlite3_close(db_);
}

tl::unexpected<Error> CatalogDb::error(const char* what) const {
  int code = sqlite3_errcode(db_) & 0xff;
  if (code == SQLITE_FULL) return fail(Exit::no_space, what, "the mirror's catalog", sqlite3_errmsg(db_));
  // "disk I/O error" and "unable to open database file" have a reason beneath.
  if (int e = sqlite3_system_errno(db_); e != 0 && (code == SQLITE_IOERR || code == SQLITE_CANTOPEN))
    return fail_errno(what, "the mirror's catalog", e);
  if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
    return fail(Exit::configuration, what, "the mirror's catalog", sqlite3_errmsg(db_),
                "move .somfs-mirror aside and migrate again: the files in tree/ are reused");
  return fail(Exit::temporary, what, "the mirror's catalog", sqlite3_errmsg(db_));
}

Status CatalogDb::exec(const char* sql) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return error("cannot use");
  return {};
}

sqlite3_stmt* CatalogDb::prepared(Sql which) {
  sqlite3_stmt*& s = statements_[which];
  if (s == nullptr && sqlite3_prepare_v3(db_, kStatements[which], -1, SQLITE_PREPARE_PERSISTENT, &s, nullptr) != SQLITE_OK) s = nullptr;
  return s;
}

Result<std::unique_ptr<CatalogDb>> CatalogDb::open(const std::string& path, bool create) {
  sqlite3* raw = nullptr;
  int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (create ? SQLITE_OPEN_CREATE : 0);
  int rc = sqlite3_open_v2(path.c_str(), &raw, flags, nullptr);
  std::unique_ptr<CatalogDb> db(new CatalogDb(raw));
  if (rc != SQLITE_OK) return db->error("cannot open");
  sqlite3_extended_result_codes(raw, 1);
  SOMFS_TRY(db->check_format(create));
  SOMFS_TRY(db->exec("PRAGMA synchronous=FULL; PRAGMA cache_size=-16384; PRAGMA mmap_size=268435456; PRAGMA temp_store=MEMORY;"
                     "PRAGMA wal_autocheckpoint=4096"));
  return db;
}

Status CatalogDb::check_format(bool create) {
  int application = 0, version = 0, tables = 0;
  auto ask = [&](const char* sql, int* out) {
    sqlite3_stmt* s = nullptr;
    bool ok = sqlite3_prepare_v2(db_, sql, -1, &s, nullptr) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW;
    if (ok) *out = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    return ok;
  };
  if (!ask("PRAGMA application_id", &application) || !ask("PRAGMA user_version", &version) ||
      !ask("SELECT count(*) FROM sqlite_master", &tables))
    return error("cannot make sense of");
  if (application == 0 && version == 0 && tables == 0 && create) {
    SOMFS_TRY(exec("PRAGMA journal_mode=WAL"));
    std::string sql = "BEGIN IMMEDIATE; PRAGMA application_id=" + std::to_string(kApplicationId) +
                      "; PRAGMA user_version=" + std::to_string(kFormat) + ";" + kSchema + "COMMIT";
    return exec(sql.c_str());
  }
  if (application != kApplicationId)
    return fail(Exit::configuration, "cannot make sense of", "the mirror's catalog", "it is not a somfs catalog",
                "move .somfs-mirror aside and migrate again: the files in tree/ are reused");
  if (version != kFormat)
    return fail(Exit::configuration, "cannot use", "the mirror's catalog",
                "it has format " + std::to_string(version) + ", this somfs knows format " + std::to_string(kFormat),
                "use the somfs that wrote it, or a newer one");
  for (std::size_t i = 0; i < kSqlCount; ++i)
    if (prepared(static_cast<Sql>(i)) == nullptr) return error("cannot make sense of");
  return {};
}

Result<std::optional<ObjectRow>> CatalogDb::one(Sql which, std::int64_t a, std::optional<std::int64_t> b) {
  Use u(prepared(which));
  u << a;
  if (b) u << *b;
  int rc = u.step();
  if (rc == SQLITE_DONE) return std::optional<ObjectRow>();
  if (rc != SQLITE_ROW) return error("cannot read");
  return std::optional<ObjectRow>(object_of(u.get()));
}

Result<std::optional<ObjectRow>> CatalogDb::by_id(const ObjectId& id) { return one(kById, i64(id.ino), i64(id.birth)); }
Result<std::optional<ObjectRow>> CatalogDb::by_row(Row row) { return one(kByRow, row, std::nullopt); }
Result<std::optional<ObjectRow>> CatalogDb::by_inode(const ObjectId& inode) {
  return one(kByInode, i64(inode.ino), i64(inode.birth));
}

Result<Row> CatalogDb::at(Row parent, std::string_view name) {
  Use u(prepared(kAt));
  u << parent << name;
  int rc = u.step();
  if (rc == SQLITE_DONE) return Row{0};
  if (rc != SQLITE_ROW) return error("cannot read");
  return Row{sqlite3_column_int64(u.get(), 0)};
}

Result<std::vector<std::pair<Row, std::string>>> CatalogDb::names_of(Row object) {
  Use u(prepared(kNamesOf));
  u << object;
  std::vector<std::pair<Row, std::string>> out;
  int rc;
  while ((rc = u.step()) == SQLITE_ROW) out.emplace_back(sqlite3_column_int64(u.get(), 0), blob(u.get(), 1));
  if (rc != SQLITE_DONE) return error("cannot read");
  return out;
}

Result<std::vector<std::pair<Row, std::string>>> CatalogDb::not_stated(std::int64_t epoch) {
  Use u(prepared(kNotStated));
  u << epoch;
  std::vector<std::pair<Row, std::string>> out;
  int rc;
  while ((rc = u.step()) == SQLITE_ROW) out.emplace_back(sqlite3_column_int64(u.get(), 0), blob(u.get(), 1));
  if (rc != SQLITE_DONE) return error("cannot read");
  return out;
}

Result<std::vector<Child>> CatalogDb::children(Row parent) {
  Use u(prepared(kChildren));
  u << parent;
  std::vector<Child> out;
  int rc;
  while ((rc = u.step()) == SQLITE_ROW) out.push_back({blob(u.get(), 12), object_of(u.get())});
  if (rc != SQLITE_DONE) return error("cannot read");
  return out;
}

Result<Row> CatalogDb::last_row() {
  Use u(prepared(kLastRow));
  if (u.step() != SQLITE_ROW) return error("cannot read");
  return Row{sqlite3_column_int64(u.get(), 0)};
}

Result<std::uint64_t> CatalogDb::objects() {
  Use u(prepared(kObjects));
  if (u.step() != SQLITE_ROW) return error("cannot read");
  return u64(sqlite3_column_int64(u.get(), 0));
}

Result<std::string> CatalogDb::meta(const char* key) {
  Use u(prepared(kMeta));
  sqlite3_bind_text(u.get(), 1, key, -1, SQLITE_STATIC);
  int rc = u.step();
  if (rc == SQLITE_DONE) return std::string();
  if (rc != SQLITE_ROW) return error("cannot read");
  return blob(u.get(), 0);
}

Result<std::uint64_t> CatalogDb::number(const char* key) {
  SOMFS_TRY_ASSIGN(std::string text, meta(key));
  std::uint64_t v = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), v);
  if (!text.empty() && (ec != std::errc() || end != text.data() + text.size()))
    return fail(Exit::configuration, "cannot make sense of", "the mirror's catalog", std::string(key) + " is not a number");
  return v;
}

Status CatalogDb::begin() {
  Use u(prepared(kBegin));
  if (u.step() != SQLITE_DONE) return error("cannot begin a transaction in");
  return {};
}

Status CatalogDb::begin_reading() {
  Use u(prepared(kBeginReading));
  if (u.step() != SQLITE_DONE) return error("cannot begin to read");
  return {};
}

Status CatalogDb::commit() {
  Use u(prepared(kCommit));
  if (u.step() != SQLITE_DONE) return error("cannot commit to");
  return {};
}

void CatalogDb::rollback() noexcept {
  if (sqlite3_get_autocommit(db_) != 0) return;
  Use u(prepared(kRollback));
  u.step();
}

Status CatalogDb::put(const ObjectRow& r) {
  Use u(prepared(kPut));
  u << r.row << i64(r.id.ino) << i64(r.id.birth) << static_cast<std::int64_t>(r.kind) << i64(r.inode.ino) << i64(r.inode.birth)
    << i64(r.size) << r.mtime.sec << std::int64_t{r.mtime.nsec} << r.ctime.sec << std::int64_t{r.ctime.nsec} << i64(r.attr_hash);
  if (u.step() != SQLITE_DONE) return error("cannot write");
  return {};
}

Status CatalogDb::bind(Row parent, std::string_view name, Row object, std::int64_t epoch) {
  Use u(prepared(kBind));
  u << parent << name << object << epoch;
  if (u.step() != SQLITE_DONE) return error("cannot write");
  return {};
}

Status CatalogDb::unbind(Row parent, std::string_view name) {
  Use u(prepared(kUnbind));
  u << parent << name;
  if (u.step() != SQLITE_DONE) return error("cannot write");
  return {};
}

Status CatalogDb::erase(Row object) {
  Use u(prepared(kErase));
  u << object;
  if (u.step() != SQLITE_DONE) return error("cannot write");
  return {};
}

Status CatalogDb::forget_all() { return exec("DELETE FROM name; DELETE FROM object"); }

Status CatalogDb::set_meta(const char* key, std::string_view value) {
  Use u(prepared(kSetMeta));
  sqlite3_bind_text(u.get(), 1, key, -1, SQLITE_STATIC);
  sqlite3_bind_blob(u.get(), 2, value.data() != nullptr ? value.data() : "", static_cast<int>(value.size()), SQLITE_STATIC);
  if (u.step() != SQLITE_DONE) return error("cannot write");
  return {};
}

}  // namespace somfs::replicator
