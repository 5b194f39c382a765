// SPDX-License-Identifier: Apache-2.0
#include "replicator/held_answers.h"

#include <chrono>
#include <utility>

namespace somfs::replicator {

HeldAnswers::HeldAnswers(double timeout_s, const Clock& clock, std::function<void()> came, std::function<void()> late)
    : timeout_ns_(static_cast<std::int64_t>(timeout_s * 1e9)), clock_(clock), came_(std::move(came)), late_called_(std::move(late)),
      thread_([this] { watch(); }) {}

HeldAnswers::~HeldAnswers() {
  let_go();
  {
    Lock l(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void HeldAnswers::answer(const Items& items) {
  for (const Item& i : items) i.answer();
}

void HeldAnswers::begin() {
  Lock l(mutex_);
  late_ = false;
  holding_.store(true, std::memory_order_release);
}

void HeldAnswers::let_go() {
  Items all;
  {
    Lock l(mutex_);
    holding_.store(false, std::memory_order_release);
    all.swap(items_);
  }
  answer(all);
}

bool HeldAnswers::hold(std::function<void()>& answer) {
  bool first = false;
  {
    Lock l(mutex_);
    if (!holding()) return false;
    first = items_.empty();
    items_.push_back({clock_.mono_ns() + timeout_ns_, std::move(answer)});
    ++numbered_;
    if (first) changed_.notify_all();
  }
  if (first) came_();
  return true;
}

bool HeldAnswers::late() const {
  Lock l(mutex_);
  return late_;
}

std::uint64_t HeldAnswers::newest() const {
  Lock l(mutex_);
  return numbered_;
}

void HeldAnswers::landed(std::uint64_t newest) {
  Items covered;
  {
    Lock l(mutex_);
    for (std::uint64_t oldest = numbered_ - items_.size() + 1; !items_.empty() && oldest <= newest; ++oldest) {
      covered.push_back(std::move(items_.front()));
      items_.pop_front();
    }
  }
  answer(covered);
}

std::size_t HeldAnswers::waiting() const {
  Lock l(mutex_);
  return items_.size();
}

void HeldAnswers::watch() {
  for (;;) {
    Items all;
    {
      Lock l(mutex_);
      while (!stop_ && (items_.empty() || clock_.mono_ns() < items_.front().until)) {
        if (items_.empty())
          changed_.wait(mutex_);
        else
          changed_.wait_until(mutex_, std::chrono::steady_clock::now() + std::chrono::nanoseconds(items_.front().until - clock_.mono_ns()));
      }
      if (stop_) return;
      holding_.store(false, std::memory_order_release);
      late_ = true;
      all.swap(items_);
    }
    answer(all);
    late_called_();
  }
}

}  // namespace somfs::replicator
