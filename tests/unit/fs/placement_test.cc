// SPDX-License-Identifier: Apache-2.0
#include "fs/placement.h"

#include <gtest/gtest.h>

#include <vector>

namespace somfs::fs {
namespace {

constexpr int kAnywhere = Placement::kAnywhere;
constexpr pid_t kClient = 100, kOther = 200;

// A machine on which a request takes `spread_ns` where the scheduler likes and `close_ns` on the client's processor.
class PlacementTest : public ::testing::Test {
 protected:
  int request(pid_t client = kClient) {
    clock.now += where == kAnywhere ? spread_ns : close_ns;
    return where = placement.arrived(client);
  }
  // How many of so many requests were served close by.
  unsigned requests(unsigned n, pid_t client = kClient) {
    unsigned close = 0;
    for (unsigned i = 0; i < n; ++i) close += request(client) != kAnywhere;
    return close;
  }

  FakeClock clock;
  int processor = 3;
  std::int64_t spread_ns = 20'000, close_ns = 10'000;
  int where = kAnywhere;
  Placement placement{clock, [this](pid_t) { return processor; }};
};

TEST_F(PlacementTest, ServesALoneClientCloseByWhereThatIsFaster) {
  requests(8 * Placement::kWindow);
  EXPECT_GT(requests(100'000), 95'000u);
  EXPECT_EQ(where, 3);
}

TEST_F(PlacementTest, LeavesTheThreadsAloneWhereItIsNot) {
  close_ns = 19'000;  // not worth it
  const unsigned trials = requests(1'000'000);
  EXPECT_EQ(where, kAnywhere);
  EXPECT_GT(trials, 0u);
  EXPECT_LT(trials, 10'000u);  // ever rarer
}

TEST_F(PlacementTest, TriesAgainLater) {
  close_ns = 25'000;
  requests(100'000);
  EXPECT_EQ(where, kAnywhere);
  close_ns = 10'000;
  requests(2'000'000);
  EXPECT_EQ(where, 3);
}

TEST_F(PlacementTest, ReturnsWhenItIsNoLongerFaster) {
  requests(10'000);
  ASSERT_EQ(where, 3);
  close_ns = 40'000;
  requests(100'000);
  EXPECT_LT(requests(100'000), 10'000u);
}

TEST_F(PlacementTest, FollowsTheClient) {
  requests(10'000);
  ASSERT_EQ(where, 3);
  processor = 5;
  requests(2 * Placement::kWindow);
  EXPECT_EQ(where, 5);
}

TEST_F(PlacementTest, SpreadsForSeveralClients) {
  requests(10'000);
  ASSERT_EQ(where, 3);
  unsigned close = 0;
  for (int i = 0; i < 50'000; ++i) close += request(i % 2 != 0 ? kClient : kOther) != kAnywhere;
  EXPECT_LT(close, 100u);
  EXPECT_EQ(where, kAnywhere);
}

TEST_F(PlacementTest, TakesOverForTheNextClient) {
  requests(10'000);
  requests(10'000, kOther);
  EXPECT_EQ(where, 3);
}

TEST_F(PlacementTest, SpreadsAfterAPause) {
  requests(10'000);
  ASSERT_EQ(where, 3);
  clock.now += Placement::kPause;
  EXPECT_EQ(request(), kAnywhere);
}

TEST_F(PlacementTest, WhatNobodyWaitsForCountsForNothing) {
  unsigned close = 0;
  for (int i = 0; i < 50'000; ++i) close += request(i % 2 != 0 ? kClient : 0) != kAnywhere;
  EXPECT_EQ(where, 3);
  EXPECT_GT(close, 40'000u);
}

TEST_F(PlacementTest, AClientWhoseProcessorIsUnknownStaysWhereItIs) {
  processor = kAnywhere;
  EXPECT_EQ(requests(100'000), 0u);
}

TEST(Processor, OfThisThreadIsKnown) {
  EXPECT_EQ(last_processor_of(0), kAnywhere);
  EXPECT_EQ(last_processor_of(1 << 30), kAnywhere);
  cpu_set_t before, one;
  ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
  if (CPU_COUNT(&before) < 2) GTEST_SKIP() << "one processor";
  EXPECT_NE(last_processor_of(::gettid()), kAnywhere);
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (!CPU_ISSET(i, &before)) continue;
    run_on(i);
    ASSERT_EQ(::sched_getaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(CPU_COUNT(&one), 1);
    EXPECT_TRUE(CPU_ISSET(i, &one));
    EXPECT_EQ(last_processor_of(::gettid()), i);
  }
  run_on(kAnywhere);
  ASSERT_EQ(::sched_getaffinity(0, sizeof one, &one), 0);
  EXPECT_TRUE(CPU_EQUAL(&one, &before));
}

}  // namespace
}  // namespace somfs::fs
