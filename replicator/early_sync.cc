// SPDX-License-Identifier: Apache-2.0
#include "replicator/early_sync.h"

#include <unistd.h>

#include <cerrno>

namespace somfs::replicator {

void EarlySync::staged(std::uint64_t bytes) {
  since_ += bytes;
  if (since_ < kEvery) return;
  since_ = 0;
  {
    Lock l(mutex_);
    due_ = true;
    due_changed_.notify_one();
  }
  if (!thread_.joinable()) thread_ = std::jthread([this] { run(); });
}

int EarlySync::end() {
  {
    Lock l(mutex_);
    over_ = true;
    due_changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  Lock l(mutex_);
  return error_;
}

void EarlySync::run() {
  for (;;) {
    {
      Lock l(mutex_);
      while (!due_ && !over_) due_changed_.wait(mutex_);
      if (over_) return;
      due_ = false;
    }
    const int e = ::syncfs(fd_) == 0 ? 0 : errno;
    Lock l(mutex_);
    if (error_ == 0) error_ = e;
  }
}

}  // namespace somfs::replicator
