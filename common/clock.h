// SPDX-License-Identifier: Apache-2.0
// Time is injected: pure cores take a Clock, tests hand them one they move by hand.
#pragma once

#include <chrono>
#include <cstdint>

namespace somfs {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual std::int64_t mono_ns() const = 0;  // never steps
  virtual std::int64_t wall_ns() const = 0;  // since 1970, may step
};

class SystemClock final : public Clock {
 public:
  std::int64_t mono_ns() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  std::int64_t wall_ns() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
};

class FakeClock final : public Clock {
 public:
  std::int64_t now = 1'000'000'000;
  std::int64_t wall = 1'700'000'000'000'000'000;
  std::int64_t mono_ns() const override { return now; }
  std::int64_t wall_ns() const override { return wall; }
  void advance_ms(std::int64_t ms) {
    now += ms * 1'000'000;
    wall += ms * 1'000'000;
  }
};

}  // namespace somfs
