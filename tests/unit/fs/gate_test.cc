// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fs/gate.h"

namespace somfs::fs {
namespace {

class HandClock final : public Clock {
 public:
  std::int64_t mono_ns() const override { return now_.load(); }
  std::int64_t wall_ns() const override { return now_.load(); }
  void advance_ms(std::int64_t ms) { now_ += ms * 1'000'000; }

 private:
  std::atomic<std::int64_t> now_{1'000'000'000};
};

// Where an operation of a test waits until the test lets it go on.
class Door {
 public:
  void open() {
    std::lock_guard l(m_);
    open_ = true;
    cv_.notify_all();
  }
  void walk_through() {
    std::unique_lock l(m_);
    arrived_ = true;
    cv_.notify_all();
    cv_.wait(l, [this] { return open_; });
  }
  void wait_for_arrival() {
    std::unique_lock l(m_);
    cv_.wait(l, [this] { return arrived_; });
  }

 private:
  std::mutex m_;
  std::condition_variable cv_;
  bool open_ = false, arrived_ = false;
};

// The order in which operations started.
class Record {
 public:
  void add(int i) {
    std::lock_guard l(m_);
    seen_.push_back(i);
    cv_.notify_all();
  }
  std::vector<int> wait_for(std::size_t n) {
    std::unique_lock l(m_);
    cv_.wait(l, [&] { return seen_.size() >= n; });
    return seen_;
  }
  std::size_t size() {
    std::lock_guard l(m_);
    return seen_.size();
  }

