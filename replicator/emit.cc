// SPDX-License-Identifier: Apache-2.0
#include "replicator/emit.h"

#include <algorithm>

#include "common/printable.h"
#include "replicator/migration.h"

namespace somfs::replicator {

Excludes::Excludes(const std::vector<std::string>& paths) {
  for (std::string path : paths) {
    while (path.starts_with('/') || path.starts_with("./")) path.erase(0, path.front() == '/' ? 1 : 2);
    while (path.ends_with('/')) path.pop_back();
    if (!path.empty()) paths_.push_back(std::move(path));
  }
  std::sort(paths_.begin(), paths_.end());
}

bool Excludes::covers(const std::string& path) const {
  return std::any_of(paths_.begin(), paths_.end(), [&](const std::string& p) {
    return path.starts_with(p) && (path.size() == p.size() || path[p.size()] == '/');
  });
}

std::string Excludes::joined() const {
  std::string out;
  for (const auto& p : paths_) out += (out.empty() ? "" : "\n") + p;
  return out;
}

void Run::unreadable(const std::string& path, const Error& error) {
  Error named = error;
  named.on = printable(path);
  Lock l(mutex_);
  unreadable_.push_back(named.line());
}

bool Run::any_unreadable() {
  Lock l(mutex_);
  return !unreadable_.empty();
}

std::vector<std::string> Run::take_unreadable() {
  Lock l(mutex_);
  return std::move(unreadable_);
}

void Run::torn(const ObjectId& id) {
  Lock l(mutex_);
  torn_.push_back(id);
}

std::vector<ObjectId> Run::take_torn() {
  Lock l(mutex_);
  return std::move(torn_);
}

void Run::take_turn(const void* who) {
  Lock l(mutex_);
  while (turn_ != nullptr && turn_ != who) turn_free_.wait(mutex_);
  turn_ = who;
}

void Run::give_turn(const void* who) noexcept {
  Lock l(mutex_);
  if (turn_ != who) return;
  turn_ = nullptr;
  turn_free_.notify_one();
}

Status Run::send_batch(std::string bytes, std::string leaf) {
  if (options.dry_run) return {};
  if (history) history->add_leaf(leaf);
  return link.send(MessageType::records, std::move(bytes), std::move(leaf));
}

Status Emitter::spill() {
  std::string leaf = run_.history ? leaf_hash(out_) : std::string();   // beside the other lane, not in its turn
  run_.take_turn(this);
  spilled_ = true;
  run_.bytes_records += out_.size();
  SOMFS_TRY(run_.send_batch(std::move(out_), std::move(leaf)));
  out_.clear();
  out_.reserve(kBatch + kPiece);
  return {};
}

Status Emitter::flush() {
  for (const NameRecord& r : unborn_) RecordWriter(out_).name(r);
  unborn_.clear();
  Status s;
  if (!out_.empty()) s = spill();
  spilled_ = false;
  run_.give_turn(this);
  return s;
}

Status Emitter::name(const ObjectId& parent, const std::string& name, const ObjectId& object) {
  RecordWriter(out_).name({parent, name, object});
  ++run_.names;
  if (!object) ++run_.removed;
  return full() ? flush() : Status();
}

Result<bool> Emitter::object(TreeFile& file, ObjectRecord record, const Data& data, const Place& dir, const std::string& name) {
  if (run_.skip.contains(record.id)) return false;   // named when it failed
  const std::size_t start = out_.size();
  spilled_ = false;
  auto again = [&]() -> Result<TreeFilePtr> {
    SOMFS_TRY_ASSIGN(TreeFilePtr at, open_place(run_.tree, dir));
    if (!name.empty()) {
      SOMFS_TRY_ASSIGN(auto ref, run_.tree.lookup(*at, name));
      if (!ref) return TreeFilePtr();
      SOMFS_TRY_ASSIGN(at, run_.tree.open_in(*at, {name, *ref}));
    }
    return at->ref().id == file.ref().id ? std::move(at) : TreeFilePtr();
  };
  Status s = write_object(file, record, data, again);
  if (!s && spares_the_rest(s.error())) {
    run_.unreadable(path_in(dir, name), s.error());
    if (!spilled_) {
      out_.resize(start);
      return false;
    }
    // Where the mirror may hold an older copy, half of a new one must not take its place.
    if ((record.flags & kNew) == 0 || !record.parent || data.how == Data::How::delta || run_.mirror_objects != 0) {
      run_.torn(record.id);
      return pass_on(s.error());
    }
    unborn_.push_back({record.parent, record.name, {}});
    out_.clear();
    SOMFS_TRY(flush());
    return false;
  }
  SOMFS_TRY(s);
  ++run_.files;
  ++run_.progress.files;
  if (spilled_ || full()) SOMFS_TRY(flush());
  return true;
}

Status Emitter::write_object(TreeFile& file, ObjectRecord& record, const Data& data, const Again& again) {
  record.attr = file.attr();
  if (!keeps_owner(run_.mirror_user, record.attr.uid)) run_.foreign_owners = true;
  const bool is_file = record.attr.kind == Kind::file;
  if ((record.flags & kNew) != 0) record.flags |= kAttr | kXattr;
  if (is_file && (data.how != Data::How::none || (record.flags & kNew) != 0)) record.flags |= kSize;
  if ((record.flags & kXattr) != 0) {
    SOMFS_TRY_ASSIGN(record.xattrs, file.xattrs());
  }
  if (record.attr.kind == Kind::symlink) {
    SOMFS_TRY_ASSIGN(record.target, file.link_target());
  }
  if (is_file && data.how == Data::How::delta && data.signature != nullptr && !run_.options.dry_run) {
    SOMFS_TRY_ASSIGN(bool done, write_delta(file, record, data, again));
    if (done) return {};
  }
  const bool all = is_file && (data.how == Data::How::all || data.how == Data::How::delta);
  if (all && (record.flags & kNew) == 0) record.flags |= kRewritten;
  RecordWriter(out_).object(record);
  if (!is_file || data.how == Data::How::none || record.attr.size == 0) return {};
  if (!all) return write_ranges(file, data.extents, true);
  if (run_.staged.contains(record.id) && !run_.options.dry_run) {
    SOMFS_TRY_ASSIGN(bool done, write_reuse(file, record));
    if (done) return {};
  }
  return write_ranges(file, nullptr, false);
}

Result<bool> Emitter::write_reuse(TreeFile& file, const ObjectRecord& record) {
  const StagedFile& s = run_.staged.at(record.id);
  if (s.size != record.attr.size || s.mtime != record.attr.mtime || s.ctime != record.attr.ctime) return false;
  SOMFS_TRY_ASSIGN(std::string hash, content_hash(file, &run_.bytes_source));
  if (hash != s.hash) return false;
  RecordWriter(out_).reuse(hash);
  run_.progress.bytes += data_bytes(file);
  return true;
}

// False: not worth it, and nothing was written.
Result<bool> Emitter::write_delta(TreeFile& file, ObjectRecord& record, const Data& data, const Again& again) {
  // A file with much less data than size travels as data and holes.
  const std::uint64_t whole = data_bytes(file);
  if (whole < record.attr.size / 4 * 3) return false;
  bool begun = false;
  std::uint64_t sent = 0;
  auto take = [&](std::string_view piece) -> Status {
    if (!begun) {
      ObjectRecord r = record;
      r.basis = data.basis;
      if ((r.flags & kNew) == 0) r.flags |= kRewritten;
      RecordWriter(out_).object(r);
      begun = true;
    }
    RecordWriter(out_).delta(piece);
    const std::uint64_t counts = std::min<std::uint64_t>(piece.size(), whole - sent);
    sent += counts;
    run_.progress.bytes += counts;
    return full() ? spill() : Status();
  };
  auto* count = &run_.bytes_source;
  TreeFilePtr second;
  if (record.attr.size >= kTwoThreads) {
    SOMFS_TRY_ASSIGN(second, again());
  }
  const std::uint64_t half = record.attr.size / 2;
  SOMFS_TRY_ASSIGN(bool done, second ? make_delta(*data.signature, content_of(file, count, 0, half), content_of(*second, count, half), take)
                                     : make_delta(*data.signature, content_of(file, count), take));
  if (done) run_.progress.bytes += whole - sent;   // what need not travel is done as well
  return done;
}

Status Emitter::write_ranges(TreeFile& file, const snapshot::ExtentSet* ranges, bool holes) {
  const std::uint64_t size = file.attr().size;
  if (ranges == nullptr) return write_range(file, 0, size, holes);
  for (const auto& [from, to] : ranges->map()) {
    if (from >= size) break;
    SOMFS_TRY(write_range(file, from, std::min(to, size), holes));
  }
  return {};
}

Status Emitter::write_range(TreeFile& file, std::uint64_t from, std::uint64_t to, bool holes) {
  buffer_.resize(kPiece);
  while (from < to) {
    SOMFS_TRY_ASSIGN(auto next, file.next_data(from));
    const std::uint64_t start = next && next->len != 0 ? std::clamp(next->off, from, to) : to;
    if (start > from && holes) RecordWriter(out_).hole(from, start - from);
    from = start;
    const std::uint64_t end = next ? std::min(next->end(), to) : to;
    while (from < end) {
      const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(kPiece, end - from));
      std::size_t got = n;
      if (!run_.options.dry_run) {
        SOMFS_TRY_ASSIGN(got, file.read(buffer_.data(), n, from));
        if (got == 0) return fail_errno("cannot read", "a file that ended before its size", EIO);
        RecordWriter(out_).data(from, std::string_view(buffer_.data(), got));
        if (full()) SOMFS_TRY(spill());
      } else {
        run_.bytes_records += n;
      }
      from += got;
      run_.bytes_source += got;
      run_.progress.bytes += got;
    }
    if (run_.progress.cancelled) return fail(Exit::interrupted, "interrupted");
  }
  return {};
}

}  // namespace somfs::replicator
