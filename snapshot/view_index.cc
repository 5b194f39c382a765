// SPDX-License-Identifier: Apache-2.0
#include "snapshot/view_index.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "common/printable.h"
#include "snapshot/store_impl.h"

namespace somfs::snapshot {

Result<std::unique_ptr<ViewIndex>> ViewIndex::open(int store_fd, const std::string& name) {
  auto index = std::unique_ptr<ViewIndex>(new ViewIndex());
  index->dir_ = Fd(::fcntl(store_fd, F_DUPFD_CLOEXEC, 0));
  if (!index->dir_) return fail_errno("cannot open", "the snapshot store");
  SOMFS_TRY_ASSIGN(index->head_, StoreHead::open_reader(store_fd));
  for (const std::string& n : names_in(store_fd)) {
    auto e = parse_dir_name(n);
    if (e && e->state == StoreEntry::State::live && e->name == name) index->self_ = *e;
  }
  if (index->self_.seq == 0) return fail(Exit::usage, "no such snapshot", printable(name));
  auto bytes = read_file(store_fd, dir_name(index->self_) + "/info", 4096);
  auto info = bytes ? decode_info(*bytes) : std::nullopt;
  if (!info) return fail(Exit::usage, "no such snapshot", printable(name), "its info cannot be read");
  index->info_ = std::move(*info);
  // The counter may stand anywhere: make sure that the first sync looks.
  index->synced_.store(~0ull);
  SOMFS_TRY(index->sync());
  return index;
}

// Whoever drops a snapshot makes room first and writes down the reason second: it is waited for, but for one that dies in between.
std::string ViewIndex::why_lost() const {
  for (int tries = 0; tries < 100 && head_.untold() != 0; ++tries) {
    const timespec tick{0, 10'000'000};
    ::nanosleep(&tick, nullptr);
  }
  if (auto bytes = read_file(dir_.get(), "dropped", 1u << 20))
    for (const DroppedSnapshot& d : decode_dropped(*bytes))
      if (d.name == info_.name && d.when_ns >= info_.created_ns) return d.reason;
  return "it was deleted";
}

Status ViewIndex::sync() {
  if (head_.changes() == synced_.load(std::memory_order_acquire)) return {};
  WriteLock l(mutex_);
  for (;;) {
    // What the counter counts is in the files already when it is read.
    std::uint64_t now = head_.changes();
    if (now == synced_.load()) return {};
    if (head_.structure() != structure_) SOMFS_TRY(rescan());
    if (lost_) {
      if (lost_why_.empty()) lost_why_ = why_lost();
      return fail(Exit::no_space, "the snapshot is gone", info_.name, lost_why_);
    }
    SOMFS_TRY(read_logs());
    if (head_.structure() == structure_) synced_.store(now, std::memory_order_release);
  }
}

Status ViewIndex::rescan() {
  // A removal renames while this looks: look until it stands still.
  for (;;) {
    std::uint64_t structure = head_.structure();
    std::vector<StoreEntry> found;
    for (const std::string& n : names_in(dir_.get()))
      if (auto e = parse_dir_name(n); e && e->state != StoreEntry::State::prepared) found.push_back(*e);
    std::sort(found.begin(), found.end(), [](const StoreEntry& a, const StoreEntry& b) { return a.seq < b.seq; });
    std::vector<std::shared_ptr<LogSource>> chain, all;
    bool self = false, complete = true;
    for (const StoreEntry& e : found) {
      std::shared_ptr<LogSource> source;
      for (const auto& s : all_)
        if (s->entry.seq == e.seq) source = s;
      if (!source) {
        source = std::make_shared<LogSource>();
        source->entry = e;
        Fd d(::openat(dir_.get(), dir_name(e).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
        source->kept = Fd(::openat(d.get(), "kept", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
        source->log = Fd(::openat(d.get(), "log", O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        source->data = Fd(::openat(d.get(), "data", O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        if (e.state != StoreEntry::State::gone && (!source->kept || !source->log || !source->data)) {
          if (d && errno != ENOENT) return fail_errno("cannot read the snapshot store's", dir_name(e));
          complete = false;
        }
      }
      all.push_back(source);
      if (e.state == StoreEntry::State::live && e.seq == self_.seq) self = e.name == self_.name;
      if (e.state != StoreEntry::State::gone && e.seq >= self_.seq) chain.push_back(source);
    }
    if (head_.structure() != structure) continue;
    // Nothing was renamed and still a directory is missing something: somebody else tampers with it.
    if (!complete && self) return fail(Exit::configuration, "cannot read the snapshot store", {}, "a snapshot is incomplete");
    structure_ = structure;
    lost_ = !self;
    chain_ = std::move(chain);
    all_ = std::move(all);
    ++version_;
    return {};
  }
}

Status ViewIndex::read_logs() {
  constexpr std::size_t piece = 1u << 20;
  std::string text;
  for (const auto& s : chain_) {
    text.clear();
    for (std::uint64_t at = s->read;;) {
      std::size_t had = text.size(), got = 0;
      text.resize(had + piece);
      if (int e = pread_all(s->log.get(), text.data() + had, piece, at, &got); e != 0)
        return fail_errno("cannot read the log of", dir_name(s->entry), e);
      text.resize(had + got);
      at += got;
      // A record that is being written right now looks torn: the counter will move when it is whole.
      LogParse p = parse_log(text, [&](LogRecord&& r) NO_THREAD_SAFETY_ANALYSIS { take(std::move(r), s); });
      text.erase(0, p.used);
      s->read += p.used;
      if (got < piece) break;
    }
  }
  return {};
}

void ViewIndex::take(LogRecord&& record, const std::shared_ptr<const LogSource>& from) {
  ++version_;
  empty_.store(false, std::memory_order_release);
  // The oldest snapshot's record counts; logs are read from old to new, and what a removal moves is equal.
  if (auto* n = std::get_if<NameRecord>(&record)) {
    if (n->child) lost_names_.insert(n->child);
    names_[n->parent].try_emplace(std::move(n->name), NamePre{n->child, n->kind, std::move(n->handle)});
  } else if (auto* a = std::get_if<AttrRecord>(&record)) {
    auto [at, added] = attrs_.try_emplace(a->object);
    if (added) at->second = std::make_shared<AttrPre>(AttrPre{a->attr, std::move(a->xattrs), std::move(a->unread)});
  } else if (auto* w = std::get_if<WholeRecord>(&record)) {
    data_[w->object].whole = true;
  } else if (auto* c = std::get_if<ChunkRecord>(&record)) {
    Data& d = data_[c->object];
    if (d.whole) return;
    std::uint64_t at = c->first, end = c->first + c->count();
    auto next = d.runs.upper_bound(at);
    if (next != d.runs.begin()) {
      auto before = std::prev(next);
      at = std::max(at, before->first + before->second.count);
    }
    while (at < end) {
      std::uint64_t upto = next == d.runs.end() ? end : std::min(end, next->first);
      if (at < upto) {
        std::uint64_t skip = (at - c->first) * kChunk;
        std::uint64_t bytes = std::min((upto - at) * kChunk, c->length - skip);
        d.runs.emplace(at, RunPre{upto - at, c->data_off + skip, bytes, c->hole, from});
      }
      if (next == d.runs.end()) break;
      at = std::max(at, next->first + next->second.count);
      ++next;
    }
  }
}

std::optional<NamePre> ViewIndex::name(const ObjectId& parent, const std::string& name) const {
  if (empty_.load(std::memory_order_acquire)) return std::nullopt;
  ReadLock l(mutex_);
  auto dir = names_.find(parent);
  if (dir == names_.end()) return std::nullopt;
  auto at = dir->second.find(name);
  if (at == dir->second.end()) return std::nullopt;
  return at->second;
}

std::map<std::string, NamePre> ViewIndex::names(const ObjectId& parent) const {
  ReadLock l(mutex_);
  auto dir = names_.find(parent);
  return dir == names_.end() ? std::map<std::string, NamePre>() : dir->second;
}

std::shared_ptr<const AttrPre> ViewIndex::attr(const ObjectId& object) const {
  if (empty_.load(std::memory_order_acquire)) return nullptr;
  ReadLock l(mutex_);
  auto at = attrs_.find(object);
  return at == attrs_.end() ? nullptr : at->second;
}

Runs ViewIndex::runs(const ObjectId& object, std::uint64_t first, std::uint64_t last) const {
  Runs out;
  if (empty_.load(std::memory_order_acquire)) return out;
  ReadLock l(mutex_);
  auto d = data_.find(object);
  if (d == data_.end()) return out;
  auto at = d->second.runs.upper_bound(first);
  if (at != d->second.runs.begin() && std::prev(at)->first + std::prev(at)->second.count > first) --at;
  for (; at != d->second.runs.end() && at->first <= last; ++at) out.insert(*at);
  return out;
}

bool ViewIndex::whole(const ObjectId& object) const {
  if (empty_.load(std::memory_order_acquire)) return false;
  ReadLock l(mutex_);
  auto d = data_.find(object);
  return d != data_.end() && d->second.whole;
}

std::uint64_t ViewIndex::version() const {
  ReadLock l(mutex_);
  return version_;
}

bool ViewIndex::lost_name(const ObjectId& object) const {
  ReadLock l(mutex_);
  return lost_names_.contains(object);
}

Fd ViewIndex::open_kept(const ObjectId& object, int flags) const {
  std::string name = kept_name(object);
  ReadLock l(mutex_);
  for (const auto& s : all_) {
    Fd fd(::openat(s->kept.get(), name.c_str(), flags | O_NOFOLLOW | O_CLOEXEC));
    if (fd || errno != ENOENT) return fd;
  }
  errno = ENOENT;
  return Fd();
}

Fd ViewIndex::open_whole(const ObjectId& object) const {
  std::string name = whole_name(object);
  ReadLock l(mutex_);
  for (const auto& s : chain_) {
    if (Fd fd(::openat(s->kept.get(), name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC)); fd) return fd;
    if (errno == ELOOP) {
      errno = EIO;  // lost; what a newer one has came later
      return Fd();
    }
  }
  errno = ENOENT;
  return Fd();
}

std::uint32_t ViewIndex::own_links(const ObjectId& object) const {
  std::string name = kept_name(object);
  std::uint32_t n = 0;
  ReadLock l(mutex_);
  for (const auto& s : all_)
    if (::faccessat(s->kept.get(), name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0) ++n;
  return n;
}

}  // namespace somfs::snapshot
