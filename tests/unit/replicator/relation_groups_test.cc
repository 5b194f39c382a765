// SPDX-License-Identifier: Apache-2.0
// Groups on their way: one after another, outrun, cut off, and acknowledged before they are shown. Nothing is lost or mixed.
#include <random>
#include <set>

#include "tests/unit/replicator/random_round.h"
#include "tests/unit/replicator/relation_world.h"

namespace somfs::replicator::test {
namespace {

TEST_F(RelationTest, TheNextGroupIsSentBeforeTheAnswerToTheOneBefore) {
  live.still().preserves = true;   // names change while a group is read
  begin(false, [](RelationSettings& s) { s.pace.first_s = s.pace.max_s = 0.01; });
  ASSERT_TRUE(sync());
  wire->heard.silent = MessageType::committed;
  const std::uint64_t before = live.acked;
  std::size_t most = 0;
  for (int i = 0; i < 40 || (most < 2 && i < 3000); ++i) {
    live.change([&](World& w) { w.write("d/n" + std::to_string(i % 3), noise(2000, static_cast<unsigned>(i))); });
    if (i % 4 == 1) live.change([](World& w) { w.rename("d/n0", "d/n5"); });
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    most = std::max(most, relation->status().in_flight);
  }
  EXPECT_GE(most, 2u) << "one at work, one on its way; more where the way is long";
  EXPECT_LE(most, 16u);
  EXPECT_EQ(live.acked, before) << "nothing is acknowledged that the mirror has not answered";
  EXPECT_GT(relation->status().lag_s, 0);
  EXPECT_GT(relation->status().backlog_bytes, 0u);
  wire->heard.silent = Heard::kNothing;
  ASSERT_TRUE(sync());
  EXPECT_EQ(relation->status().in_flight, 0u);
  EXPECT_EQ(relation->status().backlog_bytes, 0u);
  EXPECT_EQ(wire->connects, 1);
  end();
  live.expect_equal();
}

TEST_F(RelationTest, CatchingUpSaysHowFarItIs) {
  for (unsigned i = 0; i < 20; ++i) live.change([&](World& w) { w.write("d/large" + std::to_string(i), noise(1 << 20, i)); });
  begin(true);
  wire->heard.allowed = 8 << 20;
  relation->pause(false);
  EXPECT_TRUE(eventually([&] { return relation->status().percent > 20; })) << state();
  EXPECT_EQ(state(), "CATCHING-UP");
  EXPECT_LT(relation->status().percent, 90);
  wire->heard.allowed = UINT64_MAX;
  ASSERT_TRUE(sync());
  EXPECT_EQ(state(), "SYNCED");
  end();
  live.expect_equal();
}

// What is written faster than the mirror takes it is not queued: the epochs become larger, the writer waits for nothing, and in the end it is in step.
TEST_F(RelationTest, AWriterThatOutrunsTheMirrorIsCaughtUpWith) {
  live.still().preserves = true;
  begin();
  ASSERT_TRUE(sync());
  const std::uint64_t before = relation->status().groups;
  std::size_t most = 0;
  for (unsigned i = 0; i < 400; ++i) {
    if (i % 8 == 0) wire->heard.allowed = wire->heard.taken.load();   // eight changes, and a batch of records is taken
    live.change([&](World& w) { w.write("d/n" + std::to_string(i % 50), noise(50000, i)); });
    most = std::max(most, relation->status().in_flight);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_GT(relation->status().lag_s, 0);
  EXPECT_LE(most, 16u) << "groups on their way are bounded, whatever is written";
  wire->heard.allowed = UINT64_MAX;
  ASSERT_TRUE(sync());
  EXPECT_LT(relation->status().groups - before, 100u) << "what comes while one is under way shares the next one";
  EXPECT_EQ(state(), "SYNCED");
  EXPECT_EQ(wire->connects, 1);
  end();
  live.expect_equal();
}

TEST_F(RelationTest, WhatTheFirstCopyTakesIsNoPaceForWhatComesAfterIt) {
  for (unsigned i = 0; i < 40; ++i) live.change([&](World& w) { w.write("d/large" + std::to_string(i), noise(1 << 20, i)); });
  begin();
  ASSERT_TRUE(sync());
  EXPECT_EQ(relation->status().decision.interval_s, PaceSettings().first_s);
  end();
}

TEST_F(RelationTest, AcknowledgedIsNotYetShown) {
  begin();
  ASSERT_TRUE(sync());
  wire->heard.silent = MessageType::applied;
  const std::uint64_t before = relation->status().epoch;
  live.change([](World& w) { w.write("d/small", "held durably, not shown"); });
  ASSERT_TRUE(eventually([&] { return relation->status().epoch > before; }));
  EXPECT_EQ(relation->status().lag_s, 0) << "it could be recovered";
  EXPECT_GT(relation->status().applied_lag_s, 0);
  EXPECT_EQ(relation->status().applied, before);
  auto s = sync(0.1);
  ASSERT_FALSE(s) << "the tree need not show it yet";
  EXPECT_EQ(s.error().exit, Exit::lag);
  wire->heard.silent = Heard::kNothing;
  ASSERT_TRUE(sync());
  EXPECT_EQ(relation->status().applied_lag_s, 0);
  end();
  live.expect_equal();
}

// A sync that finds nothing to send, while the mirror has yet to show the group before: nothing is under way once that is shown.
TEST_F(RelationTest, NothingIsUnderWayAfterASyncThatHadNothingToSend) {
  begin();
  ASSERT_TRUE(sync());
  wire->heard.silent = MessageType::applied;
  const std::uint64_t before = relation->status().epoch;
  live.change([](World& w) { w.write("d/small", "held durably, not shown"); });
  ASSERT_TRUE(eventually([&] { return relation->status().epoch > before; }));
  const std::uint64_t committed = relation->status().epoch;
  std::jthread asking([&] { EXPECT_TRUE(sync()); });
  ASSERT_TRUE(eventually([&] { return relation->status().epoch > committed; })) << "the cut that the sync asked for";
  wire->heard.silent = Heard::kNothing;
  asking.join();
  clock.later = 3600ll * 1'000'000'000;
  EXPECT_EQ(state(), "SYNCED");
  EXPECT_EQ(relation->status().reason, "");
  end();
  live.expect_equal();
}

// What was sent and not answered may be at the mirror or not; the next conversation finds out.
TEST_F(RelationTest, ALinkThatIsCutWithGroupsOnTheirWayLosesNothing) {
  std::mt19937 random(23);
  live.still().preserves = true;
  begin(false, [](RelationSettings& s) { s.pace.first_s = s.pace.max_s = 0.01; });
  ASSERT_TRUE(sync());
  for (int round = 0; round < 25; ++round) {
    wire->heard.silent = round % 2 == 0 ? MessageType::committed : MessageType::applied;
    for (int i = 0; i < 6; ++i) {
      live.change([&](World& w) { w.write("d/r" + std::to_string(random() % 5), noise(1000 + random() % 3000, random())); });
      if (random() % 3 == 0) live.change([&](World& w) { w.remove("d/r" + std::to_string(random() % 5)); });
      std::this_thread::sleep_for(std::chrono::milliseconds(random() % 30));
    }
    wire->cut();
    wire->heard.silent = Heard::kNothing;
    if (round % 5 == 4) {
      ASSERT_TRUE(sync());
    }
  }
  ASSERT_TRUE(sync());
  EXPECT_EQ(state(), "SYNCED");
  end();
  live.expect_equal();
}

// Applications change what they like while the relation cuts and sends; link and relation end anywhere. What is left of the mirror, opened
// alone, is the cut of its epoch, and its history is the one that was acknowledged, unless the last answer was lost.
TEST_F(RelationTest, TheMirrorAloneIsAlwaysTheCutOfItsEpoch) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  live.record = live.still().preserves = true;
  std::set<std::uint64_t> seen;
  int agreed = 0;
  // ... and more, until enough of the ends were not in between.
  for (int i = 0; i < 18 || ((agreed <= 3 || seen.size() <= 3) && i < 100); ++i) {
    begin();
    std::atomic<bool> over{false};
    std::jthread writer([&, mine = random()] {
      for (std::mt19937 r(static_cast<unsigned>(mine)); !over; std::this_thread::sleep_for(std::chrono::milliseconds(2)))
        live.change([&](World& w) { random_round(w, r); });
    });
    if (i % 3 == 0) {
      EXPECT_TRUE(sync());
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(20 + random() % 150));
      wire->cut();
    }
    over = true;
    writer.join();
    end();
    auto m = Mirror::open(live.still().mirror(), Mirror::Mode::create);
    ASSERT_TRUE(m) << m.error().line();
    const std::uint64_t epoch = (*m)->committed_epoch();
    if (epoch == 0) continue;
    const auto roots = live.roots();
    ASSERT_TRUE(roots.contains(epoch)) << epoch;
    ASSERT_EQ(root_of(**m), roots.at(epoch)) << "epoch " << epoch;
    seen.insert(epoch);
    ASSERT_GE(epoch, live.acked);
    if (epoch != live.acked) continue;
    if (live.kept().empty()) continue;
    ASSERT_EQ((*m)->welcome().root, live.kept());
    ++agreed;
  }
  EXPECT_GT(seen.size(), 3u);
  EXPECT_GT(agreed, 3);
  begin();
  ASSERT_TRUE(sync());
  end();
  live.expect_equal();
}

TEST_F(RelationTest, EndsAtAnyMoment) {
  std::mt19937 random(7);
  for (int i = 0; i < 30; ++i) {
    begin(i % 5 == 0);
    std::atomic<bool> over{false};
    std::jthread writer([&] {
      for (int n = 0; !over; ++n) live.change([&](World& w) { w.write("d/w" + std::to_string(n % 7), noise(3000, static_cast<unsigned>(n))); });
    });
    std::jthread asking([&] { (void)relation->sync(5, [&] { return over.load(); }); });
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 40));
    if (i % 3 == 0) wire->cut();
    if (i % 4 == 0) relation->pause(i % 8 == 0);
    over = true;
    writer.join();
    relation->end();
    asking.join();
    end();
  }
  begin();
  ASSERT_TRUE(sync());
  end();
  live.expect_equal();
}

}  // namespace
}  // namespace somfs::replicator::test
