// SPDX-License-Identifier: Apache-2.0
#include "fs/node.h"

#include <fcntl.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace somfs::fs {

int look(int dirfd, const char* name, Look* out) {
  struct statx s;
  int flags = AT_SYMLINK_NOFOLLOW | AT_STATX_SYNC_AS_STAT | AT_NO_AUTOMOUNT | (*name == '\0' ? AT_EMPTY_PATH : 0);
  if (::statx(dirfd, name, flags, STATX_BASIC_STATS | STATX_BTIME, &s) != 0) return errno;
  out->id.ino = s.stx_ino;
  out->id.birth = (s.stx_mask & STATX_BTIME) != 0
                      ? static_cast<std::uint64_t>(s.stx_btime.tv_sec) * 1000000000ull + s.stx_btime.tv_nsec
                      : 0;
  struct stat& st = out->st;
  st = {};
  st.st_dev = makedev(s.stx_dev_major, s.stx_dev_minor);
  st.st_ino = s.stx_ino;
  st.st_mode = s.stx_mode;
  st.st_nlink = s.stx_nlink;
  st.st_uid = s.stx_uid;
  st.st_gid = s.stx_gid;
  st.st_rdev = makedev(s.stx_rdev_major, s.stx_rdev_minor);
  st.st_size = static_cast<off_t>(s.stx_size);
  st.st_blksize = static_cast<blksize_t>(s.stx_blksize);
  st.st_blocks = static_cast<blkcnt_t>(s.stx_blocks);
  st.st_atim = {s.stx_atime.tv_sec, s.stx_atime.tv_nsec};
  st.st_mtim = {s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec};
  st.st_ctim = {s.stx_ctime.tv_sec, s.stx_ctime.tv_nsec};
  return 0;
}

namespace {

Handle handle_at(int dirfd, const char* name) {
  if (*name == '\0') return handle_of(dirfd);
  alignas(file_handle) char space[sizeof(file_handle) + MAX_HANDLE_SZ];
  auto* fh = reinterpret_cast<file_handle*>(space);
  fh->handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  Handle h;
  if (::name_to_handle_at(dirfd, name, fh, &mount_id, 0) != 0) return h;
  h.type = fh->handle_type;
  h.bytes.assign(reinterpret_cast<const char*>(fh->f_handle), fh->handle_bytes);
  return h;
}

}  // namespace

NodeTable::NodeTable(int root_fd, const Look& root, bool by_handle, std::size_t ring)
    : root_fd_(root_fd), by_handle_(by_handle), ring_size_(ring) {
  root_ = new Node(root.id, Kind::dir, handle_of(root_fd));
  root_->refs_ = 1;
  Lock l(mutex_);
  nodes_.emplace(root.id, root_);
}

NodeTable::~NodeTable() {
  Lock l(mutex_);
  for (auto& [id, node] : nodes_) delete node;
}

std::size_t NodeTable::size() const {
  Lock l(mutex_);
  return nodes_.size();
}

Node& NodeTable::hold(const Look& seen, int dirfd, const char* name, Node* parent) {
  Kind kind = kind_of_mode(seen.st.st_mode);
  bool many = kind != Kind::dir && seen.st.st_nlink > 1;
  {
    Lock l(mutex_);
    auto at = nodes_.find(seen.id);
    if (at != nodes_.end() && at->second->kind == kind) {
      ++at->second->refs_;
      if (many) at->second->many_names.store(true, std::memory_order_relaxed);
      return *at->second;
    }
  }
  auto fresh = std::make_unique<Node>(seen.id, kind, by_handle_ ? handle_at(dirfd, name) : Handle());
  fresh->many_names.store(many, std::memory_order_relaxed);
  Lock l(mutex_);
  auto [at, is_new] = nodes_.try_emplace(seen.id, fresh.get());
  if (is_new || at->second->kind != kind) {
    // Another kind under the same id: the inode number was reused where there are no birth times. The old node lives on
    // until the kernel forgets it.
    at->second = fresh.release();
    if (parent != nullptr && *name != '\0') {
      at->second->parent_ = parent;
      at->second->name_ = name;
      ++parent->refs_;
    }
  }
  ++at->second->refs_;
  return *at->second;
}

void NodeTable::hold(Node& node) {
  Lock l(mutex_);
  ++node.refs_;
}

Node* NodeTable::find(const ObjectId& id) {
  Lock l(mutex_);
  auto at = nodes_.find(id);
  if (at == nodes_.end()) return nullptr;
  ++at->second->refs_;
  return at->second;
}

Node* NodeTable::unlink_parent(Node& node) {
  Node* parent = node.parent_;
  node.parent_ = nullptr;
  return parent;
}

void NodeTable::forget(Node& node, std::uint64_t count) { drop(&node, count); }

void NodeTable::drop(Node* node, std::uint64_t count) {
  while (node != nullptr) {
    Node* parent = nullptr;
    PathFd path;
    {
      Lock l(mutex_);
      node->refs_ -= std::min(count, node->refs_);
      if (node->refs_ != 0 || node == root_) return;
      auto at = nodes_.find(node->id);
      if (at != nodes_.end() && at->second == node) nodes_.erase(at);
      parent = unlink_parent(*node);
    }
    {
      Lock l(ring_mutex_);
      path = take_path(*node);
    }
    delete node;
    node = parent;
    count = 1;
  }
}

