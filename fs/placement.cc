// SPDX-License-Identifier: Apache-2.0
#include "fs/placement.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "common/fd.h"

namespace somfs::fs {
namespace {

constexpr unsigned kStrangers = Placement::kWindow / 16;  // more than so many of others, and the client is not alone

cpu_set_t allowed_processors() {
  cpu_set_t all;
  CPU_ZERO(&all);
  ::sched_getaffinity(0, sizeof all, &all);
  return all;
}

const cpu_set_t& allowed() {
  static const cpu_set_t all = allowed_processors();
  return all;
}

}  // namespace

int Placement::arrived(pid_t client) noexcept {
  // What nobody waits for (closing, forgetting) tells nothing.
  if (client == 0) return where_.load(std::memory_order_relaxed);
  const std::int64_t now = clock_.mono_ns();
  const bool pause = now - last_.exchange(now, std::memory_order_relaxed) > kPause;
  const unsigned seen = seen_.fetch_add(1, std::memory_order_relaxed) + 1;
  unsigned strange = strange_.load(std::memory_order_relaxed);
  if (client != client_.load(std::memory_order_relaxed)) strange = strange_.fetch_add(1, std::memory_order_relaxed) + 1;
  const bool disturbance = pause || strange > kStrangers;
  // Whoever finds another thread looking goes on as before.
  if ((disturbance || seen >= kWindow) && mutex_.try_lock()) {
    if (disturbance)
      disturbed(client, now);
    else if (seen_.load(std::memory_order_relaxed) >= kWindow)
      window_ended(now);
    mutex_.unlock();
  }
  return where_.load(std::memory_order_relaxed);
}

void Placement::disturbed(pid_t client, std::int64_t now) {
  client_.store(client, std::memory_order_relaxed);
  move(State::spread, state_ == State::spread ? until_ : now);
  start_window(now);
}

void Placement::window_ended(std::int64_t now) {
  const std::int64_t took = now - began_;
  const bool measured = std::exchange(settled_, true);
  start_window(now);
  switch (state_) {
    case State::spread:
      if (!measured) break;
      spread_took_ = took;
      if (now >= until_) move(State::trial, 0);
      break;
    case State::trial:
      if (!measured) break;
      if (took + took / 8 < spread_took_) {
        retry_ = kFirstRetry;
        move(State::close, now + kHold);
      } else {
        move(State::spread, now + retry_);
        retry_ = std::min(2 * retry_, kLastRetry);
      }
      break;
    case State::close:
      // The client may have been moved.
      move(now < until_ ? State::close : State::spread, now < until_ ? until_ : 0);
      break;
  }
}

void Placement::move(State state, std::int64_t until) {
  int where = kAnywhere;
  if (state != State::spread && (where = processor_of_(client_.load(std::memory_order_relaxed))) == kAnywhere) state = State::spread;
  if (where != where_.load(std::memory_order_relaxed)) settled_ = false;
  state_ = state;
  until_ = until;
  where_.store(where, std::memory_order_relaxed);
}

void Placement::start_window(std::int64_t now) {
  began_ = now;
  seen_.store(0, std::memory_order_relaxed);
  strange_.store(0, std::memory_order_relaxed);
}

int last_processor_of(pid_t client) {
  if (client <= 0) return Placement::kAnywhere;
  char text[1024];
  Fd fd(::open(("/proc/" + std::to_string(client) + "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  const ssize_t n = fd ? ::read(fd.get(), text, sizeof text - 1) : -1;
  if (n <= 0) return Placement::kAnywhere;
  text[n] = '\0';
  // The command in parentheses, field 2, may hold anything.
  const char* at = std::strrchr(text, ')');
  for (int field = 2; at != nullptr && field < 39; ++field) at = std::strchr(at + 1, ' ');
  if (at == nullptr) return Placement::kAnywhere;
  const int processor = std::atoi(at + 1);
  return processor >= 0 && processor < CPU_SETSIZE && CPU_COUNT(&allowed()) > 1 && CPU_ISSET(processor, &allowed()) ? processor : Placement::kAnywhere;
}

void run_on(int processor) {
  thread_local int now = Placement::kAnywhere;
  if (processor == now) return;
  now = processor;
  cpu_set_t one;
  CPU_ZERO(&one);
  if (processor != Placement::kAnywhere) CPU_SET(processor, &one);
  ::sched_setaffinity(0, sizeof one, processor != Placement::kAnywhere ? &one : &allowed());
}

}  // namespace somfs::fs
