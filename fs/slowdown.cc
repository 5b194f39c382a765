// SPDX-License-Identifier: Apache-2.0
#include "fs/slowdown.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

namespace somfs::fs {

Slowdown::Slowdown(Admission& next, Delay delay, const Clock& clock, Options options)
    : next_(next), delay_(std::move(delay)), clock_(clock), options_(options) {
  for (unsigned i = 0; i < std::max(1u, options_.threads); ++i) {
    threads_.emplace_back([this] { work(); });
    ::pthread_setname_np(threads_.back().native_handle(), "somfs-slowdown");
  }
}

Slowdown::~Slowdown() {
  settle();
  {
    Lock l(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  threads_.clear();
}

void Slowdown::pass(std::size_t bytes, const std::function<void()>& own, std::function<void()> go) {
  const std::int64_t delay = std::clamp(delay_(came_.fetch_add(bytes, std::memory_order_relaxed) + bytes), std::chrono::nanoseconds(0), options_.longest).count();
  if (delay == 0 && !busy_.load(std::memory_order_acquire)) return next_.pass(bytes, own, std::move(go));
  own();
  Item oldest;
  bool help = false;
  {
    Lock l(mutex_);
    // Nobody overtakes: not even when the delay has become shorter meanwhile.
    const std::int64_t now = clock_.mono_ns(), due = std::max(now + delay, items_.empty() ? INT64_MIN : items_.back().due);
    items_.push_back({due, bytes, std::move(go)});
    bytes_ += bytes;
    busy_.store(true, std::memory_order_release);
    // Without a delay what still waits need not, and what is due waits for a thread: each caller runs one, so the queue gets no longer.
    help = ending_ || delay == 0 || items_.front().due <= now || bytes_ > options_.max_bytes;
    if (help)
      take(&oldest);
    else
      changed_.notify_all();
  }
  if (help) run(std::move(oldest));
}

void Slowdown::take(Item* item) {
  *item = std::move(items_.front());
  items_.pop_front();
  bytes_ -= item->bytes;
  ++running_;
}

void Slowdown::run(Item item) {
  next_.pass(item.bytes, [] {}, std::move(item.go));   // it owns what it needs already
  Lock l(mutex_);
  --running_;
  if (items_.empty() && running_ == 0) busy_.store(false, std::memory_order_release);
  changed_.notify_all();
}

void Slowdown::settle() {
  Lock l(mutex_);
  ending_ = true;
  changed_.notify_all();
  while (!items_.empty() || running_ != 0) changed_.wait(mutex_);
}

std::size_t Slowdown::waiting() const {
  Lock l(mutex_);
  return items_.size();
}

void Slowdown::clock_moved() {
  Lock l(mutex_);
  changed_.notify_all();
}

void Slowdown::work() {
  for (;;) {
    Item oldest;
    {
      Lock l(mutex_);
      for (;;) {
        if (stop_ && items_.empty()) return;
        if (items_.empty()) {
          changed_.wait(mutex_);
          continue;
        }
        const std::int64_t left = items_.front().due - clock_.mono_ns();
        if (left <= 0 || ending_) break;
        changed_.wait_until(mutex_, std::chrono::steady_clock::now() + std::chrono::nanoseconds(left));
      }
      take(&oldest);
    }
    run(std::move(oldest));
  }
}

}  // namespace somfs::fs
