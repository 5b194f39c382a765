// SPDX-License-Identifier: Apache-2.0
#include "replicator/spool.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "common/bytes.h"
#include "common/log.h"
#include "common/printable.h"
#include "replicator/group.h"
#include "replicator/mirror_catalog.h"
#include "replicator/mirror_inode.h"

namespace somfs::replicator {
namespace {

constexpr std::string_view kMagic = "somfsfw1";
constexpr const char *kDirectory = "forward", *kThin = "thin";   // the second: a file that is about to take the place of another
constexpr std::size_t kMostBlock = 8u << 20, kFrame = 8;
constexpr std::size_t kIdsInBlock = 32768;
constexpr std::uint8_t kHead = 0, kBatch = 1, kTouched = 2, kEnd = 3;

tl::unexpected<Error> damaged_epoch() { return fail(Exit::temporary, "a spooled epoch is damaged", {}, {}, "the next mirror is compared"); }

std::string block_of(std::string_view payload) {
  std::string out;
  out.reserve(payload.size() + kFrame);
  ByteWriter w(out);
  w.u32(static_cast<std::uint32_t>(payload.size()));
  w.u32(crc32c(payload));
  w.raw(payload);
  return out;
}

std::string head_of(const SpoolHead& head) {
  std::string payload;
  ByteWriter w(payload);
  w.u8(kHead);
  w.u8(head.whole ? 1 : 0);
  w.u64(head.from.epoch);
  w.raw(head.from.generation.raw());
  w.text(encode(head.begin));
  return std::string(kMagic) + block_of(payload);
}

// Blocks of ids and the end, after `pieces` others.
std::string tail_of(const std::unordered_set<ObjectId>& touched, std::uint64_t pieces) {
  std::vector<ObjectId> ids(touched.begin(), touched.end());
  std::sort(ids.begin(), ids.end());
  std::string out, payload;
  for (std::size_t at = 0; at < ids.size(); at += kIdsInBlock, ++pieces) {
    payload.clear();
    ByteWriter w(payload);
    w.u8(kTouched);
    for (std::size_t i = at; i < std::min(at + kIdsInBlock, ids.size()); ++i) w.id(ids[i]);
    out += block_of(payload);
  }
  payload.clear();
  ByteWriter w(payload);
  w.u8(kEnd);
  w.u64(pieces);
  return out + block_of(payload);
}

std::uint64_t size_of(int fd) {
  struct stat st {};
  return ::fstat(fd, &st) == 0 ? static_cast<std::uint64_t>(st.st_size) : 0;
}

}  // namespace

// ---- reading

Result<SpoolReader> SpoolReader::open(Fd file) {
  SpoolReader r(std::move(file));
  std::size_t got = 0;
  char magic[kMagic.size()];
  if (int e = read_all(r.file_.get(), magic, sizeof magic, &got); e != 0) return fail_errno("cannot read a spooled epoch", {}, e);
  if (std::string_view(magic, got) != kMagic) return damaged_epoch();
  SOMFS_TRY_ASSIGN(const std::uint8_t tag, r.piece(true));
  ByteReader b{std::string_view(r.block_)};
  b.u8();
  const std::uint8_t whole = b.u8();
  r.head_.whole = whole == 1;
  r.head_.from.epoch = b.u64();
  r.head_.from.generation = Uuid::from_raw(b.raw(16));
  const std::string_view begin = b.text(kMaxBody);
  if (tag != kHead || !b.at_end() || whole > 1 || !decode(begin, &r.head_.begin) || r.head_.begin.epoch == 0) return damaged_epoch();
  r.pieces_ = 0;
  return r;
}

Result<std::uint8_t> SpoolReader::piece(bool read_batches) {
  std::size_t got = 0;
  char frame[kFrame];
  if (int e = read_all(file_.get(), frame, sizeof frame, &got); e != 0) return fail_errno("cannot read a spooled epoch", {}, e);
  ByteReader f{std::string_view(frame, got)};
  const std::uint32_t length = f.u32(), crc = f.u32();
  if (!f.ok() || length == 0 || length > kMostBlock) return damaged_epoch();
  std::uint8_t tag = 0;
  if (!read_batches) {
    if (int e = pread_all(file_.get(), &tag, 1, static_cast<std::uint64_t>(::lseek(file_.get(), 0, SEEK_CUR)), &got); e != 0 || got != 1) return damaged_epoch();
    if (tag == kBatch) {
      if (::lseek(file_.get(), length, SEEK_CUR) < 0) return damaged_epoch();
      ++pieces_;
      return tag;
    }
  }
  block_.resize(length);
  if (int e = read_all(file_.get(), block_.data(), length, &got); e != 0) return fail_errno("cannot read a spooled epoch", {}, e);
  if (got != length || crc32c(block_) != crc) return damaged_epoch();
  tag = static_cast<std::uint8_t>(block_.front());
  if (tag == kEnd) {
    ByteReader b{std::string_view(block_)};
    b.u8();
    if (b.u64() != pieces_ || !b.at_end()) return damaged_epoch();
  }
  ++pieces_;
  return tag;
}

Result<std::optional<std::string>> SpoolReader::next() {
  for (;;) {
    SOMFS_TRY_ASSIGN(const std::uint8_t tag, piece(true));
    if (tag == kEnd) return std::optional<std::string>();
    if (tag == kTouched) continue;
    if (tag != kBatch || !head_.whole) return damaged_epoch();
    block_.erase(0, 1);
    return std::optional<std::string>(std::move(block_));
  }
}

Status SpoolReader::touched(const std::function<void(const ObjectId&)>& id) {
  for (;;) {
    SOMFS_TRY_ASSIGN(const std::uint8_t tag, piece(false));
    if (tag == kEnd) return {};
    if (tag == kBatch && head_.whole) continue;
    if (tag != kTouched || block_.size() % kIdBytes != 1) return damaged_epoch();
    ByteReader b{std::string_view(block_)};
    b.u8();
    while (!b.at_end()) id(b.id());
  }
}

// ---- the mirror's side

std::string Spool::name_of(std::uint64_t number) {
  char b[24];
  std::snprintf(b, sizeof b, "%020llu", static_cast<unsigned long long>(number));
  return b;
}

void Spool::discard(const std::string& mirror) {
  const Fd state(::open((mirror + "/.somfs-mirror").c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!state || ::faccessat(state.get(), kDirectory, F_OK, AT_SYMLINK_NOFOLLOW) != 0) return;
  if (Status s = remove_tree(state.get(), kDirectory); !s) log::warning("{}: {}", printable(mirror), s.error().line());
}

void Spool::align(int state, const Standing& now, std::uint64_t held) {
  part_.reset();
  part_bytes_ = 0;
  Lock l(mutex_);
  const bool same = aligned_ && dir_ && standing_ && standing_->mirror == now.mirror && standing_->at == now.at && held == 0;
  standing_ = now;
  ++changes_;
  news_.notify_all();
  if (same) return;
  aligned_ = false;
  links_.clear();
  if (::mkdirat(state, kDirectory, 0700) != 0 && errno != EEXIST) {
    log::warning("{}", fail_errno("cannot keep epochs for the next mirror").value().line());
    return;
  }
  dir_ = Fd(::openat(state, kDirectory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!dir_) {
    log::warning("{}", fail_errno("cannot keep epochs for the next mirror").value().line());
    return;
  }
  (void)::fsync(state);
  read_directory(held);
  aligned_ = true;
  prune();
}

// From the newest backwards: what leads to where the mirror stands stays, and a held epoch that begins there. The rest was never committed,
// or something was committed of which nothing was kept.
void Spool::read_directory(std::uint64_t held) {
  std::vector<std::uint64_t> numbers;
  std::vector<std::string> strangers;
  Status listed = each_entry(dir_.get(), [&](const std::string& name, std::uint64_t, unsigned char) -> Status {
    const std::uint64_t n = std::strtoull(name.c_str(), nullptr, 10);
    if (n != 0 && name == name_of(n)) numbers.push_back(n);
    else strangers.push_back(name);
    return {};
  });
  if (!listed) log::warning("{}", listed.error().line());
  std::sort(numbers.rbegin(), numbers.rend());
  next_ = numbers.empty() ? 1 : numbers.front() + 1;
  Position to = standing_->at;
  for (const std::uint64_t n : numbers) {
    Fd file(::openat(dir_.get(), name_of(n).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    const std::uint64_t size = file ? size_of(file.get()) : 0;
    auto reader = file ? SpoolReader::open(std::move(file)) : Result<SpoolReader>(damaged_epoch());
    if (reader && to.epoch != 0 && reader->head().to() == to) {
      links_.push_back({n, reader->head().from, to, reader->head().whole, size});
      to = reader->head().from;
    } else if (!reader || held == 0 || !links_.empty() || reader->head().begin.epoch != held || reader->head().from != to) {
      strangers.push_back(name_of(n));
    }
  }
  std::reverse(links_.begin(), links_.end());
  for (const std::string& name : strangers) (void)::unlinkat(dir_.get(), name.c_str(), 0);
}

void Spool::begin(const Begin& begin) {
  forget();
  Part part;
  {
    Lock l(mutex_);
    if (!aligned_) return;
    part.number = next_++;
    part.head = {true, standing_->at, begin};
    part.file = Fd(::openat(dir_.get(), name_of(part.number).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!part.file) aligned_ = false;   // its directory may have been removed: the next opening makes it anew
  }
  // A tree that no epoch made goes by ids of our own.
  {
    Lock l(mutex_);
    if (standing_->foreign && !begin.replace_all) part.lost = true;
  }
  if (!part.file) part.lost = true;
  part_ = std::move(part);
  if (!part_->lost && !put_head()) lose_part();
}

Status Spool::put(std::string_view payload) {
  if (int e = write_all(part_->file.get(), payload); e != 0) return fail_errno("cannot keep an epoch for the next mirror", {}, e);
  part_->bytes += payload.size();
  part_bytes_ = part_->bytes;
  return {};
}

Status Spool::put_head() { return put(head_of(part_->head)); }

void Spool::lose_part() {
  part_->lost = true;
  part_->touched.clear();
  part_->bytes = 0;
  part_bytes_ = 0;
  if (part_->file) (void)::ftruncate(part_->file.get(), 0);
}

void Spool::only_touched() {
  part_->head.whole = false;
  part_->pieces = part_->bytes = 0;
  part_bytes_ = 0;
  if (::ftruncate(part_->file.get(), 0) != 0 || ::lseek(part_->file.get(), 0, SEEK_SET) != 0 || !put_head()) lose_part();
}

void Spool::take(std::string_view records) {
  if (!part_ || part_->lost) return;
  bool forwardable = records.size() < kMostBlock;
  RecordReader reader(records);
  for (Record r; reader.next(&r);) {
    // What only this mirror has: what an interrupted run left here, and what lay here before the first epoch.
    if (r.type == RecordType::reuse) forwardable = false;
    if (r.type != RecordType::object) continue;
    if (r.object.basis.birth == kSyntheticBirth) forwardable = false;
    if (part_->touched.size() < kMostTouched || part_->touched.contains(r.object.id)) part_->touched.insert(r.object.id);
    else return lose_part();
  }
  if (!part_->head.whole) return;
  if (!forwardable) return only_touched();
  std::string payload;
  payload.reserve(records.size() + 1);
  ByteWriter w(payload);
  w.u8(kBatch);
  w.raw(records);
  if (!put(block_of(payload))) return only_touched();
  ++part_->pieces;
  make_room();
}

void Spool::seal() {
  make_room();
  if (!part_ || part_->lost) return;
  auto finish = [&]() -> Status {
    SOMFS_TRY(put(tail_of(part_->touched, part_->pieces)));
    if (::fdatasync(part_->file.get()) != 0) return fail_errno("cannot sync what is kept for the next mirror");
    return {};
  };
  Status done = finish();
  if (!done && part_->head.whole) {   // most likely there is no room: ids take little
    only_touched();
    done = part_->lost ? std::move(done) : finish();
  }
  if (!done) {
    log::warning("{}", done.error().line());
    return lose_part();
  }
  Lock l(mutex_);
  if (::fsync(dir_.get()) != 0) return lose_part();
  part_->sealed = true;
}

void Spool::committed(const Standing& now) {
  Lock l(mutex_);
  standing_ = now;
  ++changes_;
  news_.notify_all();
  if (!aligned_) return;
  if (part_ && part_->sealed && !part_->lost && part_->head.to() == now.at) {
    links_.push_back({part_->number, part_->head.from, now.at, part_->head.whole, part_->bytes});
  } else {
    cut(links_.size());
    if (part_) (void)::unlinkat(dir_.get(), name_of(part_->number).c_str(), 0);
  }
  part_.reset();
  part_bytes_ = 0;
  prune();
}

void Spool::forget() {
  if (!part_) return;
  Lock l(mutex_);
  if (dir_) (void)::unlinkat(dir_.get(), name_of(part_->number).c_str(), 0);
  part_.reset();
  part_bytes_ = 0;
}

void Spool::leave() {
  part_.reset();
  part_bytes_ = 0;
  Lock l(mutex_);
  aligned_ = false;
}

// ---- room

std::uint64_t Spool::limit() const {
  std::uint64_t used = part_bytes_;
  for (const Link& link : links_) used += link.bytes;
  struct statvfs v {};
  if (::fstatvfs(dir_.get(), &v) != 0) return bound_;
  return std::min<std::uint64_t>(bound_, (static_cast<std::uint64_t>(v.f_bavail) * v.f_frsize + used) / 2);
}

// The oldest go first: who is up to date has passed them.
void Spool::make_room() {
  bool too_much = false;
  {
    Lock l(mutex_);
    if (!aligned_) return;
    auto used = [&]() REQUIRES(mutex_) {
      std::uint64_t sum = part_bytes_;
      for (const Link& link : links_) sum += link.bytes;
      return sum;
    };
    const std::uint64_t most = limit();
    for (std::size_t i = 0; used() > most && i < links_.size();) {
      if (!links_[i].whole) {
        ++i;
        continue;
      }
      if (Status s = thin(i); !s) {
        log::warning("{}", s.error().line());
        cut(i + 1);
      }
      i = 0;
    }
    if (used() > most && part_ && !part_->head.whole) cut(links_.size());
    too_much = used() > most;
  }
  if (!too_much || !part_ || part_->lost) return;
  if (part_->head.whole) only_touched();
  else lose_part();
}

Status Spool::collect(const Link& link, std::unordered_set<ObjectId>* ids) const {
  Fd file(::openat(dir_.get(), name_of(link.number).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!file) return fail_errno("cannot open a spooled epoch");
  SOMFS_TRY_ASSIGN(SpoolReader reader, SpoolReader::open(std::move(file)));
  return reader.touched([&](const ObjectId& id) { ids->insert(id); });
}

// In place of its records only what it touched, together with what is before it where nobody stands between the two.
Status Spool::thin(std::size_t index) {
  Link& link = links_[index];
  std::unordered_set<ObjectId> ids;
  std::size_t first = index;
  SOMFS_TRY(collect(link, &ids));
  const bool between = index > 0 && std::any_of(readers_.begin(), readers_.end(), [&](const auto& r) { return r.second && *r.second == link.from; });
  if (index > 0 && !links_[index - 1].whole && !between) {
    SOMFS_TRY(collect(links_[index - 1], &ids));
    first = index - 1;
  }
  if (ids.size() > kMostTouched) return fail(Exit::temporary, "too much has changed to be kept for the next mirror");
  SpoolHead head;
  head.whole = false;
  head.from = links_[first].from;
  head.begin.epoch = link.to.epoch;
  head.begin.generation = link.to.generation;
  const std::string bytes = head_of(head) + tail_of(ids, 0);
  Fd file(::openat(dir_.get(), kThin, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return fail_errno("cannot keep what an epoch touched");
  if (int e = write_all(file.get(), bytes); e != 0) return fail_errno("cannot keep what an epoch touched", {}, e);
  if (::fdatasync(file.get()) != 0 || ::renameat(dir_.get(), kThin, dir_.get(), name_of(link.number).c_str()) != 0 || ::fsync(dir_.get()) != 0)
    return fail_errno("cannot keep what an epoch touched");
  link = {link.number, head.from, link.to, false, bytes.size()};
  if (first != index) {
    (void)::unlinkat(dir_.get(), name_of(links_[first].number).c_str(), 0);
    links_.erase(links_.begin() + static_cast<std::ptrdiff_t>(first));
  }
  return {};
}

void Spool::cut(std::size_t links) {
  for (std::size_t i = 0; i < links; ++i) (void)::unlinkat(dir_.get(), name_of(links_[i].number).c_str(), 0);
  links_.erase(links_.begin(), links_.begin() + static_cast<std::ptrdiff_t>(links));
}

void Spool::prune() {
  std::size_t needless = links_.size();
  for (const auto& [reader, at] : readers_) {
    if (!at) return;
    if (auto i = index_of(*at)) needless = std::min(needless, *i);
  }
  cut(needless);
}

// ---- forwards

std::optional<std::size_t> Spool::index_of(const Position& at) const {
  for (std::size_t i = 0; i < links_.size(); ++i)
    if (links_[i].from == at) return i;
  return std::nullopt;
}

std::optional<Standing> Spool::standing() const {
  Lock l(mutex_);
  return standing_;
}

std::uint64_t Spool::bytes() const {
  Lock l(mutex_);
  std::uint64_t sum = part_bytes_;
  for (const Link& link : links_) sum += link.bytes;
  return sum;
}

int Spool::enlist() {
  Lock l(mutex_);
  const int reader = readers_.empty() ? 0 : readers_.rbegin()->first + 1;
  readers_[reader] = std::nullopt;
  return reader;
}

void Spool::stands(int reader, const std::optional<Position>& at) {
  Lock l(mutex_);
  readers_[reader] = at;
  if (aligned_) prune();
}

std::optional<Spool::Link> Spool::after(const Position& at) const {
  Lock l(mutex_);
  const auto i = index_of(at);
  return i ? std::optional(links_[*i]) : std::nullopt;
}

bool Spool::whole_from(const Position& at) const {
  Lock l(mutex_);
  const auto i = index_of(at);
  return i && std::all_of(links_.begin() + static_cast<std::ptrdiff_t>(*i), links_.end(), [](const Link& link) { return link.whole; });
}

Result<SpoolReader> Spool::open(const Link& link) const {
  Fd file;
  {
    Lock l(mutex_);
    file = Fd(::openat(dir_.get(), name_of(link.number).c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  }
  if (!file) return fail_errno("cannot open a spooled epoch");
  SOMFS_TRY_ASSIGN(SpoolReader reader, SpoolReader::open(std::move(file)));
  if (reader.head().from != link.from || reader.head().to() != link.to || reader.head().whole != link.whole) return damaged_epoch();
  return reader;
}

bool Spool::touched(const Position& since, snapshot::DirtySet* out) const {
  std::vector<Link> links;
  {
    Lock l(mutex_);
    if (standing_ && standing_->at == since) return true;
    const auto i = index_of(since);
    if (!i) return false;
    links.assign(links_.begin() + static_cast<std::ptrdiff_t>(*i), links_.end());
  }
  for (const Link& link : links) {
    auto reader = open(link);
    if (!reader || !reader->touched([&](const ObjectId& id) { out->mark(id, nullptr); })) return false;
  }
  return !out->degraded() && !out->volume_whole();   // a set beyond its bounds names objects no more
}

void Spool::damaged(const Link& link) {
  Lock l(mutex_);
  for (std::size_t i = 0; i < links_.size(); ++i)
    if (links_[i].number == link.number && links_[i].whole == link.whole) return cut(i + 1);
}

void Spool::wait(std::uint64_t* seen, std::chrono::steady_clock::time_point until) const {
  Lock l(mutex_);
  while (changes_ == *seen && news_.wait_until(mutex_, until)) {}
  *seen = changes_;
}

void Spool::wake() {
  Lock l(mutex_);
  ++changes_;
  news_.notify_all();
}

}  // namespace somfs::replicator
