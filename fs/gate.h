// SPDX-License-Identifier: Apache-2.0
// The gate: the freeze queue (freeze_queue.h) with a lock, a clock and threads around it. Outermost layer of the filter and
// Freezer of the coordinator.
//
// Thread-safe. It owns a timer thread (the last resort against whoever froze it and is gone) and a few release threads, so make
// it after the daemon has forked. The destructor opens it and runs everything that is parked; no call may be in progress or follow.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "common/change.h"
#include "common/clock.h"
#include "common/sync.h"
#include "fs/filter.h"
#include "fs/freeze_queue.h"

namespace somfs::fs {

class Gate final : public Admission, public Freezer {
 public:
  struct Options {
    std::uint64_t max_parked_bytes = 64u << 20;  // more than this parked: it opens by itself
    unsigned releasers = 2;                      // the second goes on when the first is held up
    unsigned stall_ms = 50;                      // ... by one operation for this long
  };
  struct Stats {
    const char* state = "open";                  // "open", "closing", "frozen", "draining"
    std::uint64_t in_flight = 0, parked = 0, parked_bytes = 0;
    std::uint64_t most_parked = 0, most_parked_bytes = 0;
    std::uint64_t freezes = 0;                   // that held until thaw()
    std::uint64_t drain_timeouts = 0;            // operations in flight did not end in time
    std::uint64_t hold_timeouts = 0;             // opened by the timer
    std::uint64_t overflows = 0;                 // opened by the byte bound
    double last_closed_ms = 0, most_closed_ms = 0, total_closed_ms = 0;  // closed to opened, failed freezes included
  };

  explicit Gate(const Clock& clock) : Gate(clock, Options()) {}
  Gate(const Clock& clock, Options options);
  ~Gate() override;
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // Admission. Never waits. `go` must not throw. While parked operations are being released the caller parks its own and runs
  // the oldest one in its place. `own` may also have been called when `go` in the end runs at once.
  void pass(std::size_t bytes, const std::function<void()>& own, std::function<void()> go) override EXCLUDES(mutex_);

  // Freezer. A freeze that comes while another one is closed is refused at once; one that comes while parked operations are
  // being released waits for their end, within drain_ms.
  Held freeze(unsigned drain_ms, unsigned hold_ms) override EXCLUDES(mutex_);
  Held thaw() override EXCLUDES(mutex_);

  // Opens and waits until nothing runs or is parked. For the end, when nothing more arrives: from now on nothing is held.
  void settle() EXCLUDES(mutex_);

  Stats stats() const EXCLUDES(mutex_);
  // No mutation is running or parked. Part of the coordinator's quiet().
  bool idle() const EXCLUDES(mutex_);
  // A clock that is moved by hand has moved: deadlines are looked at again.
  void clock_moved() EXCLUDES(mutex_);

 private:
  struct Parked : fq_entry {
    std::function<void()> go;
  };
  void run_taken(fq_entry* entry) EXCLUDES(mutex_);
  void leave() EXCLUDES(mutex_);
  bool open() REQUIRES(mutex_);
  void opened() REQUIRES(mutex_);
  Held::Why why_not() const REQUIRES(mutex_);
  void look_at_clock() REQUIRES(mutex_);
  void wait_until(std::int64_t mono_ns) REQUIRES(mutex_);
  void timer_loop() EXCLUDES(mutex_);
  void release_loop(std::size_t self) EXCLUDES(mutex_);

  const Clock& clock_;
  const Options options_;

  mutable Mutex mutex_;
  CondVar changed_;  // state, deadlines, parked, started, stop
  fq queue_ GUARDED_BY(mutex_);
  Stats stats_ GUARDED_BY(mutex_);
  std::int64_t closed_at_ GUARDED_BY(mutex_) = 0;
  std::uint64_t closes_ GUARDED_BY(mutex_) = 0;          // how often it was closed: knows one freeze from the next
  std::vector<std::int64_t> started_ GUARDED_BY(mutex_);  // per release thread: when it began its operation; INT64_MIN: idle
  bool ending_ GUARDED_BY(mutex_) = false;               // somebody waits, or waited, for the last operation in flight
  bool stop_ GUARDED_BY(mutex_) = false;

  std::vector<std::jthread> threads_;
};

}  // namespace somfs::fs
