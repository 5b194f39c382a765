// SPDX-License-Identifier: Apache-2.0
// The inode table: what the kernel knows of the volume, and how each object is reached again without a path. Descriptors are
// bounded: a node keeps a kernel file handle (root) or its place in the tree (everybody else), and a ring of O_PATH
// descriptors is reused for whatever is in use now.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <sys/stat.h>

#include "common/fd.h"
#include "common/object.h"
#include "common/sync.h"

namespace somfs::fs {

// What one statx says: who it is, and all that stat(2) tells.
struct Look {
  ObjectId id;
  struct stat st = {};
};
// Of `name` beneath `dirfd` (symbolic links not followed), or with "" of the descriptor itself. 0 or an errno.
int look(int dirfd, const char* name, Look* out);

// An O_PATH descriptor that stays open while somebody uses it. Null: it could not be opened (errno).
using PathFd = std::shared_ptr<const Fd>;

enum class FileCaps : std::uint8_t { unknown, none, taken, present };  // taken: by the request before

struct Node {
  Node(ObjectId object, Kind k, Handle h) : id(object), kind(k), handle(std::move(h)) {}

  const ObjectId id;
  const Kind kind;
  const Handle handle;  // empty: the table cannot open by handle
  // What tells it from a later node at the same address: the kernel's file handles carry both.
  const std::uint32_t generation = next_generation();

  // Data and attributes of a file; the names of a directory. Order: rename lock, directories by address, then files.
  Mutex lock;

  std::atomic<bool> many_names{false};                 // has, or had, more than one link
  std::atomic<FileCaps> caps{FileCaps::unknown};       // whether it carries security.capability
  std::atomic<bool> cached{false};                     // the kernel above may hold pages of it
  std::atomic<bool> read_write{false};                 // somebody opened it, or tried to, for reading and writing

 private:
  friend class NodeTable;
  static std::uint32_t next_generation() {
    static std::atomic<std::uint32_t> last{0};
    return last.fetch_add(1, std::memory_order_relaxed);
  }
  // Guarded by NodeTable::mutex_.
  std::uint64_t refs_ = 0;   // look-ups of the kernel, open files, children that point here
  Node* parent_ = nullptr;   // one name of it, the last one heard of; null for the root and what never had a name
  std::string name_;
  // Guarded by NodeTable::ring_mutex_.
  PathFd path_;
  std::size_t slot_ = SIZE_MAX;
  bool used_ = false;
  unsigned opens_ = 0;       // while open, the descriptor is not taken away: the object may lose its names
  std::unique_ptr<Look> last_seen_;  // of a file without a name
};

class NodeTable {
 public:
  // `root_fd` is borrowed. `by_handle`: whether this process may open by handle. `ring`: how many O_PATH descriptors to keep.
  NodeTable(int root_fd, const Look& root, bool by_handle, std::size_t ring);
  ~NodeTable();
  NodeTable(const NodeTable&) = delete;
  NodeTable& operator=(const NodeTable&) = delete;

  Node& root() { return *root_; }
  bool by_handle() const { return by_handle_; }
  std::size_t ring_size() const { return ring_size_; }

  // The node of what `look` saw at (parent, name); one reference is counted for the caller. `dirfd` is parent's descriptor;
  // with an empty name `dirfd` is the object's own.
  Node& hold(const Look& seen, int dirfd, const char* name, Node* parent);
  void hold(Node& node);
  // The node of an object, if the kernel knows it; counted for the caller.
  Node* find(const ObjectId& id);
  void forget(Node& node, std::uint64_t count);
  std::size_t size() const;

  PathFd path(Node& node);
  // Puts descriptors back into the system: true when some could be closed (after EMFILE).
  bool shrink();

  // An open file or directory counts one reference as well.
  void opened(Node& node);
  void closed(Node& node);
  // Keeps `path` as the node's descriptor: for objects that have no name to find them by.
  void remember(Node& node, PathFd path);

  // A file lost its last name: once nobody has it open no descriptor of ours keeps its room. What was seen of it is remembered.
  void nameless(Node& node, const Look& seen);
  bool last_seen(Node& node, Look* out);

  void moved(Node& node, Node* parent, std::string_view name);
  // The names from the root down to `node`; false when it has none that is known.
  bool names(Node& node, std::vector<std::string>* out);

 private:
  PathFd reopen(Node& node);
  PathFd keep(Node& node, PathFd path);
  PathFd take_path(Node& node) REQUIRES(ring_mutex_);
  Node* unlink_parent(Node& node) REQUIRES(mutex_);
  void drop(Node* node, std::uint64_t count);

  const int root_fd_;
  const bool by_handle_;
  const std::size_t ring_size_;
  Node* root_;

  mutable Mutex mutex_;
  std::unordered_map<ObjectId, Node*> nodes_ GUARDED_BY(mutex_);

  Mutex ring_mutex_;
  std::vector<Node*> ring_ GUARDED_BY(ring_mutex_);
  std::size_t hand_ GUARDED_BY(ring_mutex_) = 0;
};

}  // namespace somfs::fs
