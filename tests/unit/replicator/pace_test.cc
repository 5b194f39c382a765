// SPDX-License-Identifier: Apache-2.0
// The laws one by one, driven by hand: a group per interval, acknowledged within it.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>

#include "replicator/pace.h"

namespace somfs::replicator {
namespace {

struct Site {
  double fixed_s, per_byte_s;
  double at(double bytes) const { return fixed_s + per_byte_s * bytes; }
};
constexpr double kRate = 50e6;
Site loaded(double fixed_s, double load) { return {fixed_s, load / kRate}; }

// One interval in lock-step: formula (1) when the source is through, (2) on the answer. Nothing queues, nothing waits.
struct LockStep {
  std::unique_ptr<Pace> pace;
  Site source, mirror;
  double now = 100;

  double interval() const { return pace->decision().interval_s; }
  void group(double bytes, double seconds) {
    GroupDone done;
    done.bytes = static_cast<std::uint64_t>(bytes);
    done.opened_ns = static_cast<std::int64_t>(now * 1e9);
    done.closed_ns = static_cast<std::int64_t>((now += seconds) * 1e9);
    done.now_ns = done.closed_ns + static_cast<std::int64_t>(source.at(bytes) * 1e9);
    done.times[static_cast<std::size_t>(Stage::compress)] = source.at(bytes);
    pace->group_done(done);
    Acknowledged ack;
    ack.bytes = done.bytes;
    ack.now_ns = done.now_ns;
    ack.times[static_cast<std::size_t>(Stage::write)] = mirror.at(bytes);
    pace->acknowledged(ack);
  }
  void run(int periods) {
    for (int i = 0; i < periods; ++i) group(kRate * interval(), interval());
  }
};

PaceSettings with(Pacing pacing, double first_s = 0.030) {
  PaceSettings settings;
  settings.pacing = pacing;
  settings.first_s = first_s;
  return settings;
}

TEST(PaperPace, FormulasOneAndTwo) {
  PaceSettings settings = with(Pacing::paper, 0.030);
  settings.alpha = 0.25;
  auto pace = make_pace(settings);
  GroupDone done;
  done.bytes = 1;
  done.times = {0.004, 0.003, 0.002, 0.001};
  EXPECT_NEAR(pace->group_done(done).interval_s, 0.030 + 0.25 * (0.010 - 0.030), 1e-12);
  Acknowledged ack;
  ack.times = {9, 9, 9, 9, 0.005, 0.004, 0.003, 0.002, 0.001, 9};   // neither the source's stages nor apply count
  EXPECT_NEAR(pace->acknowledged(ack).interval_s, 0.025 + 0.5 * (0.015 - 0.025), 1e-12);
}

TEST(PaperPace, FineAppliesTheRuleToEveryLane) {
  PaceSettings settings = with(Pacing::paper, 0.030);
  settings.lanes = kFineLanes;
  auto pace = make_pace(settings);
  GroupDone done;
  done.times = {0.006, 0.004, 0.010, 0.010};
  EXPECT_NEAR(pace->group_done(done).interval_s, 0.020, 1e-12);   // 30 -> 20 (lane of 10) -> 20 (lane of 20)
}

TEST(PaperPace, SettlesAtAMeanBelowWhatTheMirrorNeeds) {
  LockStep pair{make_pace(with(Pacing::paper)), loaded(0.002, 0.3), loaded(0.006, 0.8)};
  pair.run(100);
  EXPECT_NEAR(pair.interval(), 0.0127, 0.0001);
  EXPECT_NEAR(pair.mirror.at(kRate * pair.interval()), 0.0162, 0.0001);
}

TEST(PaperPace, MasksOverload) {
  LockStep pair{make_pace(with(Pacing::paper)), loaded(0.002, 0.3), loaded(0.006, 1.2)};
  pair.run(200);
  const double settled = pair.interval();
  pair.run(1);
  EXPECT_NEAR(pair.interval(), settled, 1e-4 * settled);                              // calm
  EXPECT_GT(pair.mirror.at(kRate * settled), 1.3 * settled);                          // and falling behind
  EXPECT_EQ(pair.pace->decision().overload, Overload::none);
}

// Writers that always have more: every group is as large as the threshold, and the interval lasts as long as the slower site.
double saturated(double first_s) {
  PaceSettings settings = with(Pacing::paper, first_s);
  LockStep pair{make_pace(settings), loaded(0.002, 0.3), loaded(0.006, 0.8)};
  double bytes = kRate * first_s, seconds = first_s;
  for (int i = 0; i < 400; ++i) {
    pair.group(bytes, seconds);
    bytes = static_cast<double>(pair.pace->decision().threshold_bytes);
    seconds = std::max({pair.interval(), pair.source.at(bytes), pair.mirror.at(bytes)});
  }
  return bytes / seconds;
}

TEST(PaperPace, UnderSaturationTheStartDecidesTheEnd) {
  const double from_30 = saturated(0.030), from_15 = saturated(0.015);
  EXPECT_GT(std::abs(from_30 - from_15) / from_15, 0.10) << from_30 << " " << from_15;
}

TEST(BottleneckPace, SettlesWhereTheSlowestFits) {
  for (const double first : {0.015, 0.030, 0.500}) {
    LockStep pair{make_pace(with(Pacing::bottleneck, first)), loaded(0.002, 0.3), loaded(0.006, 0.8)};
    pair.run(60);
    EXPECT_NEAR(pair.interval(), 1.05 * 0.006 / (1 - 1.05 * 0.8), 0.0004) << first;
    EXPECT_EQ(pair.pace->decision().bottleneck, Stage::write);
    EXPECT_NEAR(pair.pace->decision().load, 1.05 * 0.8, 0.01);
  }
}

TEST(BottleneckPace, UnderSaturationTheStartDoesNotMatter) {
  double ends[2];
  for (int i = 0; i < 2; ++i) {
    LockStep pair{make_pace(with(Pacing::bottleneck, i ? 0.015 : 0.030)), loaded(0.002, 0.3), loaded(0.006, 0.8)};
    double bytes = kRate * pair.interval(), seconds = pair.interval();
    for (int k = 0; k < 400; ++k) {
      pair.group(bytes, seconds);
      bytes = static_cast<double>(pair.pace->decision().threshold_bytes);
      seconds = pair.mirror.at(bytes);
    }
    ends[i] = bytes / seconds;
  }
  EXPECT_NEAR(ends[0] / ends[1], 1, 0.02);
}

TEST(BottleneckPace, ApplyCounts) {
  auto pace = make_pace(with(Pacing::bottleneck));
  for (int i = 0; i < 30; ++i) {
    GroupDone done;
    done.bytes = 1 << 20;
    done.opened_ns = i * 30'000'000;
    done.closed_ns = done.now_ns = done.opened_ns + 30'000'000;
    done.times[0] = 0.001;
    pace->group_done(done);
    Acknowledged ack;
    ack.bytes = done.bytes;
    ack.times[static_cast<std::size_t>(Stage::write)] = 0.002;
    ack.times.back() = 0.200;        // four groups in one batch
    ack.applied_bytes = 4 << 20;
    ack.applied_groups = 4;
    ack.backlog_s = 11;
    pace->acknowledged(ack);
  }
  EXPECT_EQ(pace->decision().bottleneck, Stage::apply);
  EXPECT_GE(pace->decision().need_s, 1.05 * 0.050);   // and more, for the larger group of a longer interval
  EXPECT_EQ(pace->decision().overload, Overload::backlog);
  EXPECT_NE(pace->decision().reason().find("apply at the mirror"), std::string::npos) << pace->decision().reason();
}

TEST(BottleneckPace, FullWindowIsOverloadAfterThreePeriods) {
  auto pace = make_pace(with(Pacing::bottleneck));
  GroupDone done;
  done.bytes = 1000;
  done.times[0] = 0.001;
  done.credits_in_use = 32;
  EXPECT_EQ(pace->group_done(done).overload, Overload::none);
  EXPECT_EQ(pace->group_done(done).overload, Overload::none);
  EXPECT_EQ(pace->group_done(done).overload, Overload::window);
  done.credits_in_use = 31;
  EXPECT_EQ(pace->group_done(done).overload, Overload::none);
}

TEST(BottleneckPace, TheFasterSideSleeps) {
  LockStep pair{make_pace(with(Pacing::bottleneck)), loaded(0.002, 0.1), loaded(0.006, 0.5)};
  pair.run(60);
  const Decision& d = pair.pace->decision();
  EXPECT_NEAR(d.sleep_s, d.interval_s - pair.source.at(kRate * d.interval_s), 1e-4);
  EXPECT_NEAR(d.mirror_idle_s, d.interval_s * 0.05 / 1.05, 1e-4);   // the margin alone
}

TEST(BottleneckPace, ShareStretchesTheInterval) {
  PaceSettings settings = with(Pacing::bottleneck);
  settings.share = 0.5;
  LockStep pair{make_pace(settings), loaded(0.002, 0.1), loaded(0.006, 0.3)};
  pair.run(60);
  EXPECT_NEAR(pair.mirror.at(kRate * pair.interval()) / pair.interval(), 0.5 / 1.05, 0.01);
  EXPECT_FALSE(pair.pace->decision().cut_when_full);
}

TEST(BottleneckPace, ALongLineDoesNotFillTheWindow) {
  LockStep pair{make_pace(with(Pacing::bottleneck)), loaded(0.0002, 0.1), loaded(0.0002, 0.1)};
  Acknowledged ack;
  ack.round_trip_s = 0.320;
  for (int i = 0; i < 60; ++i) {
    pair.run(1);
    pair.pace->acknowledged(ack);
  }
  EXPECT_NEAR(pair.interval(), 2 * 0.320 / 32, 1e-3);
}

TEST(BottleneckPace, SaysWhenTheRpoCannotBeHeld) {
  PaceSettings settings = with(Pacing::bottleneck);
  settings.rpo_s = 0.030;
  LockStep pair{make_pace(settings), loaded(0.002, 0.1), loaded(0.012, 0.5)};
  pair.run(20);
  EXPECT_TRUE(pair.pace->decision().rpo_missed);
  EXPECT_LE(pair.interval(), 0.010);
}

TEST(BestEffortPace, NeverSleeps) {
  auto pace = make_pace(with(Pacing::none));
  EXPECT_EQ(pace->group_done({}).sleep_s, 0);
  EXPECT_EQ(pace->decision().interval_s, PaceSettings().min_s);
}

TEST(PaceSettings, ProblemsAreNamed) {
  EXPECT_EQ(PaceSettings().problem(), "");
  PaceSettings s;
  s.alpha = 0;
  EXPECT_EQ(s.problem(), "alpha must lie between 0.01 and 1");
  s = {};
  s.rpo_s = 0.001;
  EXPECT_NE(s.problem().find("rpo"), std::string::npos);
  s = {};
  s.share = std::nan("");
  EXPECT_NE(s.problem().find("share"), std::string::npos);
}

// A disk that stalls for a second, twice, and works as before: what is collected for seconds then would be seconds behind.
TEST(BottleneckPace, AStallIsOverWhenItIsOver) {
  for (unsigned stalls = 1; stalls <= 5; ++stalls) {
    LockStep world{make_pace(with(Pacing::bottleneck)), {0.002, 0}, {0.008, 1e-9}};
    auto small = [&](double fixed_s) {
      world.mirror.fixed_s = fixed_s;
      world.group(0.8e6 * world.interval(), world.interval());
    };
    for (int i = 0; i < 60; ++i) small(0.008);
    const double before = world.interval();
    for (unsigned i = 0; i < stalls; ++i) small(1.0);
    const double stalled = world.now;
    for (int i = 0; i < 40 && world.interval() > 5 * before; ++i) small(0.008);
    EXPECT_LE(world.now - stalled, 7.5) << stalls << ": one interval of the longest kind, and what is left of a second one";
    small(0.008);
    small(0.008);
    EXPECT_LE(world.interval(), 5 * before) << stalls;
  }
}

// Anything a timer, a peer or a broken clock may say.
double odd_seconds() {
  switch (*rc::gen::inRange(0, 8)) {
    case 0: return 0;
    case 1: return -*rc::gen::inRange(1, 1000000) * 1e-3;
    case 2: return std::nan("");
    case 3: return INFINITY;
    case 4: return 1e300;
    case 5: return 86400;
    default: return *rc::gen::inRange(0, 1000000) * 1e-6;
  }
}
std::uint64_t odd_bytes() {
  return *rc::gen::oneOf(rc::gen::just<std::uint64_t>(0), rc::gen::just(UINT64_MAX), rc::gen::inRange<std::uint64_t>(0, 1 << 26));
}
std::int64_t odd_clock(std::int64_t now) {
  switch (*rc::gen::inRange(0, 6)) {
    case 0: return now + 86'400'000'000'000;
    case 1: return now - 86'400'000'000'000;
    case 2: return *rc::gen::element<std::int64_t>(0, INT64_MIN, INT64_MAX);
    default: return now + *rc::gen::inRange<std::int64_t>(0, 100'000'000);
  }
}

TEST(PaceProperty, BoundsHoldWhateverIsMeasured) {
  EXPECT_TRUE(rc::check([] {
    PaceSettings s;
    s.pacing = *rc::gen::element(Pacing::bottleneck, Pacing::paper, Pacing::none);
    s.first_s = odd_seconds();
    s.rpo_s = *rc::gen::element(0.0, 0.003, 0.1, 60.0);
    s.alpha = odd_seconds();
    s.beta = odd_seconds();
    s.share = *rc::gen::element(1.0, 0.25, -1.0);
    s.credits = *rc::gen::element(0u, 1u, 32u);
    s.memory_bytes = *rc::gen::element<std::uint64_t>(0, 1 << 20, 512 << 20, UINT64_MAX);
    s.lanes = *rc::gen::element(kSerialLanes, kFineLanes);
    auto pace = make_pace(s);
    std::int64_t now = 1'000'000'000;
    const int steps = *rc::gen::inRange(0, 60);
    for (int i = 0; i < steps; ++i) {
      if (*rc::gen::arbitrary<bool>()) {
        GroupDone g;
        g.bytes = odd_bytes();
        g.arrived = odd_bytes();
        g.opened_ns = odd_clock(now);
        g.closed_ns = odd_clock(now);
        g.now_ns = odd_clock(now);
        for (auto& t : g.times) t = odd_seconds();
        g.credits_in_use = *rc::gen::inRange(0u, 40u);
        pace->group_done(g);
      } else {
        Acknowledged a;
        a.bytes = odd_bytes();
        for (auto& t : a.times) t = odd_seconds();
        a.applied_bytes = odd_bytes();
        a.applied_groups = *rc::gen::inRange(0u, 3u);
        a.backlog_s = odd_seconds();
        a.round_trip_s = odd_seconds();
        pace->acknowledged(a);
      }
      now += 30'000'000;
      const Decision& d = pace->decision();
      RC_ASSERT(d.interval_s >= s.lower_s());
      RC_ASSERT(d.interval_s <= s.upper_s());
      RC_ASSERT(d.threshold_bytes > 0u);
      RC_ASSERT(d.sleep_s >= 0 && d.sleep_s <= d.interval_s);
      for (const double x : {d.mirror_idle_s, d.need_s, d.target_s, d.rate, d.load, d.noise}) RC_ASSERT(std::isfinite(x) && x >= 0);
      RC_ASSERT(!d.reason().empty());
    }
  }));
}

TEST(PaceProperty, AClockThatJumpsADayMovesTheIntervalByOneStepAtMost) {
  for (const std::int64_t jump : {86'400'000'000'000, -86'400'000'000'000}) {
    LockStep pair{make_pace(with(Pacing::bottleneck)), loaded(0.002, 0.3), loaded(0.006, 0.6)};
    pair.now = 200000;
    pair.run(60);
    const double before = pair.interval();
    pair.group(kRate * before, before + static_cast<double>(jump) * 1e-9);
    EXPECT_NEAR(pair.interval(), before, 0.05 * before);
    pair.run(5);
    EXPECT_NEAR(pair.interval(), before, 0.05 * before);
  }
}

}  // namespace
}  // namespace somfs::replicator
