// SPDX-License-Identifier: Apache-2.0
#include "fs/direct_replies.h"

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>

#include <utility>

namespace somfs::fs {

DirectReplies::~DirectReplies() { finish(); }

void DirectReplies::finish() {
  std::thread thread;
  {
    Lock l(mutex_);
    ends_ = true;
    thread = std::move(thread_);
  }
  changed_.notify_all();
  if (thread.joinable()) thread.join();
}

void DirectReplies::answer(fuse_req* req, std::uint64_t ino, off_t off, std::size_t put) {
  {
    Lock l(mutex_);
    if (!ends_) {
      items_.push_back({req, ino, off, put});
      if (!thread_.joinable()) thread_ = std::thread([this] { work(); });
      changed_.notify_all();
      return;
    }
  }
  fuse_reply_write(req, put);
}

void DirectReplies::work() {
  for (;;) {
    Item item;
    bool ends = false;
    {
      Lock l(mutex_);
      while (items_.empty() && !ends_) changed_.wait(mutex_);
      if (items_.empty()) return;
      item = items_.front();
      items_.pop_front();
      ends = ends_;
    }
    // At the end the connection goes, and the pages with it.
    if (item.put > 0 && !ends) fuse_lowlevel_notify_inval_inode(session_, item.ino, item.off, static_cast<off_t>(item.put));
    fuse_reply_write(item.req, item.put);
  }
}

}  // namespace somfs::fs
