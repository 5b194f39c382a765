// SPDX-License-Identifier: Apache-2.0
#include "replicator/mirror_stage.h"

#include <fcntl.h>
#include <librsync.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "common/printable.h"
#include "replicator/mirror_inode.h"
#include "replicator/wire.h"

namespace somfs::replicator {

namespace {

constexpr std::size_t kFewObjects = 16;        // so many are synced one by one, more by one syncfs
constexpr std::size_t kLanesFrom = 16;         // fewer files than this are not worth two threads
constexpr std::size_t kCachedIds = 65536;
constexpr std::uint64_t kWriteBehind = 16u << 20;

tl::unexpected<Error> unknown_object(const ObjectId& id) {
  return fail(Exit::temporary, "the mirror does not know object", std::to_string(id.ino) + "." + std::to_string(id.birth),
              "the source assumed a state it does not have", "compare with the catalog");
}

tl::unexpected<Error> malformed(const char* why) { return fail(Exit::temporary, "refusing a group record", {}, why); }

Status pwrite_checked(int fd, std::string_view bytes, std::uint64_t off) {
  if (int e = pwrite_all(fd, bytes, off); e != 0) return fail_errno("cannot write to the mirror's stage", {}, e);
  return {};
}

}  // namespace

// ---- the catalog's side -----------------------------------------------------------------------------------------------

Status CatalogPlay::play(const RedoOp& op) {
  if (op.type == RedoOp::Type::object) {
    SOMFS_TRY_ASSIGN(auto known, db_.by_row(op.row));
    ObjectRow row = known.value_or(ObjectRow{});
    const ObjectRecord& r = op.record;
    row.row = op.row;
    row.id = r.id;
    row.kind = r.attr.kind;
    row.size = r.attr.size;
    row.ctime = r.attr.ctime;
    if (op.fresh || op.row == kRootRow) row.inode = op.inode;
    if (r.flags & (kNew | kRewritten | kAttr)) row.mtime = r.attr.mtime;
    bool whole = (r.flags & (kNew | kRewritten)) != 0 || (r.flags & (kAttr | kXattr)) == (kAttr | kXattr);
    // Half of what the hash covers: it is not known any more, and a comparison will find them different.
    if (whole || (r.flags & (kAttr | kXattr)) != 0) row.attr_hash = whole ? replicator::attr_hash(r.attr, r.xattrs, r.target) : 0;
    SOMFS_TRY(db_.put(row));
    if (known) {
      ++changed;
    } else {
      ++created;
      if (op.parent != 0) {
        SOMFS_TRY(db_.bind(op.parent, op.name, op.row, epoch_));
      } else {
        perhaps_nameless_.insert(op.row);
      }
    }
    return {};
  }
  if (op.type != RedoOp::Type::name) return {};
  SOMFS_TRY_ASSIGN(Row before, db_.at(op.parent, op.name));
  if (before != 0 && before != op.row) perhaps_nameless_.insert(before);
  if (op.row == 0) return db_.unbind(op.parent, op.name);
  if (before != op.row) {
    SOMFS_TRY_ASSIGN(auto object, db_.by_row(op.row));
    if (object && object->kind == Kind::dir) bound_directories_.insert(op.row);
  }
  return db_.bind(op.parent, op.name, op.row, epoch_);
}

Status CatalogPlay::check_directories() {
  std::unordered_set<Row> sound{kRootRow};
  for (Row start : bound_directories_) {
    std::unordered_set<Row> path;
    for (Row r = start; !sound.contains(r);) {
      if (!path.insert(r).second) return malformed("it puts a directory beneath itself");
      SOMFS_TRY_ASSIGN(auto names, db_.names_of(r));
      if (names.size() > 1) return malformed("it gives a directory two names");
      if (names.empty()) break;
      r = names[0].first;
    }
    sound.insert(path.begin(), path.end());
  }
  return {};
}

Status CatalogPlay::settle() {
  std::vector<Row> candidates(perhaps_nameless_.begin(), perhaps_nameless_.end());
  while (!candidates.empty()) {
    Row row = candidates.back();
    candidates.pop_back();
    if (row == kRootRow) continue;
    SOMFS_TRY_ASSIGN(auto object, db_.by_row(row));
    if (!object) continue;
    SOMFS_TRY_ASSIGN(auto names, db_.names_of(row));
    if (!names.empty()) continue;
    if (object->kind == Kind::dir) {
      SOMFS_TRY_ASSIGN(auto children, db_.children(row));
      for (const Child& c : children) {
        SOMFS_TRY(db_.unbind(row, c.name));
        candidates.push_back(c.object.row);
      }
    }
    SOMFS_TRY(db_.erase(row));
    if (is_new(row)) {
      --created;
    } else {
      ++removed;
    }
  }
  return check_directories();   // now that the names in dead directories are gone
}

// ---- objects on their way into being ------------------------------------------------------------------------------------

struct Receiver::Leaf {
  ObjectRecord record;
  Row row = 0;
  Row placed_in = 0;           // the new directory it is born in; 0: nameless under stage/
  SharedFd dir;
  std::string name;
  std::vector<Piece> pieces;
  ObjectId inode;
  Fd made;                     // files: for the sync
  std::optional<Error> error;
  std::atomic<bool> done{false};

