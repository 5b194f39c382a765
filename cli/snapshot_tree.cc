// SPDX-License-Identifier: Apache-2.0
#include "cli/snapshot_tree.h"

#include <algorithm>
#include <list>
#include <map>
#include <set>
#include <unordered_map>

#include "common/fd.h"
#include "common/sync.h"
#include "snapshot/view.h"

namespace somfs::cli {
namespace {

using snapshot::View;
using snapshot::ViewEntry;
using snapshot::ViewFile;
using NodeId = fs::VirtualTree::NodeId;

constexpr NodeId kRoot = 1;        // .somfs
constexpr NodeId kSnapshots = 2;   // .somfs/snapshots

constexpr std::size_t kViews = 4;   // kept open: each has descriptors of every later snapshot

// What is made anew under a removed snapshot's name is another one.
struct Which {
  std::string name;
  std::uint64_t epoch = 0;
};

// A snapshot's view while it is used, and a little longer.
struct Shown {
  std::shared_ptr<const Which> which;
  std::unique_ptr<View> view;
};

// An object of a view that the kernel knows. Reached again by its path of entries: that works with and without file handles,
// and no descriptor is kept for a node nobody uses.
struct Node {
  NodeId id = 0, parent = 0;
  std::uint64_t count = 0;         // lookups not yet forgotten, plus one for each child node that names it as its parent
  std::shared_ptr<const Which> which;
  ViewEntry entry;                 // the snapshot's root: no name
};

int errno_of(const Error& e) { return e.sys != 0 ? e.sys : ESTALE; }

void fill(const Attr& a, std::uint64_t ino, struct stat* st) {
  *st = {};
  st->st_ino = ino;
  st->st_mode = mode_of_kind(a.kind) | a.mode;
  st->st_nlink = a.nlink;
  st->st_uid = a.uid;
  st->st_gid = a.gid;
  st->st_rdev = a.rdev;
  st->st_size = static_cast<off_t>(a.size);
  st->st_blksize = 65536;
  st->st_blocks = static_cast<blkcnt_t>((a.size + 511) / 512);
  st->st_mtim = {a.mtime.sec, static_cast<long>(a.mtime.nsec)};
  st->st_ctim = {a.ctime.sec, static_cast<long>(a.ctime.nsec)};
  st->st_atim = st->st_mtim;
}

}  // namespace

struct SnapshotTree::Impl {
  int root_fd, store_fd;
  std::function<std::vector<snapshot::SnapshotInfo>()> snapshots;
  Mutex mutex;
  NodeId next GUARDED_BY(mutex) = 16;
  std::unordered_map<NodeId, Node> nodes GUARDED_BY(mutex);
  std::map<std::pair<NodeId, std::string>, NodeId> by_name GUARDED_BY(mutex);
  std::list<std::shared_ptr<Shown>> views GUARDED_BY(mutex);   // the last used first
  std::uint64_t next_handle GUARDED_BY(mutex) = 1;
  struct Open {
    std::shared_ptr<Shown> shown;   // keeps the view; declared before what was opened in it
    ViewFile file;
    Mutex one;                      // a ViewFile serves one thread at a time
  };
  std::unordered_map<std::uint64_t, std::shared_ptr<Open>> opens GUARDED_BY(mutex);

  // The entries from the snapshot's root down to `id`, and the view.
  std::shared_ptr<const Which> chain(NodeId id, std::vector<ViewEntry>* entries) EXCLUDES(mutex) {
    Lock lock(mutex);
    std::shared_ptr<const Which> which;
    for (NodeId at = id; at != kSnapshots;) {
      auto n = nodes.find(at);
      if (n == nodes.end()) return nullptr;
      which = n->second.which;
      if (!n->second.entry.name.empty()) entries->push_back(n->second.entry);
      at = n->second.parent;
    }
    return which;
  }

  // The latest snapshot of that name, or one certain one.
  Result<std::shared_ptr<Shown>> show(const std::string& name, const Which* certain) EXCLUDES(mutex) {
    std::shared_ptr<Shown> last;   // destroyed after the lock
    {
      Lock lock(mutex);
      for (auto v = views.begin(); certain != nullptr && v != views.end(); ++v)
        if ((*v)->which->name == name && (*v)->which->epoch == certain->epoch) {
          views.splice(views.begin(), views, v);
          return views.front();
        }
    }
    SOMFS_TRY_ASSIGN(auto view, View::open(root_fd, store_fd, name));
    if (certain != nullptr && view->epoch() != certain->epoch) return fail_errno("stale node", {}, ESTALE);
    auto shown = std::make_shared<Shown>();
    shown->which = std::make_shared<Which>(Which{name, view->epoch()});
    shown->view = std::move(view);
    Lock lock(mutex);
    for (auto v = views.begin(); v != views.end(); ++v)
      if ((*v)->which->name == name && (*v)->which->epoch == shown->which->epoch) return *v;
    views.push_front(shown);
    if (views.size() > kViews) {
      last = std::move(views.back());
      views.pop_back();
    }
    return shown;
  }

