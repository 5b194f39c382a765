// SPDX-License-Identifier: Apache-2.0
// What the default law promises, on two modelled sites with queues, a window and late acknowledgements.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "replicator/pace_model.h"

namespace somfs::replicator {
namespace {

constexpr double kRate = 50e6;
constexpr double kFixed = 0.006;   // of the mirror, seconds for a group

ModelStage& of(ModelSites& sites, Stage stage) { return sites.stages[static_cast<std::size_t>(stage)]; }

// The mirror is the slower site; the source takes 1 ms and a load of 0.3, apply a third of the mirror's bytes.
ModelSites sites(double load, int ack_delay = 0) {
  ModelSites s;
  s.rate = kRate;
  s.ack_delay = ack_delay;
  of(s, Stage::compress) = {0.0005, 0.2 / kRate};
  of(s, Stage::send) = {0.0005, 0.1 / kRate};
  of(s, Stage::decrypt) = {0, 0.1 * load / kRate};
  of(s, Stage::write) = {kFixed, 0.9 * load / kRate};
  of(s, Stage::apply) = {0.0015, 0.3 * load / kRate};
  return s;
}
double fixed_point(double fixed_s, double load) { return 1.05 * fixed_s / (1 - 1.05 * load); }

PaceSettings from(double first_s) {
  PaceSettings settings;
  settings.first_s = first_s;
  return settings;
}

// After how many periods the interval stays within 5 per cent of `target`.
int settled(const std::vector<ModelPeriod>& trace, double target) {
  int last = -1;
  for (int i = 0; i < static_cast<int>(trace.size()); ++i)
    if (std::abs(trace[i].decision.interval_s - target) > 0.05 * target) last = i;
  return last + 1;
}
bool overloaded(const std::vector<ModelPeriod>& trace) {
  for (const ModelPeriod& p : trace)
    if (p.decision.overload != Overload::none) return true;
  return false;
}

TEST(PaceModel, OneFixedPointFromEveryStartWithinTwentyPeriods) {
  for (const double load : {0.1, 0.3, 0.5, 0.7, 0.8})
    for (const double first : {0.015, 0.030, 0.500})
      for (const int delay : {0, 1, 2}) {   // every interval of delay is one without news, twice: before the first step and after it
        PaceModel model(from(first), sites(load, delay));
        const auto trace = model.run(300);
        EXPECT_LE(settled(trace, fixed_point(kFixed, load)), 20 + 2 * delay) << load << " " << first << " " << delay;
        EXPECT_FALSE(overloaded(trace)) << load << " " << first << " " << delay;
      }
}

TEST(PaceModel, DoesNotSawUpToALoadOfNinetyTwo) {
  for (const double load : {0.8, 0.85, 0.88, 0.9, 0.92})
    for (const double first : {0.015, 0.030, 0.500}) {
      PaceModel model(from(first), sites(load));
      model.run(400);
      const double end = model.period().decision.interval_s;
      for (const ModelPeriod& p : model.run(200)) {
        ASSERT_NEAR(p.decision.interval_s, end, 0.02 * end) << load << " " << first;
        ASSERT_FALSE(p.decision.stepped);
      }
    }
}

TEST(PaceModel, StableWithLateAcknowledgements) {
  for (int delay = 0; delay <= 10; ++delay)
    for (const double load : {0.3, 0.6, 0.8, 0.9}) {
      PaceModel model(from(0.030), sites(load, delay));
      const auto trace = model.run(500);
      EXPECT_LE(settled(trace, fixed_point(kFixed, load)), 300) << delay << " " << load;
      EXPECT_FALSE(overloaded(trace)) << delay << " " << load;
    }
}

TEST(PaceModel, RecoversWhenTheLinkSlowsToAQuarterAndBack) {
  for (const double load : {0.05, 0.1, 0.15, 0.2})
    for (const int delay : {0, 1, 2}) {
      ModelSites s = sites(0.3, delay);
      of(s, Stage::transfer) = {0.004, load / kRate};
      of(s, Stage::write) = {0.002, 0.3 / kRate};
      PaceSettings settings = from(0.030);
      settings.lanes = kFineLanes;
      PaceModel model(settings, s);
      model.run(100);
      const auto need = [](double link) { return fixed_point(0.004, 0.03 + link); };   // decrypt shares the lane
      for (const double link : {0.25, 1.0}) {
        model.sites().link = link;
        const auto trace = model.run(150);
        const double target = std::max({need(load / link), fixed_point(0.002, 0.3), fixed_point(0.0005, 0.1 / link)});
        EXPECT_LE(settled(trace, target), 20) << load << " " << link << " " << delay;
        EXPECT_FALSE(overloaded(trace)) << load << " " << link << " " << delay;
      }
    }
}

double scatter(double load, int delay, std::uint64_t seed, bool* overload) {
  ModelSites s = sites(load, delay);
  s.noise = 0.2;
  PaceModel model(from(0.030), s, seed);
  model.run(300);
  double sum = 0, squares = 0;
  constexpr int kCount = 500;
  for (const ModelPeriod& p : model.run(kCount)) {
    sum += p.decision.interval_s;
    squares += p.decision.interval_s * p.decision.interval_s;
    *overload = *overload || p.decision.overload != Overload::none;
  }
  const double mean = sum / kCount;
  return std::sqrt(std::max(0.0, squares / kCount - mean * mean)) / mean;
}

TEST(PaceModel, NoiseOfTwentyPerCentMovesTheIntervalByFifteenAtMost) {
  for (const double load : {0.1, 0.3, 0.5, 0.7, 0.8})
    for (const int delay : {0, 1, 3, 10}) {
      double sum = 0;
      bool overload = false;
      for (std::uint64_t seed = 1; seed <= 10; ++seed) sum += scatter(load, delay, seed, &overload);
      EXPECT_LE(sum / 10, 0.15) << load << " " << delay;
      EXPECT_FALSE(overload) << load << " " << delay;
    }
}

// Where the pull back is weak, the interval wanders; but nobody acts on a slope that was read out of noise.
TEST(PaceModel, NoiseIsNotTakenForOverload) {
  for (const int delay : {0, 3, 10}) {
    double sum = 0;
    bool overload = false;
    for (std::uint64_t seed = 1; seed <= 10; ++seed) sum += scatter(0.9, delay, seed, &overload);
    EXPECT_LE(sum / 10, 0.25) << delay;
    EXPECT_FALSE(overload) << delay;
  }
}

int flagged(PaceModel& model) {
  for (int i = 1; i <= 100; ++i)
    if (model.period().decision.overload != Overload::none) return i;
  return 101;
}

TEST(PaceModel, OverloadIsFlaggedWithinFivePeriods) {
  for (const double load : {1.0, 1.1, 1.2, 1.5, 3.0})
    for (const int delay : {0, 1, 3}) {
      PaceModel model(from(0.030), sites(load, delay));
      model.sites().rate = kRate * 0.5 / load;   // at a load of 0.5 first
      model.run(100);
      model.sites().rate = kRate;
      EXPECT_LE(flagged(model), 5) << load << " " << delay;
    }
}

// From the start: one answer tells nothing of fixed costs, and answers come late from a site that cannot keep up.
TEST(PaceModel, OverloadFromTheStartIsFlaggedToo) {
  for (const double load : {1.1, 1.2, 1.5, 3.0}) {
    PaceModel model(from(0.030), sites(load));
    EXPECT_LE(flagged(model), 16) << load;
  }
}

TEST(PaceModel, BestEffortExhaustsTheWindowInstead) {
  PaceSettings settings;
  settings.pacing = Pacing::none;
  PaceModel best(settings, sites(0.8)), paced(from(0.030), sites(0.8));
  best.run(300);
  paced.run(300);
  EXPECT_EQ(best.period().in_flight, settings.credits);
  EXPECT_LE(paced.period().in_flight, 4u);
}

TEST(PaceModel, UnderThePaperLawTheBacklogGrowsUntilTheWindowIsFull) {
  PaceSettings settings;
  settings.pacing = Pacing::paper;
  PaceModel model(settings, sites(1.2));
  model.run(300);
  const ModelPeriod end = model.period();
  EXPECT_EQ(end.in_flight, settings.credits);
  EXPECT_EQ(end.decision.overload, Overload::none);
  EXPECT_GT(end.seconds, 1.1 * end.decision.interval_s);   // the window sets the pace, not the law
}

}  // namespace
}  // namespace somfs::replicator
