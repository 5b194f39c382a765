// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "replicator/conveyor.h"
#include "replicator/pipeline.h"
#include "replicator/stage_meter.h"

namespace somfs::replicator {
namespace {

struct Job {
  int number = 0;
  std::vector<unsigned> passed;
};
using Belt = Conveyor<Job>;

std::unique_ptr<Job> job(int number) { return std::make_unique<Job>(Job{number, {}}); }

TEST(ConveyorTest, JobsLeaveInTheOrderInWhichTheyCameThroughAllTheirLanes) {
  for (unsigned threads : {1u, 2u, 6u}) {
    Belt belt(threads, 3, 1000, [](Job& j, unsigned lane, unsigned) {
      if (j.number % 7 == 0) std::this_thread::yield();
      j.passed.push_back(lane);
    });
    std::jthread feed([&] {
      std::minstd_rand random(5);
      for (int i = 0; i < 5000; ++i) ASSERT_TRUE(belt.put(job(i), static_cast<unsigned>(i) % 3, random() % 700));
      belt.end();
    });
    for (int i = 0; i < 5000; ++i) {
      auto j = belt.take();
      ASSERT_NE(j, nullptr);
      ASSERT_EQ(j->number, i);
      std::vector<unsigned> all;
      for (unsigned lane = 0; lane < static_cast<unsigned>(i) % 3; ++lane) all.push_back(lane);
      ASSERT_EQ(j->passed, all);
    }
    EXPECT_EQ(belt.take(), nullptr);
    EXPECT_TRUE(belt.empty());
  }
}

TEST(ConveyorTest, ALaneHasNoMoreThreadsThanItMay) {
  std::atomic<int> in_lane[2] = {0, 0};
  std::atomic<int> most{0};
  Belt belt(6, 2, 1 << 20, [&](Job&, unsigned lane, unsigned) {
    const int now = ++in_lane[lane];
    int seen = most;
    while (now > seen && !most.compare_exchange_weak(seen, now)) {}
    std::this_thread::yield();
    --in_lane[lane];
  });
  std::jthread feed([&] {
    for (int i = 0; i < 2000; ++i) belt.put(job(i), 2, 1);
    belt.end();
  });
  while (belt.take() != nullptr) {}
  EXPECT_LE(most, 2);
}

TEST(ConveyorTest, TheBoundHoldsAndOneJobAlwaysFits) {
  Belt belt(0, 1, 100, [](Job&, unsigned, unsigned) {});
  ASSERT_TRUE(belt.put(job(0), 0, 1000));
  std::atomic<bool> second{false};
  std::jthread feed([&] {
    ASSERT_TRUE(belt.put(job(1), 0, 60));
    ASSERT_TRUE(belt.put(job(2), 0, 60));
    second = true;
  });
  std::this_thread::yield();
  EXPECT_FALSE(second);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(belt.take()->number, i);
}

TEST(ConveyorTest, AbandonedItWakesWhoWaits) {
  Belt belt(2, 1, 10, [](Job&, unsigned, unsigned) {});
  ASSERT_TRUE(belt.put(job(0), 0, 10));
  std::jthread feed([&] { EXPECT_FALSE(belt.put(job(1), 1, 10)); });
  while (belt.empty()) std::this_thread::yield();
  belt.abandon();
  EXPECT_EQ(belt.take(), nullptr);
  EXPECT_FALSE(belt.put(job(2), 0, 1));
}

StageTimes source(double group, double compress, double encrypt, double send) {
  StageTimes t{};
  t[static_cast<std::size_t>(Stage::group)] = group;
  t[static_cast<std::size_t>(Stage::compress)] = compress;
  t[static_cast<std::size_t>(Stage::encrypt)] = encrypt;
  t[static_cast<std::size_t>(Stage::send)] = send;
  return t;
}

TEST(Arrangements, TheLeastTimeIsThatOfTheSlowestLaneOrOfAllTheWork) {
  const StageTimes t = source(1, 8, 4, 1);
  EXPECT_DOUBLE_EQ(least_time(t, Site::source, PipelineMode::serial, 2, 8), 14);
  EXPECT_DOUBLE_EQ(least_time(t, Site::source, PipelineMode::fine, 2, 8), 9);
  EXPECT_DOUBLE_EQ(least_time(t, Site::source, PipelineMode::threaded, 2, 8), 6);
  EXPECT_DOUBLE_EQ(least_time(t, Site::source, PipelineMode::hybrid, 2, 8), 4);
  EXPECT_DOUBLE_EQ(least_time(t, Site::source, PipelineMode::hybrid, 2, 2), 7) << "two cores do no more";
}

TEST(Arrangements, TheSimplestOfTheBestIsChosen) {
  EXPECT_EQ(choose_mode(source(1, 8, 4, 1), Site::source, 2, 8), PipelineMode::hybrid);
  EXPECT_EQ(choose_mode(source(1, 8, 4, 1), Site::source, 2, 2), PipelineMode::threaded);
  EXPECT_EQ(choose_mode(source(1, 8, 4, 1), Site::source, 4, 1), PipelineMode::serial) << "one core";
  EXPECT_EQ(choose_mode(source(5, 1, 5, 1), Site::source, 1, 2), PipelineMode::fine);
  EXPECT_EQ(choose_mode(source(100, 1, 1, 1), Site::source, 4, 8), PipelineMode::serial) << "what it waits for is not in the pipeline";
  EXPECT_EQ(choose_mode({}, Site::mirror, 4, 8), PipelineMode::serial);
}

TEST(Arrangements, NamesAreReadAsTheyAreWritten) {
  for (PipelineMode mode : {PipelineMode::automatic, PipelineMode::serial, PipelineMode::fine, PipelineMode::threaded, PipelineMode::hybrid})
    EXPECT_EQ(pipeline_mode(name_of(mode)), mode);
  EXPECT_FALSE(pipeline_mode("Serial"));
  EXPECT_FALSE(pipeline_mode(""));
}

TEST(Arrangements, StagesOfALaneAreNeighboursAndNoLaneSpansBothSites) {
  for (PipelineMode mode : {PipelineMode::serial, PipelineMode::fine, PipelineMode::threaded, PipelineMode::hybrid}) {
    const Lanes lanes = lanes_of(mode);
    for (std::size_t i = 1; i < kStages; ++i) {
      EXPECT_LE(lanes[i] - lanes[i - 1], 1);
      EXPECT_GE(lanes[i], lanes[i - 1]);
    }
    EXPECT_NE(lanes[kFirstOfBackup], lanes[kFirstOfBackup - 1]);
  }
}

TEST(Meter, AddsUpWhatWentThrough) {
  StageMeter meter;
  const StageSums before = meter.sums();
  {
    StageMeter::Run run(meter, Stage::compress, 100);
    run.produced(40);
  }
  { StageMeter::Run run(meter, Stage::send, 40); }
  meter.add(Stage::send, 2'000'000'000, 1'000'000'000, 1, 1);
  const StageSums sums = meter.sums() - before;
  EXPECT_EQ(sums.bytes_in[static_cast<std::size_t>(Stage::compress)], 100u);
  EXPECT_EQ(sums.bytes_out[static_cast<std::size_t>(Stage::compress)], 40u);
  EXPECT_EQ(sums.bytes_in[static_cast<std::size_t>(Stage::send)], 41u);
  EXPECT_GE(sums.wall[static_cast<std::size_t>(Stage::send)], 2);
  EXPECT_GE(sums.cpu[static_cast<std::size_t>(Stage::send)], 1);
  EXPECT_EQ(sums.bytes_in[static_cast<std::size_t>(Stage::encrypt)], 0u);
}

}  // namespace
}  // namespace somfs::replicator
