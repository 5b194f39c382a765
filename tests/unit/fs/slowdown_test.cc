// SPDX-License-Identifier: Apache-2.0
// What is slowed down starts in its order and not before its time, on no caller's time; and nothing is left behind.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "fs/slowdown.h"

namespace somfs::fs {
namespace {

using std::chrono::milliseconds;

class Direct final : public Admission {
 public:
  void pass(std::size_t, const std::function<void()>&, std::function<void()> go) override { go(); }
};

bool eventually(const std::function<bool()>& what) {
  for (int i = 0; i < 3000; ++i) {
    if (what()) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

// Moved while others read it.
class HandClock final : public Clock {
 public:
  std::int64_t mono_ns() const override { return now_; }
  std::int64_t wall_ns() const override { return now_; }
  void advance(milliseconds by) { now_ += std::chrono::nanoseconds(by).count(); }

 private:
  std::atomic<std::int64_t> now_{1'000'000'000};
};

class SlowdownTest : public ::testing::Test {
 protected:
  void pass(int n, std::size_t bytes = 1) {
    slow.pass(bytes, [this] { ++owned; }, [this, n] {
      Lock l(mutex);
      ran.push_back(n);
    });
  }
  std::vector<int> done() {
    Lock l(mutex);
    return ran;
  }
  void advance(milliseconds by) {
    clock.advance(by);
    slow.clock_moved();
  }

  HandClock clock;
  Direct direct;
  std::atomic<std::int64_t> delay_ns{0};
  Mutex mutex;
  std::vector<int> ran GUARDED_BY(mutex);
  std::atomic<int> owned{0};
  Slowdown slow{direct, [this](std::uint64_t) { return std::chrono::nanoseconds(delay_ns.load()); }, clock, {.max_bytes = 100, .longest = milliseconds(100), .threads = 1}};
};

TEST_F(SlowdownTest, WithoutADelayItCopiesNothing) {
  pass(1);
  EXPECT_EQ(done(), std::vector<int>{1});
  EXPECT_EQ(owned, 0);
}

TEST_F(SlowdownTest, StartsLaterAndInOrder) {
  delay_ns = 50'000'000;
  pass(1);
  delay_ns = 10'000'000;
  pass(2);   // does not overtake
  EXPECT_EQ(owned, 2);
  advance(milliseconds(49));
  EXPECT_EQ(slow.waiting(), 2u);
  EXPECT_TRUE(done().empty());
  advance(milliseconds(1));
  ASSERT_TRUE(eventually([&] { return done().size() == 2; }));
  EXPECT_EQ(done(), (std::vector<int>{1, 2}));
}

TEST_F(SlowdownTest, NoOperationWaitsLongerThanItsBound) {
  delay_ns = 3'600'000'000'000;
  pass(1);
  advance(milliseconds(100));
  EXPECT_TRUE(eventually([&] { return done().size() == 1; }));
}

TEST_F(SlowdownTest, OnceTheDelayIsOverEachCallerRunsTheOldest) {
  delay_ns = 50'000'000;
  pass(1);
  pass(2);
  delay_ns = 0;
  pass(3);
  EXPECT_EQ(done(), std::vector<int>{1});
  pass(4);
  EXPECT_EQ(done(), (std::vector<int>{1, 2}));
  slow.settle();
  EXPECT_EQ(done(), (std::vector<int>{1, 2, 3, 4}));
  pass(5);
  EXPECT_EQ(done().size(), 5u);
}

TEST_F(SlowdownTest, MemoryIsBounded) {
  delay_ns = 50'000'000;
  pass(1, 60);
  pass(2, 60);
  EXPECT_EQ(done(), std::vector<int>{1});
  EXPECT_EQ(slow.waiting(), 1u);
}

}  // namespace
}  // namespace somfs::fs