  Status make();
  Status make_special();
  Status settle(int fd);       // attributes and identity, the data being there
};

namespace {

// What librsync reads the basis through, and the bytes it borrows.
struct Basis {
  SharedFd fd;
  std::string buffer;
};

rs_result copy_from_basis(void* opaque, rs_long_t pos, size_t* len, void** buf) {
  auto* basis = static_cast<Basis*>(opaque);
  if (pos < 0) return RS_CORRUPT;
  std::size_t want = std::min<std::size_t>(*len, 1u << 20), got = 0;
  basis->buffer.resize(want);
  if (pread_all(basis->fd->get(), basis->buffer.data(), want, static_cast<std::uint64_t>(pos), &got) != 0) return RS_IO_ERROR;
  *len = got;
  *buf = basis->buffer.data();
  return got == 0 && want != 0 ? RS_INPUT_ENDED : RS_DONE;
}

}  // namespace

struct Receiver::Stream {
  std::unique_ptr<Leaf> leaf;
  Fd fd;
  rs_job_t* job = nullptr;     // patching
  Basis basis;
  std::string held;            // input not consumed yet
  std::uint64_t out = 0, written = 0;
  ~Stream() {
    if (job != nullptr) rs_job_free(job);
  }
};

Status Receiver::Leaf::settle(int fd) {
  ObjectRecord& r = record;
  r.flags |= kNew;
  SOMFS_TRY_ASSIGN(Inode i, inode_of(fd));
  inode = i.id;
  return set_attributes(fd, r, true, &i.attr);
}

Status Receiver::Leaf::make_special() {
  const Attr& a = record.attr;
  int rc = a.kind == Kind::symlink ? ::symlinkat(record.target.c_str(), dir->get(), name.c_str())
                                   : ::mknodat(dir->get(), name.c_str(), mode_of_kind(a.kind) | (a.mode & 0777), a.rdev);
  if (rc != 0) return fail_errno("cannot create in the mirror's stage");
  Fd fd(::openat(dir->get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open in the mirror's stage");
  return settle(fd.get());
}

Status Receiver::Leaf::make() {
  if (record.attr.kind != Kind::file) return make_special();
  made = Fd(::openat(dir->get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, (record.attr.mode & 0777) | 0600));
  if (!made) return fail_errno("cannot create in the mirror's stage");
  std::uint64_t end = 0;
  bool dense = true;
  for (const Piece& p : pieces) {
    dense = dense && p.off == end;
    end = p.off + p.bytes.size();
  }
  if ((!dense || end != record.attr.size) && ::ftruncate(made.get(), static_cast<off_t>(record.attr.size)) != 0)
    return fail_errno("cannot size a file in the mirror's stage");
  for (const Piece& p : pieces) SOMFS_TRY(pwrite_checked(made.get(), p.bytes, p.off));
  return settle(made.get());
}

Receiver::Receiver(Parts parts) : p_(std::move(parts)), next_row_(p_.first_new), early_(p_.paths->stage()) {
  rs_trace_set_level(RS_LOG_CRIT);   // a peer's bad delta is our error to tell, not a line on standard error
}
Receiver::~Receiver() = default;

Status Receiver::op(const RedoOp& op) {
  SOMFS_TRY(p_.play->play(op));
  return p_.redo->add(op);
}

void Receiver::keep_for_sync(Fd fd) {
  if (many_) return;
  if (fd) fresh_.push_back(std::move(fd));
  if (fresh_.size() > kFewObjects) {
    many_ = true;
    fresh_.clear();
  }
}

Status Receiver::take(std::string_view records) {
  RecordReader reader(records);
  Record r;
  while (reader.next(&r)) {
    switch (r.type) {
      case RecordType::object: SOMFS_TRY(on_object(std::move(r.object))); break;
      case RecordType::name: SOMFS_TRY(on_name(r.name)); break;
      default: SOMFS_TRY(on_bytes(r)); break;
    }
  }
  if (!reader.ok()) return malformed("it is not well formed");
  // The last object may go on in the next batch, and its bytes are borrowed from this one.
  if (pending_ && pending_->record.attr.kind == Kind::file && pending_->record.attr.size > 0) SOMFS_TRY(start_stream());
  SOMFS_TRY(leaf_done());
  SOMFS_TRY(run_leaves());
  early_.staged(records.size());
  return p_.redo->flush();
}

Status Receiver::finish() {
  SOMFS_TRY(leaf_done());
  SOMFS_TRY(run_leaves());
  return close_stream();
}

Status Receiver::sync() {
  if (const int e = early_.end(); e != 0) return fail_errno("cannot sync the mirror", {}, e);
  if (many_) {
    if (::syncfs(p_.paths->stage()) != 0) return fail_errno("cannot sync the mirror");
    return {};
  }
  for (const Fd& fd : fresh_)
    if (::fsync(fd.get()) != 0) return fail_errno("cannot sync a file of the mirror");
  if (::fsync(p_.paths->stage()) != 0) return fail_errno("cannot sync the mirror's stage");
  return {};
}

Result<Row> Receiver::row_of(const ObjectId& id, bool directory) {
  if (auto it = directories_.find(id); it != directories_.end()) return it->second;
  SOMFS_TRY_ASSIGN(auto row, p_.writer->by_id(id));
  if (!row && !leaves_.empty()) {
    SOMFS_TRY(run_leaves());
    SOMFS_TRY_ASSIGN(row, p_.writer->by_id(id));
  }
  if (!row) return unknown_object(id);
  if (directory && row->kind != Kind::dir) return malformed("it names something beneath what is no directory");
  if (row->kind == Kind::dir) {
    if (directories_.size() >= kCachedIds) directories_.clear();
    directories_[id] = row->row;
  }
  return row->row;
}

Status Receiver::on_object(ObjectRecord r) {
  SOMFS_TRY(leaf_done());
  SOMFS_TRY(close_stream());
  in_place_.reset();
  SOMFS_TRY_ASSIGN(auto known, p_.writer->by_id(r.id));
  bool first = std::exchange(first_, false);
  if (!known && first && !r.parent && r.attr.kind == Kind::dir && (r.flags & kNew) != 0) {
    // The volume's root: tree/ stands for it.
    SOMFS_TRY_ASSIGN(auto root, p_.writer->by_row(kRootRow));
    if (!root) return fail(Exit::configuration, "the mirror's catalog has no root");
    if (!root->id || p_.replace_all) {
      root->id = r.id;
      SOMFS_TRY(p_.writer->put(*root));
      known = root;
    }
  }
  if (known) return on_known(std::move(r), *known);
  if ((r.flags & kNew) == 0) return unknown_object(r.id);
  return on_new(std::move(r));
}

Status Receiver::on_known(ObjectRecord r, const ObjectRow& known) {
  if (known.kind != r.attr.kind) return malformed("it changes the kind of an object");
  if (known.row == kRootRow && r.parent) return malformed("it gives the root a name");
  if (r.attr.kind != Kind::dir) {
    bool fresh = p_.play->is_new(known.row) || rewritten_.contains(known.row);
    bool again = (r.flags & (kNew | kRewritten)) != 0 && in_place_rows_.contains(known.row);
    if (fresh || again) return malformed("it states the content of an object twice");
  }
  if (r.flags & kNew) r.flags = static_cast<std::uint8_t>((r.flags & ~kNew) | kAttr | kXattr | kRewritten);
  ObjectId parent = r.parent;
  std::string name = std::move(r.name);
  r.parent = {};
  r.name.clear();
  if (r.attr.kind == Kind::dir) {
    r.flags &= static_cast<std::uint8_t>(~(kRewritten | kSize));
  }
  if (r.flags & kRewritten) {
    rewritten_.insert(known.row);
    auto stage = std::make_shared<Fd>(::fcntl(p_.paths->stage(), F_DUPFD_CLOEXEC, 0));
    SOMFS_TRY(begin_leaf(std::move(r), known.row, 0, std::move(stage), stage_name(known.row)));
  } else {
    SOMFS_TRY(run_leaves());
    SOMFS_TRY(would_take(p_.paths->stage(), r));
    RedoOp o;
    o.type = RedoOp::Type::object;
    o.row = known.row;
    o.inode = known.inode;
    o.record = r;
    SOMFS_TRY(op(o));
    in_place_ = std::move(r);
    in_place_rows_.insert(known.row);
  }
  if (!parent) return {};
  SOMFS_TRY_ASSIGN(Row p, row_of(parent, true));
  return bind(p, name, known.row);
}

Status Receiver::on_new(ObjectRecord r) {
  r.flags &= static_cast<std::uint8_t>(~kRewritten);
  Row row = next_row_++;
  Row parent = 0;
  if (r.parent) {
    SOMFS_TRY_ASSIGN(parent, row_of(r.parent, true));
  }
  Row placed_in = parent != 0 && p_.play->is_new(parent) ? parent : 0;
  SharedFd dir;
  if (placed_in != 0) {
    SOMFS_TRY_ASSIGN(dir, p_.paths->directory(placed_in));
    if (!dir) return fail(Exit::temporary, "a directory is gone from the mirror's stage");
  } else {
    dir = std::make_shared<Fd>(::fcntl(p_.paths->stage(), F_DUPFD_CLOEXEC, 0));
  }
  std::string bound_name = r.name;
  std::string name = placed_in != 0 ? r.name : stage_name(row);
  if (r.attr.kind == Kind::dir) {
    SOMFS_TRY(make_directory(std::move(r), row, placed_in, dir->get(), name));
  } else {
    SOMFS_TRY(begin_leaf(std::move(r), row, placed_in, std::move(dir), std::move(name)));
  }
  if (parent == 0 || placed_in != 0) return {};
  // Bound by the redo list; the object's own operation comes later when it is a file, so the row goes by its number.
  RedoOp o;
  o.type = RedoOp::Type::name;
  o.parent = parent;
  o.name = std::move(bound_name);
  o.row = row;
  return op(o);
}

Status Receiver::make_directory(ObjectRecord r, Row row, Row placed_in, int dir, const std::string& name) {
  SOMFS_TRY(would_take(p_.paths->stage(), r));
  if (::mkdirat(dir, name.c_str(), 0700) != 0) return fail_errno("cannot create in the mirror's stage", printable(name));
  auto fd = std::make_shared<Fd>(open_beneath(dir, name, O_RDONLY | O_DIRECTORY));
  if (!*fd) return fail_errno("cannot open in the mirror's stage", printable(name));
  SOMFS_TRY_ASSIGN(Inode i, inode_of(fd->get()));
  keep_for_sync(Fd(many_ ? -1 : ::fcntl(fd->get(), F_DUPFD_CLOEXEC, 0)));
  p_.paths->keep(row, fd);
  if (directories_.size() >= kCachedIds) directories_.clear();
  directories_[r.id] = row;
  RedoOp o;
  o.type = RedoOp::Type::object;
  o.row = row;
  o.fresh = true;
  o.inode = i.id;
  o.parent = placed_in;
  if (placed_in != 0) o.name = name;
  o.record = std::move(r);
  o.record.flags |= kNew;
  return op(o);
}

Status Receiver::begin_leaf(ObjectRecord r, Row row, Row placed_in, SharedFd dir, std::string name) {
  pending_ = std::make_unique<Leaf>();
  pending_->record = std::move(r);
  pending_->row = row;
  pending_->placed_in = placed_in;
  pending_->dir = std::move(dir);
  pending_->name = std::move(name);
  return {};
}

Status Receiver::leaf_done() {
  if (pending_) leaves_.push_back(std::move(pending_));
  return {};
}

Status Receiver::run_leaves() {
  if (leaves_.empty()) return {};
  auto leaves = std::move(leaves_);
  leaves_.clear();
  std::atomic<std::size_t> next{0};
  auto make_one = [&] {
    std::size_t i = next.fetch_add(1);
    if (i >= leaves.size()) return false;
    Leaf& leaf = *leaves[i];
    if (Status s = leaf.make(); !s) leaf.error = std::move(s).error();
    leaf.done.store(true, std::memory_order_release);
    leaf.done.notify_one();
    return true;
  };
  std::jthread beside;
  if (leaves.size() >= kLanesFrom) beside = std::jthread([&] {
    while (make_one()) {}
  });
  Status result;
  for (auto& leaf : leaves) {
    // What is made is recorded; else this thread makes as well, and waits only when all are taken.
    while (!leaf->done.load(std::memory_order_acquire) && make_one()) {}
    leaf->done.wait(false, std::memory_order_acquire);
    if (!result) continue;
    if (leaf->error) {
      result = pass_on(*leaf->error);
    } else {
      result = record_leaf(*leaf);
    }
  }
  return result;
}

Status Receiver::record_leaf(Leaf& leaf) {
  RedoOp o;
  o.type = RedoOp::Type::object;
  o.row = leaf.row;
  o.fresh = true;
  o.inode = leaf.inode;
  o.parent = leaf.placed_in;
  if (leaf.placed_in != 0) o.name = leaf.name;
  o.record = std::move(leaf.record);
  staged_bytes_ += o.record.attr.size;
  if (leaf.made) keep_for_sync(std::move(leaf.made));
  return op(o);
}

Status Receiver::start_stream() {
  SOMFS_TRY(run_leaves());
  auto s = std::make_unique<Stream>();
  s->leaf = std::move(pending_);
  Leaf& leaf = *s->leaf;
  s->fd = Fd(::openat(leaf.dir->get(), leaf.name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                      (leaf.record.attr.mode & 0777) | 0600));
  if (!s->fd) return fail_errno("cannot create in the mirror's stage");
  if (::ftruncate(s->fd.get(), static_cast<off_t>(leaf.record.attr.size)) != 0)
    return fail_errno("cannot size a file in the mirror's stage");
  for (const Piece& p : leaf.pieces) SOMFS_TRY(pwrite_checked(s->fd.get(), p.bytes, p.off));
  leaf.pieces.clear();
  stream_ = std::move(s);
  return {};
}

Status Receiver::close_stream() {
  if (!stream_) return {};
  if (stream_->job != nullptr) SOMFS_TRY(patch({}, true));
  SOMFS_TRY(stream_->leaf->settle(stream_->fd.get()));
  stream_->leaf->made = std::move(stream_->fd);
  auto s = std::move(stream_);
  return record_leaf(*s->leaf);
}

Status Receiver::on_bytes(const Record& r) {
  if (in_place_) {
    if (in_place_->attr.kind != Kind::file) return malformed("it has data for what is no file");
    if (r.type != RecordType::data && r.type != RecordType::hole)
      return malformed("it has a delta for a file that is not rewritten");
    if (r.off + r.len > in_place_->attr.size) return malformed("it has data beyond the end of the file");
    if ((in_place_->flags & kSize) == 0) {   // writing sets the size too
      in_place_->flags |= kSize;
      SOMFS_TRY(would_take(p_.paths->stage(), *in_place_));
    }
    RedoOp o;
    o.type = r.type == RecordType::data ? RedoOp::Type::data : RedoOp::Type::hole;
    o.off = r.off;
    o.len = r.len;
    o.bytes = r.bytes;
    return op(o);
  }
  const ObjectRecord* object = pending_ ? &pending_->record : stream_ ? &stream_->leaf->record : nullptr;
  if (object == nullptr || object->attr.kind != Kind::file) return malformed("it has data for what is no file");
  if (r.type == RecordType::data || r.type == RecordType::hole) {
    if (r.off + r.len > object->attr.size) return malformed("it has data beyond the end of the file");
    if (r.type == RecordType::hole) return {};   // a fresh file is a hole where nothing was written
    if (stream_) return stream_->job != nullptr ? Status(malformed("it mixes data and delta"))
                                                : pwrite_checked(stream_->fd.get(), r.bytes, r.off);
    pending_->pieces.push_back({r.off, r.bytes});
    return {};
  }
  if (pending_) SOMFS_TRY(start_stream());
  return r.type == RecordType::delta ? patch(r.bytes, false) : take_leftover(r.bytes);
}

Status Receiver::patch(std::string_view piece, bool end) {
  Stream& s = *stream_;
  const Attr& attr = s.leaf->record.attr;
  if (s.job == nullptr) {
    SOMFS_TRY_ASSIGN(auto basis, p_.reader->by_id(s.leaf->record.basis));
    if (!basis || basis->kind != Kind::file) return unknown_object(s.leaf->record.basis);
    SOMFS_TRY_ASSIGN(s.basis.fd, p_.committed->open(*basis, O_RDONLY));
    if (!s.basis.fd) return fail(Exit::temporary, "a delta's basis is not in the mirror's tree", {}, {}, "verify with --repair");
    s.job = rs_patch_begin(copy_from_basis, &s.basis);
  }
  s.held.append(piece);
  char out[65536];
  rs_buffers_t b = {};
  b.next_in = s.held.data();
  b.avail_in = s.held.size();
  b.eof_in = end ? 1 : 0;
  for (;;) {
    b.next_out = out;
    b.avail_out = sizeof out;
    std::size_t in_before = b.avail_in;
    rs_result result = rs_job_iter(s.job, &b);
    std::size_t made = sizeof out - b.avail_out;
    if (made > attr.size - s.out) return malformed("its delta makes more than the file holds");
    if (made > 0) SOMFS_TRY(pwrite_checked(s.fd.get(), {out, made}, s.out));
    s.out += made;
    // The disk works while the rest is compared: the sync at the end has less to wait for. A failure shows there.
    if (s.out - s.written >= kWriteBehind) {
      ::sync_file_range(s.fd.get(), static_cast<off_t>(s.written), static_cast<off_t>(s.out - s.written), SYNC_FILE_RANGE_WRITE);
      s.written = s.out;
    }
    if (result == RS_DONE) {
      if (!end && b.avail_in > 0) return malformed("its delta goes on after its end");
      break;
    }
    if (result != RS_BLOCKED) return fail(Exit::temporary, "refusing a delta", {}, rs_strerror(result));
    if (made == 0 && b.avail_in == in_before) {
      if (end) return malformed("its delta stops short");
      break;
    }
  }
  s.held.erase(0, s.held.size() - b.avail_in);
  if (end && s.out != attr.size) return malformed("its delta makes less than the file holds");
  return {};
}

Status Receiver::take_leftover(std::string_view hash) {
  Stream& s = *stream_;
  Leaf& leaf = *s.leaf;
  auto gone = [&]() -> Status {
    return fail(Exit::temporary, "what an interrupted run left of a file cannot be used", {}, "it is gone or has another content");
  };
  SOMFS_TRY_ASSIGN(auto left, p_.leftover(leaf.record.id));
  if (!left) return gone();
  Fd fd = open_beneath(left->directory->get(), left->name, O_RDWR);
  if (!fd) return gone();
  SOMFS_TRY_ASSIGN(Inode i, inode_of(fd.get()));
  if (i.attr.kind != Kind::file || i.attr.nlink != 1 || i.attr.size != leaf.record.attr.size) return gone();
  SOMFS_TRY_ASSIGN(std::string have, hash_content(fd.get()));
  if (have != hash) return gone();
  if (::renameat(left->directory->get(), left->name.c_str(), leaf.dir->get(), leaf.name.c_str()) != 0)
    return fail_errno("cannot take over what an interrupted run left");
  s.fd = std::move(fd);
  SOMFS_TRY(set_xattrs(s.fd.get(), {}, false));
  return {};
}

Status Receiver::bind(Row parent, const std::string& name, Row object) {
  RedoOp o;
  o.type = RedoOp::Type::name;
  o.parent = parent;
  o.name = name;
  o.row = object;
  return op(o);
}

Status Receiver::on_name(const NameRecord& r) {
  SOMFS_TRY(leaf_done());
  SOMFS_TRY(close_stream());
  in_place_.reset();
  SOMFS_TRY(run_leaves());
  SOMFS_TRY_ASSIGN(Row parent, row_of(r.parent, true));
  Row object = 0;
  if (r.object) {
    SOMFS_TRY_ASSIGN(object, row_of(r.object, false));
    if (object == kRootRow) return malformed("it gives the root a name");
  }
  return bind(parent, r.name, object);
}

}  // namespace somfs::replicator
