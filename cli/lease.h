// SPDX-License-Identifier: Apache-2.0
// Which targets are being written to right now: a second run onto one is told who is at it (Exit::locked).
#pragma once

#include <poll.h>

#include <map>
#include <string>

#include "common/sync.h"

namespace somfs::cli {

class TargetLocks {
 public:
  // Holds the lock of one target until destroyed; empty when it was taken.
  class Hold {
   public:
    Hold() = default;
    Hold(TargetLocks* locks, std::string target) : locks_(locks), target_(std::move(target)) {}
    Hold(Hold&& o) noexcept : locks_(std::exchange(o.locks_, nullptr)), target_(std::move(o.target_)) {}
    Hold& operator=(Hold&& o) noexcept {
      std::swap(locks_, o.locks_);
      std::swap(target_, o.target_);
      return *this;
    }
    ~Hold() {
      if (locks_ != nullptr) locks_->drop(target_);
    }
    explicit operator bool() const { return locks_ != nullptr; }

   private:
    TargetLocks* locks_ = nullptr;
    std::string target_;
  };
  // `peer`: the connection of whom it is for, open for as long as it is held; -1: this process itself.
  Hold take(const std::string& target, int peer = -1) {
    Lock lock(mutex_);
    return held_.try_emplace(target, peer).second ? Hold(this, target) : Hold();
  }
  // It is held for somebody who has gone, and will be free.
  bool leaving(const std::string& target) const {
    Lock lock(mutex_);
    auto held = held_.find(target);
    if (held == held_.end() || held->second < 0) return false;
    pollfd p{held->second, 0, 0};
    return ::poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR)) != 0;
  }
  bool held(const std::string& target) const {
    Lock lock(mutex_);
    return held_.contains(target);
  }

 private:
  void drop(const std::string& target) {
    Lock lock(mutex_);
    held_.erase(target);
  }
  mutable Mutex mutex_;
  std::map<std::string, int> held_ GUARDED_BY(mutex_);
};

}  // namespace somfs::cli
