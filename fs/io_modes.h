// SPDX-License-Identifier: Apache-2.0
// Which way the data of every open file go, where read-only opens may pass us by (passthrough). The kernel keeps two modes of an inode apart:
// while one open file uses its page cache none can pass through, and while one passes through none can use the cache. What breaks this
// is answered to the application with EIO, so it is decided here, counted by inode, before the kernel hears of it: an open is counted before
// it is answered, and a release after the kernel let go, so whatever the kernel holds is counted.
//
// Beside passthrough, an open for writing is direct: every write comes to us at once. An open for reading and writing may do more, it can be mapped
// shared and writable; the kernel would map it onto the file beneath, and what is stored there nobody would see. It waits for the others
// to close, and is refused when that takes too long. A file that was opened so once is read through the cache from then on.
//
// Thread-safe. `answer` runs under no lock: in the call, in that of who leaves last, or on a thread of its own.
// Source: fs/fuse/iomode.c and fs/fuse/file.c of Linux.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <fcntl.h>

#include "common/fd.h"
#include "common/sync.h"
#include "fs/negotiation.h"
#include "fs/node.h"

namespace somfs::fs {

enum class Access : std::uint8_t { read, write, both };
inline Access access_of(int flags) {
  const int mode = flags & O_ACCMODE;
  return mode == O_RDONLY ? Access::read : mode == O_WRONLY ? Access::write : Access::both;
}
enum class IoMode : std::uint8_t { none, cached, passing, direct };

struct Way {
  IoMode mode = IoMode::none;  // none: it would have to wait, or waited in vain
  int backing_id = 0;          // of passing and direct
};

class IoModes {
 public:
  // Of an open for reading and writing, for those whom it may not pass to close the file.
  static constexpr std::chrono::milliseconds kPatience{1000};

  // Files smaller than `from` are read through the cache: to arrange passing costs more than the one request that fetches them.
  // `quiet_root`: a descriptor of the root through which reading leaves no access times, where it must not; else none.
  IoModes(Negotiation& negotiation, off_t from, Fd quiet_root, bool quiet)
      : negotiation_(negotiation), from_(from), quiet_root_(std::move(quiet_root)), quiet_(quiet) {}
  ~IoModes();
  IoModes(const IoModes&) = delete;
  IoModes& operator=(const IoModes&) = delete;

  // `fd` is the file beneath.
  Way enter(Node& node, int fd, Access access) EXCLUDES(mutex_);
  void enter(Node& node, int fd, Access access, std::function<void(Way)> answer) EXCLUDES(mutex_);
  void leave(Node& node, IoMode mode) EXCLUDES(mutex_);
  // Whoever waits is refused, and nobody waits from now on.
  void finish() EXCLUDES(mutex_);

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Counts {
    unsigned cached = 0;
    unsigned passing = 0;  // and direct
    int backing_id = 0;    // while something passes
  };
  struct Waiting {
    Node* node;
    Time until;
    std::function<void(Way)> answer;
  };
  Way try_enter(Node& node, int fd, Access access) REQUIRES(mutex_);
  int open_backing(const Node& node, int fd) const;
  void refuse_the_late() EXCLUDES(mutex_);

  Negotiation& negotiation_;
  const off_t from_;
  const Fd quiet_root_;
  const bool quiet_;

  Mutex mutex_;  // innermost
  CondVar changed_;
  std::unordered_map<Node*, Counts> open_ GUARDED_BY(mutex_);
  std::vector<Waiting> waiting_ GUARDED_BY(mutex_);  // in the order of their time
  bool ends_ GUARDED_BY(mutex_) = false;
  std::thread thread_ GUARDED_BY(mutex_);  // started with the first that waits
};

}  // namespace somfs::fs