  Result<ViewFile> open_node(NodeId id, std::shared_ptr<Shown>* shown) {
    std::vector<ViewEntry> entries;
    const auto which = chain(id, &entries);
    if (!which) return fail_errno("stale node", {}, ESTALE);
    SOMFS_TRY_ASSIGN(*shown, show(which->name, which.get()));
    if (entries.empty()) return (*shown)->view->root();
    if ((*shown)->view->has_handles()) {
      auto f = (*shown)->view->open(entries.front().ref);
      if (!f) return pass_on(std::move(f).error());
      if (*f) return std::move(**f);
    }
    auto dir = (*shown)->view->root();
    if (!dir) return dir;
    for (auto e = entries.rbegin(); e != entries.rend(); ++e) {
      auto inner = (*shown)->view->open_in(*dir, *e);
      if (!inner) return inner;
      dir = std::move(inner);
    }
    return dir;
  }

  NodeId node_for(NodeId parent, const std::string& name, const std::shared_ptr<Shown>& shown, const ViewEntry& entry) EXCLUDES(mutex) {
    Lock lock(mutex);
    auto [at, fresh] = by_name.try_emplace({parent, name}, next);
    // A snapshot deleted and made again under its name is another one, though the kernel may still know nodes of the first.
    if (!fresh && nodes[at->second].which->epoch != shown->which->epoch) {
      at->second = next;
      fresh = true;
    }
    if (fresh) {
      nodes[next] = Node{next, parent, 0, shown->which, entry};
      if (auto p = nodes.find(parent); p != nodes.end()) ++p->second.count;
      ++next;
    }
    ++nodes[at->second].count;
    return at->second;
  }

  void release(NodeId id, std::uint64_t count) REQUIRES(mutex) {
    while (id >= 16) {
      auto n = nodes.find(id);
      if (n == nodes.end()) return;
      n->second.count -= std::min(count, n->second.count);
      if (n->second.count != 0) return;
      NodeId parent = n->second.parent;
      auto named = by_name.find({parent, n->second.entry.name.empty() ? n->second.which->name : n->second.entry.name});
      if (named != by_name.end() && named->second == id) by_name.erase(named);
      nodes.erase(n);
      id = parent;
      count = 1;
    }
  }

