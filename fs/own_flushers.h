// SPDX-License-Identifier: Apache-2.0
// Processes of our own that flush files through the mount. Whoever waits for them may be who a witness waits for: their requests are
// answered without it.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <set>

#include "common/sync.h"

namespace somfs::fs {

class OwnFlushers {
 public:
  // fork(), and the child is known before its first request can be looked at.
  pid_t start() {
    Lock l(mutex_);
    const pid_t child = ::fork();
    if (child > 0) pids_.insert(child);
    return child;
  }
  void reaped(pid_t child) {
    Lock l(mutex_);
    pids_.erase(child);
  }
  bool contains(pid_t pid) const {
    Lock l(mutex_);
    return pids_.contains(pid);
  }

 private:
  mutable Mutex mutex_;
  std::set<pid_t> pids_ GUARDED_BY(mutex_);
};

}  // namespace somfs::fs
