// SPDX-License-Identifier: Apache-2.0
// Dropping and removing snapshots. A removed snapshot's directory is renamed to N.merge (its name is free, older snapshots still
// read it), what the next older one lacks is copied there, then it is renamed to gone-N and unlinked. Each step can be
// interrupted: the next open() goes on with it. A dropped one is renamed to gone-N at once.
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "common/printable.h"
#include "snapshot/store_impl.h"

namespace somfs::snapshot {

void Store::Impl::forget(std::shared_ptr<Snap> snap) {
  StoreEntry gone{StoreEntry::State::gone, snap->entry.seq, {}};
  if (::renameat(dir.get(), dir_name(snap->entry).c_str(), dir.get(), dir_name(gone).c_str()) == 0) snap->entry = gone;
  snap->gone.store(true);
  std::erase(snaps, snap);
  if (target == snap) {
    retired.push_back(std::move(seen));
    seen = {};
    target.reset();
    wanted.store(false);
  }
  to_erase.push_back(snap);
  head.bump_structure();
}

void Store::Impl::drop(std::shared_ptr<Snap> snap, const std::string& reason) {
  if (snap->entry.state == StoreEntry::State::live) {
    DroppedSnapshot d{snap->info.name, reason, clock.wall_ns()};
    dropped.insert(dropped.begin(), d);
    if (dropped.size() > kMostDropped) dropped.pop_back();
    to_tell.push_back(std::move(d));
    head.add_untold();
  }
  forget(snap);
}

void Store::Impl::drop_oldest(const std::string& reason) {
  if (!snaps.empty()) drop(snaps.front(), reason);
  // A merging one without an older one has nobody left to merge into.
  while (!snaps.empty() && snaps.front()->entry.state == StoreEntry::State::merging) forget(snaps.front());
}

void Store::Impl::drop_every(const std::string& reason) {
  while (!snaps.empty()) drop(snaps.front(), reason);
}

bool Store::Impl::recover(int error) {
  {
    Lock l(mutex);
    bool space = error == ENOSPC || error == EDQUOT;
    std::string reason = space             ? std::string("no space was left for what is being overwritten")
                         : error == ENOMEM ? fmt::format("the index of what changed since the newest snapshot reached its bound of {} KiB (index_memory)",
                                                       options.index_bytes >> 10)
                                           : fmt::format("a pre-image could not be kept: {}", std::strerror(error));
    // Older snapshots fall through to the newest: what that lacks, all of them lack.
    if (space && snaps.size() > 1) drop_oldest(reason);
    else drop_every(reason);
  }
  settle();
  return wanted.load();
}

void Store::Impl::store_dropped() {
  std::string bytes;
  {
    Lock l(mutex);
    bytes = encode_dropped(dropped);
  }
  // Without it a reader cannot tell the reason; nothing else depends on it.
  (void)replace_file(dir.get(), "dropped", bytes);
}

void Store::Impl::erase_kept(Snap& snap) {
  for (const std::string& name : names_in(snap.kept.get())) {
    auto id = parse_kept_name(name);
    int failed = 0;
    {
      Lock l(mutex);
      if (id && target) {
        // The object may live on under other names: views must not see its number of links change.
        Fd fd(::openat(snap.kept.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
        auto inode = fd ? inode_of(fd.get()) : Result<Inode>(fail_errno("cannot open", name));
        if (inode && inode->attr.nlink > 1) failed = preserve_attr(*id, fd.get());
      }
      if (failed == 0 && ::unlinkat(snap.kept.get(), name.c_str(), 0) == 0 && id) {
        // Those of a snapshot that could not be read were never counted.
        if (auto own = links.find(*id); own != links.end()) {
          if (--own->second == 0) links.erase(own);
          link_count.fetch_sub(1, std::memory_order_relaxed);
        }
      }
      if (failed != 0) drop_every(fmt::format("a pre-image could not be kept: {}", std::strerror(failed)));
    }
    if (failed != 0) return erase_kept(snap);  // none is left that needs one: this time it succeeds
  }
}

void Store::Impl::erase(Snap& snap) {
  for (const char* name : {"data", "log", "info"}) ::unlinkat(snap.dir.get(), name, 0);
  step();
  erase_kept(snap);
  ::unlinkat(snap.dir.get(), "kept", AT_REMOVEDIR);
  ::unlinkat(dir.get(), dir_name(snap.entry).c_str(), AT_REMOVEDIR);
}

void Store::Impl::settle() noexcept {
  for (;;) {
    std::vector<std::shared_ptr<Snap>> gone;
    std::vector<DroppedSnapshot> tell;
    std::vector<Seen> unused;
    {
      Lock l(mutex);
      gone.swap(to_erase);
      tell.swap(to_tell);
      unused.swap(retired);
      if (!gone.empty()) ++erasing;
    }
    if (gone.empty() && tell.empty()) return;
    if (!tell.empty()) store_dropped();
    for (const auto& snap : gone) erase(*snap);
    if (!gone.empty()) {
      gone.clear();   // its descriptors: only then the room is there, which who waits for this is about to use
      Lock l(mutex);
      --erasing;
      erased.notify_all();
    }
    if (!tell.empty()) store_dropped();  // again: there may have been no room before
    head.told(tell.size());
    if (options.on_drop)
      for (const DroppedSnapshot& d : tell) options.on_drop(d);
  }
}

std::uint64_t Store::Impl::free_bytes() const {
  struct statvfs s;
  return ::fstatvfs(dir.get(), &s) == 0 ? static_cast<std::uint64_t>(s.f_bavail) * s.f_frsize : ~0ull;
}

int Store::Impl::merge_chunks(Snap& from, Snap& into, const Seen& have, const ChunkRecord& r) {
  const Seen::Object* there = have.find(r.object);
  if (there != nullptr && there->whole) return 0;
  const std::uint64_t end = r.first + r.count();
  for (std::uint64_t at = r.first; at < end;) {
    const std::uint64_t missing = there == nullptr ? at : there->next(at, end, false);
    if (missing == end) return 0;
    const std::uint64_t most = r.hole ? end : std::min(end, missing + 16);
    const std::uint64_t i = missing - r.first, n = (there == nullptr ? most : there->next(missing, most, true)) - missing;
    ChunkRecord moved{r.object, r.first + i, std::min(n * kChunk, r.length - i * kChunk), 0, r.hole};
    if (!r.hole) {
      moved.data_off = into.data_end.fetch_add(n * kChunk);
      std::string buffer(moved.length, '\0');
      std::size_t got = 0;
      if (int e = pread_all(from.data.get(), buffer.data(), buffer.size(), r.data_off + i * kChunk, &got); e != 0) return e;
      if (got != buffer.size()) return EIO;
      if (int e = pwrite_all(into.data.get(), buffer, moved.data_off); e != 0) return e;
    }
    Lock l(mutex);
    if (into.gone) return ESTALE;
    if (int e = append(into, moved); e != 0) return e;
    at = missing + n;
  }
  return 0;
}

int Store::Impl::merge_record(Snap& from, Snap& into, const Seen& have, LogRecord&& record) {
  if (auto* c = std::get_if<ChunkRecord>(&record)) return merge_chunks(from, into, have, *c);
  if (auto* n = std::get_if<NameRecord>(&record); n != nullptr && have.name(n->parent, n->name)) return 0;
  if (auto* a = std::get_if<AttrRecord>(&record); a != nullptr && have.attr(a->object)) return 0;
  if (auto* w = std::get_if<WholeRecord>(&record)) {
    const Seen::Object* there = have.find(w->object);
    if (there != nullptr && there->whole) return 0;
    std::string name = whole_name(w->object);
    if (::linkat(from.kept.get(), name.c_str(), into.kept.get(), name.c_str(), 0) != 0 && errno != EEXIST) return errno;
  }
  Lock l(mutex);
  return into.gone ? ESTALE : append(into, record);
}

int Store::Impl::merge_kept(Snap& from, Snap& into) {
  for (const std::string& name : names_in(from.kept.get())) {
    auto id = parse_kept_name(name);
    if (!id) continue;
    Lock l(mutex);
    if (into.gone || !target) return ESTALE;
    Fd fd(::openat(from.kept.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return errno;
    auto inode = inode_of(fd.get());
    if (!inode) return inode.error().sys;
    if (int e = preserve_attr(*id, fd.get()); e != 0) return e;
    if (::linkat(from.kept.get(), name.c_str(), into.kept.get(), name.c_str(), 0) != 0) {
      if (errno == EEXIST) continue;
      return errno;
    }
    if (inode->attr.nlink <= links[*id]) into.kept_bytes += inode->attr.size;
    ++links[*id];
    link_count.fetch_add(1, std::memory_order_relaxed);
  }
  return 0;
}

Status Store::Impl::merge(const std::shared_ptr<Snap>& from, const std::shared_ptr<Snap>& into, const Seen& have) {
  int error = 0;
  SOMFS_TRY(from->for_each([&](LogRecord&& record) {
    if (error != 0) return;
    error = merge_record(*from, *into, have, std::move(record));
    step();
  }));
  if (error == 0) error = merge_kept(*from, *into);
  // Gone meanwhile, for want of room: nobody needs the rest.
  if (error == ESTALE) return {};
  if (error != 0) return fail_errno("cannot move pre-images to", into->info.name, error);
  return {};
}

Status Store::Impl::remove(const std::string& name) {
  std::shared_ptr<Snap> from, into;
  auto find_both = [&]() REQUIRES(mutex) {
    from.reset();
    into.reset();
    for (const auto& s : snaps) {
      if (s->entry.state != StoreEntry::State::live) continue;
      if (s->info.name == name) {
        from = s;
        return;
      }
      into = s;
    }
  };
  {
    Lock l(mutex);
    find_both();
  }
  if (!from) return fail(Exit::usage, "no such snapshot", printable(name));
  Seen have;
  if (into) SOMFS_TRY(into->for_each([&](LogRecord&& r) { have.add(r); }));
  {
    Lock l(mutex);
    if (from->gone) return {};
    if (!into || into->gone) {
      forget(from);
    } else {
      StoreEntry merging{StoreEntry::State::merging, from->entry.seq, {}};
      if (::renameat(dir.get(), dir_name(from->entry).c_str(), dir.get(), dir_name(merging).c_str()) != 0)
        return fail_errno("cannot remove snapshot", printable(name));
      from->entry = merging;
      if (target == from) {
        // From now on pre-images go to the older one, unless either has them.
        Seen both = have;
        both.merge(seen);
        retired.push_back(std::move(seen));
        seen = std::move(both);
        target = into;
      }
      head.bump_structure();
    }
  }
  step();
  if (into && !from->gone) {
    Status merged = merge(from, into, have);
    step();
    Lock l(mutex);
    if (!merged) {
      // The older ones are incomplete without it.
      while (!into->gone && !snaps.empty()) drop(snaps.front(), merged.error().line());
    }
    if (!from->gone) forget(from);
  }
  step();
  return {};
}

Status Store::remove(const std::string& name) {
  Status s;
  {
    Lock a(impl_->admin);
    s = impl_->remove(name);
  }
  impl_->settle();
  return s;
}

void Store::drop_all(const std::string& reason) {
  {
    Lock l(impl_->mutex);
    impl_->drop_every(reason);
  }
  impl_->settle();
}

void Store::keep_reserve() noexcept {
  const std::uint64_t reserve = impl_->options.reserve_bytes;
  while (wanted() && impl_->free_bytes() < reserve + (reserve != 0 ? impl_->margin() : 0)) {
    {
      Lock l(impl_->mutex);
      impl_->drop_oldest(fmt::format("free space came near the reserve of {} MiB", reserve >> 20));
    }
    impl_->settle();
  }
}

bool Store::make_room() noexcept {
  {
    Lock l(impl_->mutex);
    if (impl_->snaps.empty()) {
      while (impl_->erasing != 0) impl_->erased.wait(impl_->mutex);
      return false;
    }
    impl_->drop_oldest("the disk was full, and an application needed the room");
  }
  impl_->settle();
  return true;
}

void Store::expire() noexcept {
  std::vector<std::string> due;
  for (const SnapshotInfo& s : list())
    if (s.expires_ns != 0 && s.expires_ns <= impl_->clock.wall_ns()) due.push_back(s.name);
  for (const std::string& name : due) (void)remove(name);
}

}  // namespace somfs::snapshot