  void virtual_dir(NodeId id, struct stat* st) const {
    *st = {};
    st->st_ino = id == kRoot ? 0x7ffffffffffffff0ull : 0x7ffffffffffffff1ull;
    st->st_mode = S_IFDIR | 0555;
    st->st_nlink = 2;
    st->st_blksize = 4096;
  }
};

SnapshotTree::SnapshotTree(int root_fd, int store_fd, std::function<std::vector<snapshot::SnapshotInfo>()> list)
    : impl_(new Impl{root_fd, store_fd, std::move(list), {}, 16, {}, {}, {}, 1, {}}) {}
SnapshotTree::~SnapshotTree() = default;

void SnapshotTree::let_go_of_removed() {
  std::list<std::shared_ptr<Shown>> gone;   // destroyed after the lock
  {
    Lock lock(impl_->mutex);
    if (impl_->views.empty()) return;
  }
  std::set<std::uint64_t> there;
  for (const auto& s : impl_->snapshots()) there.insert(s.epoch);
  Lock lock(impl_->mutex);
  for (auto v = impl_->views.begin(); v != impl_->views.end();) {
    const auto at = v++;
    if (there.count((*at)->which->epoch) == 0) gone.splice(gone.end(), impl_->views, at);
  }
}

fs::VirtualTree::NodeId SnapshotTree::root() { return kRoot; }

int SnapshotTree::lookup(NodeId dir, std::string_view name, NodeId* id, struct stat* attr) {
  std::string text(name);
  if (dir == kRoot) {
    if (text != "snapshots") return ENOENT;
    *id = kSnapshots;
    impl_->virtual_dir(kSnapshots, attr);
    return 0;
  }
  if (dir == kSnapshots) {
    bool known = false;
    for (const auto& s : impl_->snapshots()) known = known || s.name == text;
    if (!known) return ENOENT;
    auto looked_at = impl_->show(text, nullptr);
    if (!looked_at) return errno_of(looked_at.error());
    const std::shared_ptr<Shown> shown = std::move(*looked_at);
    auto top = shown->view->root();
    if (!top) return errno_of(top.error());
    fill(top->attr(), top->ref().id.ino, attr);
    *id = impl_->node_for(kSnapshots, text, shown, ViewEntry{"", top->ref()});
    return 0;
  }
  std::shared_ptr<Shown> shown;
  auto d = impl_->open_node(dir, &shown);
  if (!d) return errno_of(d.error());
  auto ref = shown->view->lookup(*d, text);
  if (!ref) return errno_of(ref.error());
  if (!*ref) return ENOENT;
  ViewEntry entry{text, **ref};
  auto f = shown->view->open_in(*d, entry);
  if (!f) return errno_of(f.error());
  fill(f->attr(), entry.ref.id.ino, attr);
  *id = impl_->node_for(dir, text, shown, entry);
  return 0;
}

void SnapshotTree::forget(NodeId id, std::uint64_t count) {
  Lock lock(impl_->mutex);
  impl_->release(id, count);
}

int SnapshotTree::getattr(NodeId id, struct stat* attr) {
  if (id == kRoot || id == kSnapshots) {
    impl_->virtual_dir(id, attr);
    return 0;
  }
  std::shared_ptr<Shown> shown;
  auto f = impl_->open_node(id, &shown);
  if (!f) return errno_of(f.error());
  fill(f->attr(), f->ref().id.ino, attr);
  return 0;
}

int SnapshotTree::list(NodeId dir, std::vector<Entry>* entries) {
  if (dir == kRoot) {
    entries->push_back({"snapshots", 0x7ffffffffffffff1ull, S_IFDIR});
    return 0;
  }
  if (dir == kSnapshots) {
    for (const auto& s : impl_->snapshots()) entries->push_back({s.name, s.epoch, S_IFDIR});
    return 0;
  }
  std::shared_ptr<Shown> shown;
  auto d = impl_->open_node(dir, &shown);
  if (!d) return errno_of(d.error());
  auto all = shown->view->list(*d);
  if (!all) return errno_of(all.error());
  for (auto& e : *all) entries->push_back({std::move(e.name), e.ref.id.ino, mode_of_kind(e.ref.kind)});
  return 0;
}

int SnapshotTree::open(NodeId id, std::uint64_t* handle) {
  std::shared_ptr<Shown> shown;
  auto f = impl_->open_node(id, &shown);
  if (!f) return errno_of(f.error());
  std::shared_ptr<Impl::Open> open(new Impl::Open{std::move(shown), std::move(*f), {}});
  Lock lock(impl_->mutex);
  *handle = impl_->next_handle++;
  impl_->opens[*handle] = std::move(open);
  return 0;
}

void SnapshotTree::close(std::uint64_t handle) {
  std::shared_ptr<Impl::Open> last;   // destroyed after the lock
  Lock lock(impl_->mutex);
  auto o = impl_->opens.find(handle);
  if (o == impl_->opens.end()) return;
  last = std::move(o->second);
  impl_->opens.erase(o);
}

int SnapshotTree::read(std::uint64_t handle, void* buf, std::size_t n, std::uint64_t off, std::size_t* got) {
  std::shared_ptr<Impl::Open> open;
  {
    Lock lock(impl_->mutex);
    auto o = impl_->opens.find(handle);
    if (o == impl_->opens.end()) return EBADF;
    open = o->second;
  }
  Lock lock(open->one);
  auto r = open->file.read(buf, n, off);
  if (!r) return errno_of(r.error());
  *got = *r;
  return 0;
}

int SnapshotTree::readlink(NodeId id, std::string* target) {
  std::shared_ptr<Shown> shown;
  auto f = impl_->open_node(id, &shown);
  if (!f) return errno_of(f.error());
  auto t = f->link_target();
  if (!t) return errno_of(t.error());
  *target = std::move(*t);
  return 0;
}

int SnapshotTree::getxattr(NodeId id, std::string_view name, std::string* value) {
  if (id < 16) return ENODATA;
  std::shared_ptr<Shown> shown;
  auto f = impl_->open_node(id, &shown);
  if (!f) return errno_of(f.error());
  std::vector<std::string> unread;
  auto all = f->xattrs(&unread);
  if (!all) return errno_of(all.error());
  if (std::find(unread.begin(), unread.end(), name) != unread.end()) return EACCES;
  for (auto& [key, v] : *all)
    if (key == name) {
      *value = std::move(v);
      return 0;
    }
  return ENODATA;
}

int SnapshotTree::listxattr(NodeId id, std::string* names) {
  names->clear();
  if (id < 16) return 0;
  std::shared_ptr<Shown> shown;
  auto f = impl_->open_node(id, &shown);
  if (!f) return errno_of(f.error());
  std::vector<std::string> keys;
  auto all = f->xattrs(&keys);
  if (!all) return errno_of(all.error());
  for (auto& [key, v] : *all) keys.push_back(std::move(key));
  for (const std::string& key : keys) {
    *names += key;
    *names += '\0';
  }
  return 0;
}

}  // namespace somfs::cli