PathFd NodeTable::path(Node& node) {
  {
    Lock l(ring_mutex_);
    if (node.path_) {
      node.used_ = true;
      return node.path_;
    }
  }
  PathFd fresh = reopen(node);
  if (!fresh && (errno == EMFILE || errno == ENFILE) && shrink()) fresh = reopen(node);
  return fresh ? keep(node, std::move(fresh)) : fresh;
}

PathFd NodeTable::reopen(Node& node) {
  if (&node == root_) {
    Fd own(::fcntl(root_fd_, F_DUPFD_CLOEXEC, 3));
    return own ? std::make_shared<const Fd>(std::move(own)) : nullptr;
  }
  Fd fd;
  if (!node.handle.empty()) {
    fd = open_handle(root_fd_, node.handle, O_PATH | O_NOFOLLOW);
  } else {
    Node* parent = nullptr;
    std::string name;
    {
      Lock l(mutex_);
      parent = node.parent_;
      name = node.name_;
      if (parent != nullptr) ++parent->refs_;
    }
    if (parent == nullptr) {
      errno = ESTALE;
      return nullptr;
    }
    PathFd dir = path(*parent);
    if (dir) fd = Fd(::openat(dir->get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    int e = errno;
    forget(*parent, 1);
    errno = e == ENOENT && !fd ? ESTALE : e;
  }
  if (!fd) return nullptr;
  Look seen;
  int e = look(fd.get(), "", &seen);
  if (e == 0 && seen.id != node.id) e = ESTALE;
  if (e != 0) {
    errno = e;
    return nullptr;
  }
  return std::make_shared<const Fd>(std::move(fd));
}

PathFd NodeTable::keep(Node& node, PathFd path) {
  PathFd out;  // closed after the lock is dropped
  Lock l(ring_mutex_);
  if (node.path_) return node.path_;
  node.path_ = path;
  node.used_ = true;
  if (ring_.size() >= ring_size_) {
    for (std::size_t tries = 2 * ring_.size(); tries > 0; --tries) {
      hand_ = (hand_ + 1) % ring_.size();
      Node* at = ring_[hand_];
      if (at->opens_ > 0) continue;
      if (std::exchange(at->used_, false)) continue;
      out = std::move(at->path_);
      at->path_.reset();
      at->slot_ = SIZE_MAX;
      ring_[hand_] = &node;
      node.slot_ = hand_;
      return path;
    }
  }
  node.slot_ = ring_.size();
  ring_.push_back(&node);
  return path;
}

bool NodeTable::shrink() {
  std::vector<PathFd> out;
  Lock l(ring_mutex_);
  for (std::size_t i = 0; i < ring_.size() && out.size() < 1024;) {
    Node* at = ring_[i];
    if (at->opens_ > 0) {
      ++i;
      continue;
    }
    out.push_back(std::move(at->path_));
    at->path_.reset();
    at->slot_ = SIZE_MAX;
    ring_[i] = ring_.back();
    if (ring_[i] != at) ring_[i]->slot_ = i;
    ring_.pop_back();
  }
  return !out.empty();
}

void NodeTable::opened(Node& node) {
  hold(node);
  Lock l(ring_mutex_);
  ++node.opens_;
}

void NodeTable::closed(Node& node) {
  PathFd out;  // closed after the lock is dropped
  {
    Lock l(ring_mutex_);
    if (--node.opens_ == 0 && node.last_seen_) {
      if (node.path_) look(node.path_->get(), "", node.last_seen_.get());
      out = take_path(node);
    }
  }
  out.reset();
  forget(node, 1);
}

void NodeTable::nameless(Node& node, const Look& seen) {
  PathFd out;
  Lock l(ring_mutex_);
  node.last_seen_ = std::make_unique<Look>(seen);
  if (node.opens_ == 0) out = take_path(node);
}

bool NodeTable::last_seen(Node& node, Look* out) {
  Lock l(ring_mutex_);
  if (node.last_seen_) *out = *node.last_seen_;
  return static_cast<bool>(node.last_seen_);
}

PathFd NodeTable::take_path(Node& node) {
  if (node.slot_ != SIZE_MAX) {
    ring_[node.slot_] = ring_.back();
    ring_[node.slot_]->slot_ = node.slot_;
    ring_.pop_back();
    node.slot_ = SIZE_MAX;
  }
  return std::exchange(node.path_, nullptr);
}

void NodeTable::remember(Node& node, PathFd path) { keep(node, std::move(path)); }

void NodeTable::moved(Node& node, Node* parent, std::string_view name) {
  Node* before = nullptr;
  {
    Lock l(mutex_);
    if (node.parent_ == parent) {
      node.name_ = name;
      return;
    }
    before = unlink_parent(node);
    node.parent_ = parent;
    node.name_ = name;
    if (parent != nullptr) ++parent->refs_;
  }
  if (before != nullptr) forget(*before, 1);
}

bool NodeTable::names(Node& node, std::vector<std::string>* out) {
  out->clear();
  Lock l(mutex_);
  Node* at = &node;
  for (; at != root_; at = at->parent_) {
    if (at->parent_ == nullptr) return false;
    out->push_back(at->name_);
  }
  std::reverse(out->begin(), out->end());
  return true;
}

}  // namespace somfs::fs
