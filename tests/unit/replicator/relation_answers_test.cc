// SPDX-License-Identifier: Apache-2.0
// Modes sync and semi: answers that wait for the mirror, and changes that are slowed down.
#include <random>
#include <vector>

#include "tests/unit/replicator/relation_world.h"

namespace somfs::replicator::test {
namespace {

TEST_F(RelationTest, AWaitingAnswerClosesTheGroup) {
  begin_in_step();
  relation->attest([this] { ++answered; });
  EXPECT_EQ(answered, 1) << "the mirror holds all there is: nothing to wait for";
  const std::uint64_t epoch = relation->status().epoch;
  promise();
  ASSERT_TRUE(eventually([&] { return answered == 2; })) << "the interval alone is 200 s";
  EXPECT_GT(relation->status().epoch, epoch);
  EXPECT_EQ(relation->status().lag_s, 0) << "what was promised has landed";
  end();
  live.expect_equal();
}

TEST_F(RelationTest, ManyAnswersShareAnEpoch) {
  begin_in_step();
  const int cuts = live.cuts;
  live.slow = true;
  promise(0);
  for (int i = 1; i < 20; ++i) promise(i);
  EXPECT_EQ(waiting(), 20u);
  EXPECT_EQ(answered, 0);
  live.slow = false;
  ASSERT_TRUE(eventually([&] { return answered == 20; }));
  EXPECT_LE(live.cuts, cuts + 2);
  EXPECT_EQ(waiting(), 0u);
}

TEST_F(RelationTest, AnAnswerThatWaitsTooLongGoesOutAndTheStateSaysSo) {
  begin_in_step(0.05);
  live.slow = true;
  promise();
  ASSERT_TRUE(eventually([&] { return answered == 1; }));
  EXPECT_EQ(state(), "DEGRADED");
  EXPECT_NE(relation->status().reason.find("waited"), std::string::npos);
  promise(1);
  EXPECT_EQ(answered, 2) << "until the mirror has caught up none waits";
  live.slow = false;
  ASSERT_TRUE(sync());
  ASSERT_TRUE(eventually([&] { return state() == "SYNCED"; }));
  EXPECT_TRUE(relation->status().holding);
  EXPECT_EQ(relation->status().reason, "");
}

TEST_F(RelationTest, WithoutAMirrorNoAnswerWaits) {
  begin_in_step();
  for (int way = 0; way < 4; ++way) {
    live.slow = true;
    promise(way);
    EXPECT_EQ(waiting(), 1u);
    // Who steps aside waits for the conversation to end, which is held up here: not for the answers.
    std::jthread aside;
    if (way == 0) relation->pause(true);
    if (way == 1) aside = std::jthread([&] { relation->step_aside(true); });
    if (way == 2) {
      down = true;
      wire->cut();
      live.slow = false;
    }
    if (way == 3) aside = std::jthread([&] { relation->end(); });
    EXPECT_TRUE(eventually([&] { return answered == 2 * way + 1; })) << "way " << way;
    EXPECT_TRUE(eventually([&] { return !relation->status().holding; }));
    promise(way);
    EXPECT_EQ(answered, 2 * way + 2) << "way " << way;
    live.slow = false;
    if (aside.joinable()) aside.join();
    if (way == 0) relation->pause(false);
    if (way == 1) relation->step_aside(false);
    down = false;
    if (way == 3) break;
    ASSERT_TRUE(sync());
    ASSERT_TRUE(eventually([&] { return relation->status().holding; }));
  }
  end();
}

TEST_F(RelationTest, WhileSomebodyElseCutsNoAnswerWaits) {
  begin_in_step();
  live.slow = true;
  promise();
  EXPECT_EQ(waiting(), 1u);
  relation->excuse(true);
  EXPECT_EQ(answered, 1);
  promise(1);
  EXPECT_EQ(answered, 2);
  relation->excuse(false);
  live.slow = false;
  ASSERT_TRUE(eventually([&] { return relation->status().holding; })) << "by itself";
}

TEST_F(RelationTest, TheSlowdownGrowsWithTheLag) {
  EXPECT_EQ(slowdown_at(-1, 1).count(), 0);
  EXPECT_EQ(slowdown_at(1, 1).count(), 0);
  EXPECT_EQ(slowdown_at(1.5, 1), std::chrono::milliseconds(50));
  EXPECT_EQ(slowdown_at(6, 4), std::chrono::milliseconds(50));
  EXPECT_EQ(slowdown_at(1e9, 1), std::chrono::milliseconds(100));
}

TEST_F(RelationTest, SlowsDownOnlyForAMirrorThatIsThere) {
  begin(false, [&](RelationSettings& s) {
    s.mode = Mode::semi;
    s.lag_bound_s = 0.02;
  });
  ASSERT_TRUE(sync());
  EXPECT_EQ(relation->slowdown(0).count(), 0);
  live.slow = true;
  live.change([](World& w) { w.write("d/small", "late"); });
  EXPECT_TRUE(eventually([&] { return relation->slowdown(0) == std::chrono::milliseconds(100); })) << "at twice the bound";
  relation->pause(true);
  EXPECT_TRUE(eventually([&] { return relation->slowdown(0).count() == 0; }));
  live.slow = false;
  relation->pause(false);
  ASSERT_TRUE(sync());
  EXPECT_TRUE(eventually([&] { return relation->slowdown(0).count() == 0; }));
  down = true;
  wire->cut();
  live.change([](World& w) { w.write("d/small", "later"); });
  ASSERT_TRUE(eventually([&] { return state() == "DEGRADED"; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(relation->slowdown(0).count(), 0);
  end();
}

TEST_F(RelationTest, EveryAnswerGoesOutOnceWhateverHappens) {
  std::mt19937 random(11);
  int asked = 0;
  for (int i = 0; i < 20; ++i) {
    begin(i % 5 == 0, [&](RelationSettings& s) {
      s.mode = Mode::sync;
      s.sync_timeout_s = i % 3 == 0 ? 0.005 : 1;
    });
    const bool in_step = i % 5 != 0 && i % 2 == 0;
    if (in_step) {
      ASSERT_TRUE(sync());
    }
    std::atomic<bool> over{false};
    std::vector<std::jthread> writers;
    std::atomic<int> promised{0};
    for (int t = 0; t < 3; ++t)
      writers.emplace_back([&, t] {
        while (!over) {
          ++promised;
          promise(t);
        }
      });
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 60));
    if (i % 3 == 1) wire->cut();
    if (i % 4 == 0) relation->pause(i % 8 == 0);
    relation->end();
    over = true;
    writers.clear();
    asked += promised;
    EXPECT_EQ(answered, asked);
    end();
  }
  begin();
  ASSERT_TRUE(sync());
  end();
  live.expect_equal();
}

}  // namespace
}  // namespace somfs::replicator::test
