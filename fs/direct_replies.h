// SPDX-License-Identifier: Apache-2.0
// Answers to O_DIRECT writes of files whose pages the kernel may have cached. It drops those pages before the write is sent to us, but
// after it only when the writer waited: behind asynchronous I/O a reader who came in between would keep old bytes for ever.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <thread>

#include "common/sync.h"

struct fuse_req;
struct fuse_session;

namespace somfs::fs {

class DirectReplies {
 public:
  explicit DirectReplies(fuse_session* session) : session_(session) {}
  ~DirectReplies();
  DirectReplies(const DirectReplies&) = delete;
  DirectReplies& operator=(const DirectReplies&) = delete;

  // Drops the pages of [off, off + put) and answers, on a thread of its own: it waits for whoever holds those pages, and that may be
  // a reader who waits for one of our workers, or a writer at the closed gate.
  void answer(fuse_req* req, std::uint64_t ino, off_t off, std::size_t put);
  // Before the workers leave, for a reader who holds pages waits for one: everything that was handed over is answered, and from now on
  // answers go at once. From any thread but a worker.
  void finish();

 private:
  struct Item {
    fuse_req* req;
    std::uint64_t ino;
    off_t off;
    std::size_t put;
  };
  void work();

  fuse_session* const session_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Item> items_ GUARDED_BY(mutex_);
  bool ends_ GUARDED_BY(mutex_) = false;
  std::thread thread_ GUARDED_BY(mutex_);  // started with the first item
};

}  // namespace somfs::fs
