// SPDX-License-Identifier: Apache-2.0
// The answers that wait for one mirror (mode sync): each goes out when the epoch that covers it has landed, when it has waited too long, or
// when there is nothing to wait for any more. In the order in which they came.
//
// Thread-safe. Owns a thread, for the time-out. Answers run on the thread that lets them go, under no lock of ours.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>

#include "common/clock.h"
#include "common/sync.h"

namespace somfs::replicator {

class HeldAnswers {
 public:
  // `came`: an answer waits, where none did. `late`: one has waited too long, and all went out. Both are called under no lock.
  HeldAnswers(double timeout_s, const Clock& clock, std::function<void()> came, std::function<void()> late);
  ~HeldAnswers();
  HeldAnswers(const HeldAnswers&) = delete;
  HeldAnswers& operator=(const HeldAnswers&) = delete;

  void begin() EXCLUDES(mutex_);                    // from now on answers are held; what was late is forgotten
  void let_go() EXCLUDES(mutex_);                   // those that wait go out; none is held until begin()
  // False, and nothing done: it need not wait.
  bool hold(std::function<void()>& answer) EXCLUDES(mutex_);
  bool holding() const noexcept { return holding_.load(std::memory_order_acquire); }
  bool late() const EXCLUDES(mutex_);               // they are not held because one had waited too long

  // What waits now: to be asked before a cut, and given back when that has landed.
  std::uint64_t newest() const EXCLUDES(mutex_);
  void landed(std::uint64_t newest) EXCLUDES(mutex_);
  std::size_t waiting() const EXCLUDES(mutex_);

 private:
  struct Item {
    std::int64_t until;                             // mono_ns
    std::function<void()> answer;
  };
  using Items = std::deque<Item>;
  static void answer(const Items& items);
  void watch() EXCLUDES(mutex_);

  const std::int64_t timeout_ns_;
  const Clock& clock_;
  const std::function<void()> came_, late_called_;
  std::atomic<bool> holding_{false};                // written under mutex_

  mutable Mutex mutex_;
  CondVar changed_;
  Items items_ GUARDED_BY(mutex_);
  std::uint64_t numbered_ GUARDED_BY(mutex_) = 0;   // the newest item's number; the oldest's is numbered_ - items_.size() + 1
  bool late_ GUARDED_BY(mutex_) = false;
  bool stop_ GUARDED_BY(mutex_) = false;

  std::jthread thread_;                             // last: ends first
};

}  // namespace somfs::replicator
