// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <thread>

#include "bench/collector.h"
#include "bench/pipeline_run.h"
#include "bench/requests.h"

namespace somfs::bench {
namespace {

std::string page(char c) { return std::string(4096, c); }

TEST(Collector, WhatFollowsOnIsOnePieceAndTheLastRequestEndsIt) {
  Collector c(false);
  c.begin();
  c.decide(3600, 1 << 20, false);
  c.add(0, page('a'));
  c.add(4096, page('b'));
  c.add(0, page('c'));
  c.end();
  Group g;
  ASSERT_TRUE(c.take(g));
  ASSERT_EQ(g.pieces.size(), 2u);
  EXPECT_EQ(g.pieces[0].len, 8192u);
  EXPECT_EQ(g.pieces[1].off, 0u);
  EXPECT_EQ(g.bytes, page('a') + page('b') + page('c'));
  EXPECT_EQ(g.requested, 3 * 4096u);
  EXPECT_GE(g.closed_ns, g.opened_ns);
  EXPECT_FALSE(c.take(g));
}

TEST(Collector, AtRandomPlacesWhatIsWrittenOverCountsOnce) {
  Collector c(true);
  c.begin();
  c.decide(3600, 1 << 20, false);
  c.add(8192, page('a'));
  c.add(0, page('b'));
  c.add(8192, page('c'));
  c.end();
  Group g;
  ASSERT_TRUE(c.take(g));
  EXPECT_EQ(g.bytes, page('c') + page('b'));
  EXPECT_EQ(g.requested, 3 * 4096u);
}

TEST(Collector, AFullGroupIsTakenAtOnceWhereItMay_AndTheWriterWaitsUntilThen) {
  Collector c(false);
  c.begin();
  c.decide(3600, 8192, true);
  std::jthread writer([&] {
    for (std::uint64_t i = 0; i < 5; ++i) {
      c.wait_for_room();
      c.add(i * 4096, page(static_cast<char>('0' + i)));
    }
    c.end();
  });
  std::string all;
  Group g;
  while (c.take(g)) {
    EXPECT_LE(g.bytes.size(), 8192u);
    all += g.bytes;
  }
  EXPECT_EQ(all, page('0') + page('1') + page('2') + page('3') + page('4'));
}

TEST(Collector, AGroupIsTakenWhenItsIntervalIsOver) {
  Collector c(false);
  c.begin();
  c.decide(0.001, 1 << 20, false);
  c.add(0, page('a'));
  Group g;
  ASSERT_TRUE(c.take(g));
  EXPECT_GE(g.closed_ns - g.opened_ns, 1'000'000);
  EXPECT_DOUBLE_EQ(g.interval_s, 0.001);
}

TEST(Requests, AreTheSameInEveryRunAlignedAndWithinTheFile) {
  Requests a(4096, 1 << 20, true, 0.5), b(4096, 1 << 20, true, 0.5);
  for (int i = 0; i < 5000; ++i) {
    const Requests::One x = a.next(), y = b.next();
    ASSERT_EQ(x.off, y.off);
    ASSERT_EQ(x.bytes, y.bytes);
    ASSERT_EQ(x.off % 4096, 0u);
    ASSERT_LE(x.off + x.bytes.size(), 1u << 20);
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(x.bytes.data()) % 512, 0u);
  }
}

TEST(Measured, TheBoundIsTheSlowestLaneOrAllWorkOnAllCores) {
  using replicator::PipelineMode;
  using replicator::Stage;
  Measured m;
  m.bytes = 1'000'000'000;
  const auto set = [&](Stage stage, double s) { m.cpu[static_cast<std::size_t>(stage)] = s; };
  set(Stage::group, 0.5), set(Stage::compress, 2), set(Stage::encrypt, 1), set(Stage::send, 0.5), set(Stage::write, 1);
  m.cores_source = m.cores_mirror = 1;
  EXPECT_DOUBLE_EQ(m.bound_mb_s(PipelineMode::serial, 2), 250);    // 4 s of the source, one after the other
  EXPECT_DOUBLE_EQ(m.bound_mb_s(PipelineMode::hybrid, 2), 250);    // ... or on one core
  m.cores_source = 4;
  EXPECT_DOUBLE_EQ(m.bound_mb_s(PipelineMode::fine, 2), 400);      // 2.5 s of group and compress
  EXPECT_DOUBLE_EQ(m.bound_mb_s(PipelineMode::hybrid, 2), 1000);   // all 4 s on 4 cores; the mirror's 1 s
  m.writer_cpu = 4;
  EXPECT_DOUBLE_EQ(m.bound_mb_s(PipelineMode::hybrid, 2), 250);    // the writer is one thread
  m.writer_cpu = 0;
  m.cores_shared = true;
  m.cores_source = m.cores_mirror = 2;
  EXPECT_DOUBLE_EQ(m.bound_mb_s(PipelineMode::hybrid, 4), 400);    // 5 s of both sites on 2 cores
}

TEST(RunSettings, WhatMakesNoSenseIsNamed) {
  RunSettings s;
  EXPECT_EQ(s.problem(), "");
  s.request = 1000;
  EXPECT_NE(s.problem().find("request"), std::string::npos);
  s = {};
  s.file = s.request + 512;
  EXPECT_NE(s.problem().find("whole number"), std::string::npos);
  s = {};
  s.seconds = 0;
  EXPECT_NE(s.problem().find("bound the run"), std::string::npos);
  s = {};
  s.first_s = 0;
  EXPECT_NE(s.problem().find("first interval"), std::string::npos);
}

}  // namespace
}  // namespace somfs::bench
