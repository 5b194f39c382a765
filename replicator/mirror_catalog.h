// SPDX-License-Identifier: Apache-2.0
// The catalog of a mirror: which name is which object, and which inode of ours holds it (docs/formats/mirror.md, "Catalog").
// Two connections on one SQLite file in WAL mode: the writer holds one transaction for the length of an epoch and sees the state
// being built; the reader sees the committed one. A connection belongs to one thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/object.h"
#include "common/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace somfs::replicator {

using Row = std::int64_t;                 // the catalog's own key of an object; 0: none
inline constexpr Row kRootRow = 1;        // tree/ itself
inline constexpr std::uint64_t kSyntheticBirth = ~0ull;   // objects found in a tree no migration made: {our inode number, this}

struct ObjectRow {
  Row row = 0;
  ObjectId id;                            // the source's
  Kind kind = Kind::none;
  ObjectId inode;                         // ours: number and birth time
  std::uint64_t size = 0;
  Time mtime, ctime;                      // the source's
  std::uint64_t attr_hash = 0;
};

struct Child {
  std::string name;
  ObjectRow object;
};

class CatalogDb {
 public:
  // `create`: the file may be absent. State of another format or a damaged file: Exit::configuration.
  static Result<std::unique_ptr<CatalogDb>> open(const std::string& path, bool create);
  ~CatalogDb();
  CatalogDb(const CatalogDb&) = delete;
  CatalogDb& operator=(const CatalogDb&) = delete;

  Result<std::optional<ObjectRow>> by_id(const ObjectId& id);
  Result<std::optional<ObjectRow>> by_row(Row row);
  Result<std::optional<ObjectRow>> by_inode(const ObjectId& inode);
  Result<Row> at(Row parent, std::string_view name);                               // 0: nothing
  Result<std::vector<std::pair<Row, std::string>>> names_of(Row object);
  Result<std::vector<Child>> children(Row parent);                                 // by name, in byte order
  Result<std::vector<std::pair<Row, std::string>>> not_stated(std::int64_t epoch); // names no record of this epoch named
  Result<Row> last_row();
  Result<std::uint64_t> objects();
  Result<std::string> meta(const char* key);                                       // empty: not set
  Result<std::uint64_t> number(const char* key);

  Status begin();
  Status begin_reading();                                                          // one state until commit(); without it each question locks anew
  Status commit();
  void rollback() noexcept;
  Status put(const ObjectRow& row);                                                // new, or instead of what the row was
  Status bind(Row parent, std::string_view name, Row object, std::int64_t epoch);
  Status unbind(Row parent, std::string_view name);
  Status erase(Row object);
  Status forget_all();                                                             // every object and name
  Status set_meta(const char* key, std::string_view value);
  Status set_number(const char* key, std::uint64_t value) { return set_meta(key, std::to_string(value)); }

 private:
  enum Sql : std::size_t {
    kById, kByRow, kByInode, kAt, kNamesOf, kChildren, kNotStated, kLastRow, kObjects, kMeta,
    kBegin, kBeginReading, kCommit, kRollback, kPut, kBind, kUnbind, kErase, kSetMeta, kSqlCount
  };
  class Use;
  explicit CatalogDb(sqlite3* db) : db_(db) {}
  Status exec(const char* sql);
  Status check_format(bool create);
  tl::unexpected<Error> error(const char* what) const;
  sqlite3_stmt* prepared(Sql which);
  Result<std::optional<ObjectRow>> one(Sql which, std::int64_t a, std::optional<std::int64_t> b);

  sqlite3* db_;
  std::array<sqlite3_stmt*, kSqlCount> statements_{};
};

}  // namespace somfs::replicator
