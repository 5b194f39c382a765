// SPDX-License-Identifier: Apache-2.0
// Which targets are being written to right now: a second run onto one is told who is at it (Exit::locked).
#pragma once

#include <set>
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
  Hold take(const std::string& target) {
    Lock lock(mutex_);
    return held_.insert(target).second ? Hold(this, target) : Hold();
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
  std::set<std::string> held_ GUARDED_BY(mutex_);
};

}  // namespace somfs::cli
