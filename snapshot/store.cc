// SPDX-License-Identifier: Apache-2.0
#include "snapshot/store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "common/printable.h"
#include "snapshot/store_impl.h"

namespace somfs::snapshot {

namespace {

std::uint64_t space_of(int fd) {
  struct stat st;
  return ::fstat(fd, &st) == 0 ? static_cast<std::uint64_t>(st.st_blocks) * 512 : 0;
}

// What a removal or a preparation that was interrupted left.
void erase_directory(int store_fd, const std::string& name) {
  Fd d(::openat(store_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (d) {
    Fd kept(::openat(d.get(), "kept", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (kept)
      for (const std::string& k : names_in(kept.get())) ::unlinkat(kept.get(), k.c_str(), 0);
    for (const char* f : {"data", "log", "info"}) ::unlinkat(d.get(), f, 0);
    ::unlinkat(d.get(), "kept", AT_REMOVEDIR);
  }
  ::unlinkat(store_fd, name.c_str(), AT_REMOVEDIR);
}

}  // namespace

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Store::~Store() {
  if (!impl_) return;
  impl_->settle();
  // A clean close: what was synced outlives a restart of the machine.
  if (::syncfs(impl_->dir.get()) == 0) (void)impl_->head.mark_synced();
}

Result<std::unique_ptr<Store>> Store::open(int dir_fd, int root_fd, const Uuid& boot, const Clock& clock, Options options) {
  auto impl = std::make_unique<Impl>(clock, std::move(options));
  impl->dir = Fd(::fcntl(dir_fd, F_DUPFD_CLOEXEC, 0));
  impl->root = Fd(::fcntl(root_fd, F_DUPFD_CLOEXEC, 0));
  if (!impl->dir || !impl->root) return fail_errno("cannot open", "the snapshot store");
  impl->handles = static_cast<bool>(open_handle(root_fd, handle_of(root_fd), O_PATH));
  SOMFS_TRY_ASSIGN(impl->head, StoreHead::open_writer(dir_fd));
  SOMFS_TRY(impl->load(boot));
  impl->settle();
  return std::unique_ptr<Store>(new Store(std::move(impl)));
}

Status Store::Impl::load(const Uuid& boot) {
  std::string reason;
  if (head.fresh()) reason = "the store's head was lost";
  else if (!head.synced() && head.boot() != boot) reason = "the machine restarted; pre-images were not synced";
  if (auto old = read_file(dir.get(), "dropped", 1u << 20)) {
    Lock l(mutex);
    dropped = decode_dropped(*old);
  }
  std::vector<StoreEntry> found, gone;
  for (const std::string& name : names_in(dir.get())) {
    auto e = parse_dir_name(name);
    if (!e) continue;
    if (e->state == StoreEntry::State::prepared) erase_directory(dir.get(), name);
    else (e->state == StoreEntry::State::gone ? gone : found).push_back(*e);
  }
  std::sort(found.begin(), found.end(), [](const StoreEntry& a, const StoreEntry& b) { return a.seq < b.seq; });
  std::vector<std::shared_ptr<Snap>> merging;
  {
    Lock l(mutex);
    for (const StoreEntry& e : found) {
      Seen unused;
      auto s = Snap::open(dir.get(), e, &unused);
      if (!s) {
        // Those before it read it as well.
        drop_every("a newer snapshot could not be read: " + s.error().line());
        auto broken = std::make_shared<Snap>();
        broken->entry = e;
        broken->info.name = e.name;
        broken->dir = Fd(::openat(dir.get(), dir_name(e).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
        broken->kept = Fd(::openat(broken->dir.get(), "kept", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
        drop(broken, s.error().line());
        continue;
      }
      for (const std::string& name : names_in((*s)->kept.get()))
        if (auto id = parse_kept_name(name)) {
          ++links[*id];
          link_count.fetch_add(1);
        }
      snaps.push_back(std::move(*s));
    }
    if (!reason.empty()) drop_every(reason);
    while (!snaps.empty() && snaps.front()->entry.state == StoreEntry::State::merging) forget(snaps.front());
    // Logs of merging snapshots behind the newest live one count as its own until they are merged.
    for (auto s = snaps.rbegin(); s != snaps.rend() && !target; ++s)
      if ((*s)->entry.state == StoreEntry::State::live) target = *s;
    if (target) {
      std::vector<std::shared_ptr<Snap>> parts;
      for (const auto& s : snaps)
        if (s->entry.seq >= target->entry.seq) parts.push_back(s);
      for (const auto& s : parts) {
        Seen one;
        SOMFS_TRY(s->for_each([&](LogRecord&& r) { one.add(r); }));
        seen.merge(one);
      }
    }
    for (const auto& s : snaps)
      if (s->entry.state == StoreEntry::State::merging) merging.push_back(s);
    wanted.store(target != nullptr);
    head.bump_structure();
  }
  SOMFS_TRY(head.begin(boot));
  // Links of directories that are gone still count in the numbers of links: each goes as in a removal.
  for (const StoreEntry& e : gone) {
    Snap s;
    s.entry = e;
    s.dir = Fd(::openat(dir.get(), dir_name(e).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    s.kept = Fd(::openat(s.dir.get(), "kept", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    {
      Lock l(mutex);
      for (const std::string& name : names_in(s.kept.get()))
        if (auto id = parse_kept_name(name)) {
          ++links[*id];
          link_count.fetch_add(1);
        }
    }
    erase(s);
  }
  for (const auto& from : merging) {
    std::shared_ptr<Snap> into;
    {
      Lock l(mutex);
      for (const auto& s : snaps)
        if (s->entry.state == StoreEntry::State::live && s->entry.seq < from->entry.seq) into = s;
    }
    if (!into || from->gone) continue;
    Seen have;
    SOMFS_TRY(into->for_each([&](LogRecord&& r) { have.add(r); }));
    Status merged = merge(from, into, have);
    Lock l(mutex);
    if (!merged)
      while (!into->gone && !snaps.empty()) drop(snaps.front(), merged.error().line());
    if (!from->gone) forget(from);
  }
  return {};
}

Status Store::prepare(const SnapshotInfo& info) {
  if (!valid_snapshot_name(info.name))
    return fail(Exit::usage, "not a name for a snapshot", printable(info.name), {},
                "use up to 64 of A-Z a-z 0-9 . _ : -, the first not a dot");
  if (info.consistency.size() > 64) return fail(Exit::usage, "not a consistency", printable(info.consistency));
  impl_->settle();
  Lock a(impl_->admin);
  {
    Lock l(impl_->mutex);
    bool taken = impl_->prepared.contains(info.name);
    for (const auto& s : impl_->snaps)
      taken = taken || (s->entry.state == StoreEntry::State::live && s->info.name == info.name);
    if (taken) return fail(Exit::usage, "a snapshot of that name exists", info.name, {}, "choose another name or delete it first");
  }
  auto s = Snap::create(impl_->dir.get(), info);
  if (!s) {
    erase_directory(impl_->dir.get(), dir_name({StoreEntry::State::prepared, 0, info.name}));
    return pass_on(std::move(s).error());
  }
  Lock l(impl_->mutex);
  impl_->prepared[info.name] = std::move(*s);
  return {};
}

Status Store::take(const std::string& name, std::uint64_t epoch) noexcept {
  Lock l(impl_->mutex);
  auto at = impl_->prepared.find(name);
  if (at == impl_->prepared.end()) return fail(Exit::usage, "snapshot was not prepared", printable(name));
  std::shared_ptr<Snap> s = at->second;
  s->info.epoch = epoch;
  if (s->info.created_ns == 0) s->info.created_ns = impl_->clock.wall_ns();
  if (int e = pwrite_all(s->info_file.get(), encode_info(s->info), 0); e != 0)
    return fail_errno("cannot take snapshot", name, e);
  StoreEntry live{StoreEntry::State::live, impl_->head.next_seq(), name};
  if (::renameat(impl_->dir.get(), dir_name(s->entry).c_str(), impl_->dir.get(), dir_name(live).c_str()) != 0)
    return fail_errno("cannot take snapshot", name);
  s->entry = live;
  impl_->prepared.erase(at);
  impl_->snaps.push_back(s);
  impl_->target = s;
  impl_->retired.push_back(std::move(impl_->seen));
  impl_->seen = {};
  impl_->wanted.store(true);
  impl_->head.bump_structure();
  return {};
}

void Store::cancel(const std::string& name) noexcept {
  bool prepared = false;
  {
    Lock a(impl_->admin);
    {
      Lock l(impl_->mutex);
      prepared = impl_->prepared.erase(name) != 0;
    }
    if (prepared) erase_directory(impl_->dir.get(), dir_name({StoreEntry::State::prepared, 0, name}));
  }
  if (!prepared) (void)remove(name);   // taken, and then the cut turned out not to hold: what it kept serves the older ones
}

void Store::set_consistency(const std::string& name, const std::string& consistency) {
  Lock l(impl_->mutex);
  for (const auto& s : impl_->snaps) {
    // Once: the record only ever grows, so that what is in the file is whole whenever somfs is killed.
    if (s->entry.state != StoreEntry::State::live || s->info.name != name || !s->info.consistency.empty()) continue;
    s->info.consistency = consistency;
    (void)pwrite_all(s->info_file.get(), encode_info(s->info), 0);
  }
}

std::vector<SnapshotInfo> Store::list() const {
  std::vector<SnapshotInfo> out;
  Lock l(impl_->mutex);
  for (const auto& s : impl_->snaps) {
    if (s->entry.state != StoreEntry::State::live) continue;
    out.push_back(s->info);
    out.back().store_bytes = space_of(s->log.get()) + space_of(s->data.get()) + s->kept_bytes;
  }
  return out;
}

std::optional<SnapshotInfo> Store::find(const std::string& name) const {
  for (SnapshotInfo& s : list())
    if (s.name == name) return std::move(s);
  return std::nullopt;
}

std::vector<DroppedSnapshot> Store::dropped() const {
  Lock l(impl_->mutex);
  return impl_->dropped;
}

}  // namespace somfs::snapshot
