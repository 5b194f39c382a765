// SPDX-License-Identifier: Apache-2.0
// Slows down what changes something, without keeping a thread: in front of the gate, each operation starts so much later than it came as
// `delay` says then, which is told how many bytes have come so far. They start in their order; while nothing waits and there is no delay, an operation costs one look.
//
// Thread-safe. Owns a few threads. The destructor runs everything that waits; no call may be in progress or follow.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/sync.h"
#include "fs/filter.h"

namespace somfs::fs {

class Slowdown final : public Admission {
 public:
  struct Options {
    std::uint64_t max_bytes = 64u << 20;               // more than this waiting: the oldest no longer wait for their time
    std::chrono::nanoseconds longest{100'000'000};     // that an operation waits, whatever `delay` says
    unsigned threads = 4;                              // that run what is due: one may be held up by its operation
  };
  // Asked on the data path: it must be cheap, and must not wait.
  using Delay = std::function<std::chrono::nanoseconds(std::uint64_t bytes)>;
  Slowdown(Admission& next, Delay delay, const Clock& clock, Options options);
  Slowdown(Admission& next, Delay delay, const Clock& clock) : Slowdown(next, std::move(delay), clock, Options()) {}
  ~Slowdown() override;
  Slowdown(const Slowdown&) = delete;
  Slowdown& operator=(const Slowdown&) = delete;

  void pass(std::size_t bytes, const std::function<void()>& own, std::function<void()> go) override EXCLUDES(mutex_);
  // Nothing waits from now on; returns when nothing does. For the end.
  void settle() EXCLUDES(mutex_);
  std::size_t waiting() const EXCLUDES(mutex_);
  // A clock that is moved by hand has moved.
  void clock_moved() EXCLUDES(mutex_);

 private:
  struct Item {
    std::int64_t due;
    std::size_t bytes;
    std::function<void()> go;
  };
  void take(Item* item) REQUIRES(mutex_);
  void run(Item item) EXCLUDES(mutex_);
  void work() EXCLUDES(mutex_);

  Admission& next_;
  const Delay delay_;
  const Clock& clock_;
  const Options options_;
  std::atomic<std::uint64_t> came_{0};                 // bytes, in all
  std::atomic<bool> busy_{false};                      // something waits; written under mutex_

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Item> items_ GUARDED_BY(mutex_);
  std::uint64_t bytes_ GUARDED_BY(mutex_) = 0;
  unsigned running_ GUARDED_BY(mutex_) = 0;            // taken, and not yet with the gate
  bool ending_ GUARDED_BY(mutex_) = false, stop_ GUARDED_BY(mutex_) = false;

  std::vector<std::jthread> threads_;                  // last: end first
};

}  // namespace somfs::fs