 private:
  std::mutex m_;
  std::condition_variable cv_;
  std::vector<int> seen_;
};

const std::function<void()> kNothing = [] {};

TEST(Gate, OpenRunsOnTheCallingThreadWithoutACopy) {
  SystemClock clock;
  Gate gate(clock);
  std::thread::id ran;
  bool owned = false;
  gate.pass(10, [&] { owned = true; }, [&] { ran = std::this_thread::get_id(); });
  EXPECT_EQ(ran, std::this_thread::get_id());
  EXPECT_FALSE(owned);
  EXPECT_TRUE(gate.idle());
}

TEST(Gate, ParksWithACopyAndReleasesInOrder) {
  SystemClock clock;
  Gate gate(clock, {.releasers = 1});  // a second one might step in on a busy machine
  Record order;
  ASSERT_TRUE(gate.freeze(1000, 60'000));
  int copies = 0;
  for (int i = 0; i < 100; ++i) gate.pass(10, [&] { ++copies; }, [&, i] { order.add(i); });
  EXPECT_EQ(copies, 100);
  EXPECT_EQ(order.size(), 0u);
  EXPECT_EQ(gate.stats().parked, 100u);
  EXPECT_GE(gate.stats().parked_bytes, 1000u);
  EXPECT_STREQ(gate.stats().state, "frozen");
  EXPECT_FALSE(gate.idle());
  EXPECT_TRUE(gate.thaw());
  std::vector<int> seen = order.wait_for(100);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], i);
  EXPECT_FALSE(gate.thaw()) << "it is open";
  EXPECT_EQ(gate.stats().freezes, 1u);
  EXPECT_EQ(gate.stats().most_parked, 100u);
}

TEST(Gate, FreezeWaitsForAnOperationInFlight) {
  SystemClock clock;
  Gate gate(clock);
  Door door;
  std::atomic<bool> done{false};
  std::thread op([&] {
    gate.pass(1, kNothing, [&] {
      door.walk_through();
      done = true;
    });
  });
  door.wait_for_arrival();
  std::thread freezer([&] {
    EXPECT_TRUE(gate.freeze(60'000, 60'000));
    EXPECT_TRUE(done);
    EXPECT_TRUE(gate.thaw());
  });
  while (std::string(gate.stats().state) != "closing") std::this_thread::yield();
  door.open();
  freezer.join();
  op.join();
}

TEST(Gate, AnOperationThatDoesNotEndFailsTheFreezeAndReopens) {
  HandClock clock;
  Gate gate(clock);
  Door door;
  Record order;
  std::thread op([&] { gate.pass(1, kNothing, [&] { door.walk_through(); }); });
  door.wait_for_arrival();
  std::thread freezer([&] { EXPECT_EQ(gate.freeze(500, 1000).why, Held::in_flight); });
  while (std::string(gate.stats().state) != "closing") std::this_thread::yield();
  gate.pass(1, kNothing, [&] { order.add(1); });
  clock.advance_ms(500);
  gate.clock_moved();
  freezer.join();
  order.wait_for(1);
  EXPECT_EQ(gate.stats().drain_timeouts, 1u);
  EXPECT_FALSE(gate.thaw());
  door.open();
  op.join();
}

TEST(Gate, OpensByItselfWhenItsOwnerIsGone) {
  HandClock clock;
  Gate gate(clock);
  Record order;
  ASSERT_TRUE(gate.freeze(500, 1000));
  gate.pass(1, kNothing, [&] { order.add(1); });
  clock.advance_ms(999);
  gate.clock_moved();
  EXPECT_STREQ(gate.stats().state, "frozen");
  EXPECT_EQ(order.size(), 0u);
  clock.advance_ms(1);
  gate.clock_moved();
  order.wait_for(1);
  EXPECT_EQ(gate.stats().hold_timeouts, 1u);
  EXPECT_EQ(gate.stats().freezes, 0u);
  EXPECT_DOUBLE_EQ(gate.stats().last_closed_ms, 1000.0);
  EXPECT_EQ(gate.thaw().why, Held::too_long) << "the cut did not hold, and the owner has to hear it";
}

TEST(Gate, AThawThatComesTooLateIsToldSoEvenBeforeTheTimerRan) {
  HandClock clock;
  Gate gate(clock);
  ASSERT_TRUE(gate.freeze(500, 1000));
  clock.advance_ms(1000);
  EXPECT_EQ(gate.thaw().why, Held::too_long);
}

TEST(Gate, TheByteBoundOpensIt) {
  SystemClock clock;
  Gate gate(clock, {.max_parked_bytes = 10'000});
  Record order;
  ASSERT_TRUE(gate.freeze(1000, 60'000));
  for (int i = 0; i < 20; ++i) gate.pass(1000, kNothing, [&, i] { order.add(i); });
  order.wait_for(20);
  EXPECT_EQ(gate.thaw().why, Held::too_many);
  EXPECT_EQ(gate.stats().overflows, 1u);
  EXPECT_LT(gate.stats().most_parked_bytes, 12'000u);
}

TEST(Gate, OneFreezeAtATime) {
  SystemClock clock;
  Gate gate(clock);
  ASSERT_TRUE(gate.freeze(1000, 60'000));
  EXPECT_EQ(gate.freeze(1000, 60'000).why, Held::other);
  EXPECT_TRUE(gate.thaw());
}

TEST(Gate, OneSlowReleasedOperationDoesNotHoldUpTheOthers) {
  HandClock clock;
  Gate gate(clock, {.stall_ms = 50});
  Record order;
  Door door;
  ASSERT_TRUE(gate.freeze(1000, 60'000));
  gate.pass(1, kNothing, [&] { door.walk_through(); });
  for (int i = 0; i < 10; ++i) gate.pass(1, kNothing, [&, i] { order.add(i); });
  ASSERT_TRUE(gate.thaw());
  door.wait_for_arrival();
  EXPECT_EQ(order.size(), 0u);
  clock.advance_ms(50);
  gate.clock_moved();
  std::vector<int> seen = order.wait_for(10);  // all of them, with no further step of the clock
  for (int i = 0; i < 10; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], i);
  door.open();
}

TEST(Gate, AnArrivalDuringTheReleaseRunsTheOldestFirst) {
  HandClock clock;
  Gate gate(clock, {.releasers = 1});
  Record order;
  Door door;
  ASSERT_TRUE(gate.freeze(1000, 60'000));
  gate.pass(1, kNothing, [&] { door.walk_through(); });
  gate.pass(1, kNothing, [&] { order.add(1); });
  ASSERT_TRUE(gate.thaw());
  door.wait_for_arrival();  // the only release thread is held up
  gate.pass(1, kNothing, [&] { order.add(2); });
  EXPECT_EQ(order.wait_for(1), std::vector<int>{1});
  gate.pass(1, kNothing, [&] { order.add(3); });
  EXPECT_EQ(order.wait_for(2), (std::vector<int>{1, 2}));
  door.open();
  EXPECT_EQ(order.wait_for(3), (std::vector<int>{1, 2, 3}));
}

TEST(Gate, DestructionRunsWhatIsParked) {
  SystemClock clock;
  Record order;
  {
    Gate gate(clock);
    ASSERT_TRUE(gate.freeze(1000, 60'000));
    for (int i = 0; i < 5; ++i) gate.pass(1, kNothing, [&, i] { order.add(i); });
  }
  EXPECT_EQ(order.size(), 5u);
}

// Writers at full speed against repeated freezes: inside a freeze nothing runs, nothing is lost, and each writer's own operations
// (the next one is issued when the last one has run) never overtake each other.
TEST(Gate, NothingRunsInsideAFreezeAndNothingIsLost) {
  SystemClock clock;
  Gate gate(clock, {.max_parked_bytes = 1u << 20});
  constexpr int kWriters = 4, kOps = 20000;
  std::atomic<bool> frozen{false};
  std::atomic<int> inside{0}, issued{0}, ran{0}, finished{0}, held{0};
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w)
    writers.emplace_back([&] {
      for (int i = 0; i < kOps || held == 0; ++i) {   // whoever freezes may be slow to begin
        issued++;
        auto door = std::make_shared<Door>();
        gate.pass(100, kNothing, [&, door] {
          inside++;
          EXPECT_FALSE(frozen);
          ran++;
          inside--;
          door->open();
        });
        door->walk_through();
      }
      finished++;
    });
  while (finished < kWriters) {
    if (!gate.freeze(10'000, 60'000)) continue;
    frozen = true;
    EXPECT_EQ(inside, 0);
    const int before = ran;
    for (int i = 0; i < 50; ++i) std::this_thread::yield();
    EXPECT_EQ(ran, before);
    frozen = false;
    EXPECT_TRUE(gate.thaw());
    held++;
  }
  for (std::thread& t : writers) t.join();
  EXPECT_EQ(ran, issued);
  EXPECT_GT(held, 0);
  EXPECT_TRUE(gate.idle());
}

// The end of a mount: what is parked still needs what is taken down next.
TEST(Gate, SettleWaitsForWhatIsParkedAndWhatRuns) {
  HandClock clock;
  Gate gate(clock);
  Door door;
  std::atomic<int> done = 0;
  std::jthread running([&] {
    gate.pass(1, [] {}, [&] {
      door.walk_through();
      ++done;
    });
  });
  door.wait_for_arrival();
  std::jthread freezer([&] { EXPECT_EQ(gate.freeze(1000, 1000).why, Held::ending); });
  while (std::string(gate.stats().state) != "closing") std::this_thread::yield();
  gate.pass(1, [] {}, [&] {
    ++done;
    door.open();
  });
  EXPECT_EQ(done, 0);
  gate.settle();
  EXPECT_EQ(done, 2);
  EXPECT_TRUE(gate.idle());
  EXPECT_EQ(gate.freeze(1000, 1000).why, Held::ending) << "it was the end";
}

TEST(Gate, TheEndLetsGoOfWhatIsHeld) {
  SystemClock clock;
  Gate gate(clock);
  ASSERT_TRUE(gate.freeze(1000, 60'000));
  Record order;
  gate.pass(1, kNothing, [&] { order.add(1); });
  gate.settle();
  EXPECT_EQ(order.size(), 1u);
  EXPECT_EQ(gate.thaw().why, Held::ending);
}

}  // namespace
}  // namespace somfs::fs
