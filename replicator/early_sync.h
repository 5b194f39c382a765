// SPDX-License-Identifier: Apache-2.0
// Has a file system write what is staged while more of it comes, so that the sync at the end finds little left to do. It promises nothing
// itself; but a write error that it met is told to it alone, so error() belongs to every sync that follows.
#pragma once

#include <cstdint>
#include <thread>

#include "common/sync.h"

namespace somfs::replicator {

class EarlySync {
 public:
  static constexpr std::uint64_t kEvery = 64u << 20;   // bytes staged; less costs more in commits of the file system than it saves

  explicit EarlySync(int fd) : fd_(fd) {}              // on that file system; borrowed
  ~EarlySync() { end(); }
  EarlySync(const EarlySync&) = delete;
  EarlySync& operator=(const EarlySync&) = delete;

  void staged(std::uint64_t bytes);                    // more of them
  int end();                                           // the first errno it met, or 0; waits for a sync that is under way

 private:
  void run();

  const int fd_;
  std::uint64_t since_ = 0;                            // the caller's: staged since it last said so
  Mutex mutex_;
  CondVar due_changed_;
  bool due_ GUARDED_BY(mutex_) = false, over_ GUARDED_BY(mutex_) = false;
  int error_ GUARDED_BY(mutex_) = 0;
  std::jthread thread_;                                // from the first time on that there is something to do
};

}  // namespace somfs::replicator
