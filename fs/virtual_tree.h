// SPDX-License-Identifier: Apache-2.0
// What the name `.somfs` at the root of the mount leads to: a read-only tree that somebody else supplies (snapshots).
// All calls may come from many threads, return 0 or an errno, and must not touch the mount.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <sys/stat.h>

namespace somfs::fs {

class VirtualTree {
 public:
  using NodeId = std::uint64_t;  // opaque, 0 < id < 2^63

  struct Entry {
    std::string name;      // neither "." nor ".."
    std::uint64_t ino = 0;
    std::uint32_t mode = 0;  // S_IFMT is enough
  };

  virtual ~VirtualTree() = default;

  virtual NodeId root() = 0;
  // `*attr` complete, st_ino among it. Success counts one reference on the node, which forget() gives back. ENOENT: no such name.
  virtual int lookup(NodeId dir, std::string_view name, NodeId* id, struct stat* attr) = 0;
  virtual void forget(NodeId id, std::uint64_t count) = 0;
  virtual int getattr(NodeId id, struct stat* attr) = 0;
  virtual int list(NodeId dir, std::vector<Entry>* entries) = 0;
  // Files only. `*handle` is given back by close().
  virtual int open(NodeId id, std::uint64_t* handle) = 0;
  virtual void close(std::uint64_t handle) = 0;
  // Reads up to n bytes; fewer only at the end.
  virtual int read(std::uint64_t handle, void* buf, std::size_t n, std::uint64_t off, std::size_t* got) = 0;
  virtual int readlink(NodeId id, std::string* target) = 0;
  virtual int getxattr(NodeId id, std::string_view name, std::string* value) = 0;
  // Names, each ended by a NUL.
  virtual int listxattr(NodeId id, std::string* names) = 0;
};

}  // namespace somfs::fs
