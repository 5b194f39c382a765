// SPDX-License-Identifier: Apache-2.0
// Where the threads that serve the mount run. A lone client and its server take turns: neither runs while the other does. On one
// processor a turn is a change of task; on two it is the waking of an idle processor, which in a virtual machine costs several times
// as much. The scheduler spreads them all the same, as it would threads that have work at the same time. So when nearly all requests
// come from one thread, serving on that thread's processor is tried, kept while it is measurably faster, and tried again later
// where it is not. With several clients, or after a pause, the threads run where the scheduler puts them.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>

#include "common/clock.h"
#include "common/sync.h"

namespace somfs::fs {

class Placement {
 public:
  static constexpr int kAnywhere = -1;
  static constexpr unsigned kWindow = 256;                           // requests between two looks
  static constexpr std::int64_t kPause = 5'000'000;                  // ns without a request that end closeness
  static constexpr std::int64_t kHold = 1'000'000'000;               // ns until the other way is measured again
  static constexpr std::int64_t kFirstRetry = 100'000'000, kLastRetry = 10'000'000'000;  // ns after a trial that brought nothing

  // The processor that thread `client` ran on last; kAnywhere: not known.
  using ProcessorOf = std::function<int(pid_t client)>;

  Placement(const Clock& clock, ProcessorOf processor_of) : clock_(clock), processor_of_(std::move(processor_of)) {}
  Placement(const Placement&) = delete;
  Placement& operator=(const Placement&) = delete;

  // A request of `client` (0: nobody in particular) was read. Where it had best be served: a processor, or kAnywhere. Any thread.
  int arrived(pid_t client) noexcept;

 private:
  enum class State { spread, trial, close };

  void disturbed(pid_t client, std::int64_t now) REQUIRES(mutex_);
  void window_ended(std::int64_t now) REQUIRES(mutex_);
  void move(State state, std::int64_t until) REQUIRES(mutex_);
  void start_window(std::int64_t now) REQUIRES(mutex_);

  const Clock& clock_;
  const ProcessorOf processor_of_;

  // Counted without a lock: an approximation will do.
  std::atomic<pid_t> client_{0};        // whose requests are counted
  std::atomic<unsigned> seen_{0};       // requests of this window
  std::atomic<unsigned> strange_{0};    // those of others among them
  std::atomic<std::int64_t> last_{0};   // when the last request came
  std::atomic<int> where_{kAnywhere};

  Mutex mutex_;
  State state_ GUARDED_BY(mutex_) = State::spread;
  std::int64_t began_ GUARDED_BY(mutex_) = 0;        // the window
  bool settled_ GUARDED_BY(mutex_) = false;          // a whole window has passed since the threads were moved
  std::int64_t spread_took_ GUARDED_BY(mutex_) = 0;  // ns a window took with the threads spread; 0: not measured
  std::int64_t until_ GUARDED_BY(mutex_) = 0;        // spread: no trial before; close: then spread is measured again
  std::int64_t retry_ GUARDED_BY(mutex_) = kFirstRetry;
};

// Field 39 of /proc/PID/stat, see proc(5).
int last_processor_of(pid_t client);

// Moves the calling thread there, or lets it run on all processors it was allowed when the program started.
void run_on(int processor);

}  // namespace somfs::fs
