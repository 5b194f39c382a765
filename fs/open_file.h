// SPDX-License-Identifier: Apache-2.0
// What an application holds open: a file or a directory of the backing file system.
#pragma once

#include <dirent.h>
#include <fcntl.h>

#include <memory>
#include <unordered_map>
#include <vector>

#include "common/fd.h"
#include "common/sync.h"
#include "fs/io_modes.h"
#include "fs/node.h"

namespace somfs::fs {

struct OpenFile {
  Node* node = nullptr;   // counted
  Fd fd;                  // readable too wherever that is allowed
  Fd plain;               // the same file without O_DIRECT, when fd has it: for pre-images, for mapped pages, and for an
                          // application that takes O_DIRECT back by fcntl(2)
  bool writes = false;
  bool direct = false;    // O_DIRECT: buffers must be aligned
  bool durable = false;   // O_SYNC or O_DSYNC: what is answered is durable
  IoMode mode = IoMode::none;  // as it was counted, where modes are
  bool prompt = false;    // O_SYNC, O_DSYNC or O_DIRECT: marks must be durable before a write is issued

  int readable() const { return plain ? plain.get() : fd.get(); }
  // Whether a request with these open flags goes past the page cache beneath.
  bool is_direct(int flags) const { return direct && ((flags & O_DIRECT) != 0 || !plain); }
  int data_fd(int flags) const { return is_direct(flags) ? fd.get() : readable(); }
};

struct OpenDir {
  explicit OpenDir(DIR* d) : dir(d) {}
  ~OpenDir() { ::closedir(dir); }
  OpenDir(const OpenDir&) = delete;
  OpenDir& operator=(const OpenDir&) = delete;

  Node* node = nullptr;   // counted
  Mutex lock;
  DIR* const dir;
  off_t at GUARDED_BY(lock) = 0;            // where the stream stands
  dirent* entry GUARDED_BY(lock) = nullptr; // read but not yet handed out
};

// The inodes that somebody has open for writing: what a barrier has to flush.
class Writers {
 public:
  void add(Node* node) {
    Lock l(mutex_);
    ++open_[node];
  }
  void remove(Node* node) {
    Lock l(mutex_);
    auto at = open_.find(node);
    if (at != open_.end() && --at->second == 0) open_.erase(at);
  }
  bool contains(Node* node) {
    Lock l(mutex_);
    return open_.contains(node);
  }
  // `take` runs under the lock that keeps the nodes alive.
  template <typename F>
  void each(F take) {
    Lock l(mutex_);
    for (auto& [node, count] : open_) take(*node);
  }

 private:
  Mutex mutex_;
  std::unordered_map<Node*, unsigned> open_ GUARDED_BY(mutex_);
};

}  // namespace somfs::fs
