// SPDX-License-Identifier: Apache-2.0
// The open group: the writer puts copies of its requests in, the source's site takes the group out when its time has come (ACP-8). What is
// written over within a group counts once (requests of one size at multiples of it). At the threshold the writer waits (ACP-10).
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/sync.h"

namespace somfs::bench {

struct Piece {
  std::uint64_t off;
  std::size_t at, len;                     // in the group's bytes
};

struct Group {
  std::string bytes;
  std::vector<Piece> pieces;
  std::uint64_t requested = 0;             // with what was written over
  std::int64_t opened_ns = 0, closed_ns = 0;
  double interval_s = 0;                   // in force when it was taken
};

class Collector {
 public:
  explicit Collector(bool random) : random_(random) {}
  void begin() EXCLUDES(mutex_) {          // the first group is open from now on
    Lock l(mutex_);
    open_.opened_ns = clock_.mono_ns();
  }

  // How long the open group is collected, how large it may become, and whether a full one waits for the end of that time.
  void decide(double interval_s, std::uint64_t most, bool cut_when_full) EXCLUDES(mutex_) {
    Lock l(mutex_);
    interval_s_ = interval_s;
    limit_ = most;
    cut_when_full_ = cut_when_full;
    change_.notify_all();
  }
  void wait_for_room() EXCLUDES(mutex_) {
    Lock l(mutex_);
    while (open_.bytes.size() >= limit_ && !ended_) change_.wait(mutex_);
  }
  void add(std::uint64_t off, std::string_view bytes) EXCLUDES(mutex_) {
    Lock l(mutex_);
    open_.requested += bytes.size();
    if (open_.bytes.capacity() < limit_) open_.bytes.reserve(limit_ + bytes.size());
    if (random_) {
      const auto [known, fresh] = places_.try_emplace(off, open_.bytes.size());
      if (!fresh) {
        std::copy(bytes.begin(), bytes.end(), open_.bytes.begin() + static_cast<std::ptrdiff_t>(known->second));
        return;
      }
    }
    if (!open_.pieces.empty() && open_.pieces.back().off + open_.pieces.back().len == off) open_.pieces.back().len += bytes.size();
    else open_.pieces.push_back({off, open_.bytes.size(), bytes.size()});
    open_.bytes.append(bytes);
    if (open_.bytes.size() >= limit_) change_.notify_all();
  }
  void end() EXCLUDES(mutex_) {            // the writer has written all
    Lock l(mutex_);
    ended_ = true;
    change_.notify_all();
  }

  // When the time has come, or the group is full and need not wait, or the last request is in. `spare` gives its memory to the next group.
  // False: there is nothing more.
  bool take(Group& spare) EXCLUDES(mutex_) {
    Lock l(mutex_);
    for (;;) {
      const std::int64_t due = open_.opened_ns + static_cast<std::int64_t>(interval_s_ * 1e9), now = clock_.mono_ns();
      const bool something = !open_.pieces.empty();
      if (something && (ended_ || now >= due || (cut_when_full_ && open_.bytes.size() >= limit_))) break;
      if (ended_ && !something) return false;
      // Nothing yet: the first request does not wake this, for each one would.
      const std::int64_t wait = now < due ? due - now : kLook;
      change_.wait_until(mutex_, std::chrono::steady_clock::now() + std::chrono::nanoseconds(wait));
    }
    open_.closed_ns = clock_.mono_ns();
    open_.interval_s = interval_s_;
    std::swap(open_, spare);
    open_.bytes.clear();
    open_.pieces.clear();
    open_.requested = 0;
    open_.opened_ns = spare.closed_ns;
    places_.clear();
    change_.notify_all();
    return true;
  }

 private:
  static constexpr std::int64_t kLook = 1'000'000;
  const bool random_;
  SystemClock clock_;
  Mutex mutex_;
  CondVar change_;
  Group open_ GUARDED_BY(mutex_);
  std::unordered_map<std::uint64_t, std::size_t> places_ GUARDED_BY(mutex_);   // random: offset → in the group's bytes
  double interval_s_ GUARDED_BY(mutex_) = 0.03;
  std::uint64_t limit_ GUARDED_BY(mutex_) = 16u << 20;
  bool cut_when_full_ GUARDED_BY(mutex_) = false, ended_ GUARDED_BY(mutex_) = false;
};

}  // namespace somfs::bench
