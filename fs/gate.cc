// SPDX-License-Identifier: Apache-2.0
#include "fs/gate.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace somfs::fs {
namespace {

constexpr std::int64_t kMs = 1'000'000;

const char* word(fq_state state) {
  switch (state) {
    case FQ_OPEN: return "open";
    case FQ_CLOSING: return "closing";
    case FQ_FROZEN: return "frozen";
    case FQ_DRAINING: break;
  }
  return "draining";
}

std::jthread named(const char* name, std::function<void()> body) {
  std::jthread t(std::move(body));
  ::pthread_setname_np(t.native_handle(), name);
  return t;
}

}  // namespace

Gate::Gate(const Clock& clock, Options options) : clock_(clock), options_(options) {
  {
    Lock l(mutex_);
    fq_init(&queue_, options_.max_parked_bytes);
    started_.assign(std::max(1u, options_.releasers), INT64_MIN);
  }
  threads_.push_back(named("somfs-gate", [this] { timer_loop(); }));
  for (unsigned i = 0; i < std::max(1u, options_.releasers); ++i)
    threads_.push_back(named("somfs-release", [this, i] { release_loop(i); }));
}

Gate::~Gate() {
  settle();
  {
    Lock l(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  threads_.clear();
}

void Gate::pass(std::size_t bytes, const std::function<void()>& own, std::function<void()> go) {
  bool open;
  {
    Lock l(mutex_);
    open = queue_.state == FQ_OPEN && fq_arrive(&queue_, nullptr, 0) == FQ_PASS;
  }
  if (open) {
    go();
    leave();
    return;
  }
  // The copy is made outside the lock: it may be a megabyte. Should the gate have opened meanwhile, the operation just runs.
  own();
  auto parked = std::make_unique<Parked>();
  parked->go = std::move(go);
  fq_verdict verdict;
  {
    Lock l(mutex_);
    bool was_closed = queue_.state != FQ_DRAINING;
    verdict = fq_arrive(&queue_, parked.get(), bytes + sizeof(Parked));
    if (verdict == FQ_HELP && was_closed) opened();
  }
  if (verdict == FQ_PASS) {
    parked->go();
    leave();
    return;
  }
  parked.release();  // the queue's, until it is taken
  if (verdict == FQ_PARKED) return;
  bool more = true;
  while (more) {
    fq_entry* oldest;
    {
      Lock l(mutex_);
      oldest = fq_take(&queue_);
      more = oldest != nullptr && fq_over(&queue_);
      if (queue_.state == FQ_OPEN) changed_.notify_all();
    }
    if (oldest != nullptr) run_taken(oldest);
  }
}

void Gate::run_taken(fq_entry* entry) {
  std::unique_ptr<Parked> parked(static_cast<Parked*>(entry));
  parked->go();
  leave();
}

void Gate::leave() {
  Lock l(mutex_);
  if (fq_leave(&queue_) || (ending_ && queue_.in_flight == 0)) changed_.notify_all();
}

void Gate::settle() {
  Lock l(mutex_);
  ending_ = true;
  open();
  while (queue_.state != FQ_OPEN || queue_.in_flight != 0) changed_.wait(mutex_);
}

Held Gate::freeze(unsigned drain_ms, unsigned hold_ms) {
  Lock l(mutex_);
  if (ending_) return {Held::ending};
  const std::int64_t drain_by = clock_.mono_ns() + drain_ms * kMs;
  while (queue_.state == FQ_DRAINING && clock_.mono_ns() < drain_by) wait_until(drain_by);
  const std::int64_t now = clock_.mono_ns();
  if (!fq_close(&queue_, drain_by, now + hold_ms * kMs)) return {queue_.state == FQ_DRAINING ? Held::in_flight : Held::other};
  closed_at_ = now;
  const std::uint64_t mine = ++closes_;
  changed_.notify_all();  // the timer has a deadline now
  while (queue_.state == FQ_CLOSING && closes_ == mine) {
    look_at_clock();
    if (queue_.state == FQ_CLOSING) wait_until(fq_next_deadline(&queue_));
  }
  if (queue_.state == FQ_FROZEN && closes_ == mine) return {};
  return {closes_ == mine ? why_not() : Held::other};
}

Held Gate::thaw() {
  Lock l(mutex_);
  return {open() ? Held::held : why_not()};
}

bool Gate::open() {
  look_at_clock();
  const bool closed = queue_.state == FQ_CLOSING || queue_.state == FQ_FROZEN;
  const bool held = fq_open(&queue_);
  if (closed) opened();
  if (held) stats_.freezes++;
  return held;
}

// Of a queue that was opened by something else than its owner.
Held::Why Gate::why_not() const {
  switch (queue_.reason) {
    case FQ_DRAIN: return Held::in_flight;
    case FQ_HOLD: return Held::too_long;
    case FQ_FULL: return Held::too_many;
    case FQ_ASKED:
    case FQ_NEVER: break;
  }
  return ending_ ? Held::ending : Held::other;
}

// The queue has just left the closed states.
void Gate::opened() {
  switch (queue_.reason) {
    case FQ_DRAIN: stats_.drain_timeouts++; break;
    case FQ_HOLD: stats_.hold_timeouts++; break;
    case FQ_FULL: stats_.overflows++; break;
    case FQ_ASKED:
    case FQ_NEVER: break;
  }
  stats_.last_closed_ms = static_cast<double>(clock_.mono_ns() - closed_at_) / kMs;
  stats_.most_closed_ms = std::max(stats_.most_closed_ms, stats_.last_closed_ms);
  stats_.total_closed_ms += stats_.last_closed_ms;
  changed_.notify_all();
}

void Gate::look_at_clock() {
  if (fq_tick(&queue_, clock_.mono_ns())) opened();
}

// Until the injected clock shows `mono_ns` if it runs as real clocks do, or something changed.
void Gate::wait_until(std::int64_t mono_ns) {
  if (mono_ns == INT64_MAX) {
    changed_.wait(mutex_);
    return;
  }
  auto left = std::chrono::nanoseconds(std::max<std::int64_t>(0, mono_ns - clock_.mono_ns()));
  changed_.wait_until(mutex_, std::chrono::steady_clock::now() + left);
}

void Gate::timer_loop() {
  Lock l(mutex_);
  while (!stop_) {
    look_at_clock();
    wait_until(fq_next_deadline(&queue_));
  }
}

// One thread runs the parked operations one after the other; another steps in while all that run one have been held up by it for
// stall_ms. (New arrivals help too, see pass().)
void Gate::release_loop(std::size_t self) {
  for (;;) {
    fq_entry* oldest = nullptr;
    {
      Lock l(mutex_);
      started_[self] = INT64_MIN;
      changed_.notify_all();
      while (oldest == nullptr) {
        if (stop_) return;
        const std::int64_t latest = *std::max_element(started_.begin(), started_.end());
        const std::int64_t turn = latest == INT64_MIN ? latest : latest + options_.stall_ms * kMs;
        if (queue_.state != FQ_DRAINING)
          wait_until(INT64_MAX);
        else if (clock_.mono_ns() < turn)
          wait_until(turn);
        else
          oldest = fq_take(&queue_);
      }
      started_[self] = clock_.mono_ns();
      changed_.notify_all();
    }
    run_taken(oldest);
  }
}

Gate::Stats Gate::stats() const {
  Lock l(mutex_);
  Stats s = stats_;
  s.state = word(queue_.state);
  s.in_flight = queue_.in_flight;
  s.parked = queue_.parked;
  s.parked_bytes = queue_.parked_bytes;
  s.most_parked = queue_.most_parked;
  s.most_parked_bytes = queue_.most_bytes;
  return s;
}

bool Gate::idle() const {
  Lock l(mutex_);
  return queue_.in_flight == 0 && queue_.parked == 0;
}

void Gate::clock_moved() {
  Lock l(mutex_);
  changed_.notify_all();
}

}  // namespace somfs::fs
