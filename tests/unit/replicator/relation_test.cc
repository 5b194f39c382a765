// SPDX-License-Identifier: Apache-2.0
// What a relation says of itself, and what it does when the link, the mirror or a person gets in its way.
#include "tests/unit/replicator/relation_world.h"

namespace somfs::replicator::test {
namespace {

TEST_F(RelationTest, FollowsByItselfAndSaysHowFarItIs) {
  EXPECT_EQ((begin(true), relation->status().lag_s), -1);
  relation->pause(false);
  ASSERT_TRUE(sync());
  EXPECT_EQ(state(), "SYNCED");
  EXPECT_EQ(relation->status().lag_s, 0);
  const auto groups = relation->status().groups;
  live.change([](World& w) { w.write("d/small", "changed"); });
  ASSERT_TRUE(eventually([&] { return relation->status().groups > groups && relation->status().lag_s == 0; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(relation->status().groups, groups + 1) << "nothing changed, nothing is cut";
  end();
  live.expect_equal();
}

TEST_F(RelationTest, SaysThatItLivesAndHowItEnds) {
  alive_s = 0.01;
  begin();
  ASSERT_TRUE(sync());
  const int before = wire->heard.alive;
  EXPECT_TRUE(eventually([&] { return wire->heard.alive > before + 3; })) << "idle is not silent";
  relation->step_aside(true);
  EXPECT_EQ(wire->heard.last(), "none") << "it comes back";
  relation->step_aside(false);
  ASSERT_TRUE(sync());
  relation->pause(true);
  EXPECT_EQ(wire->heard.last(), kPaused);
  relation->pause(false);
  ASSERT_TRUE(sync());
  relation->end(kUnmounted);
  EXPECT_EQ(wire->heard.last(), kUnmounted);
  EXPECT_GE(wire->heard.hellos, 3);
  end();
}

TEST_F(RelationTest, AnEndIsNotHeldUpByAMirrorThatIsAway) {
  alive_s = 0.01;
  down = true;
  begin();
  ASSERT_TRUE(eventually([&] { return state() == "DEGRADED"; }));
  relation->end(kStopped);
  EXPECT_EQ(wire->heard.last(), "none");
  end();
}

TEST_F(RelationTest, ALinkThatIsDownIsDegradedAndLosesNothing) {
  down = true;
  begin();
  ASSERT_TRUE(eventually([&] { return state() == "DEGRADED"; }));
  EXPECT_NE(relation->status().reason.find("it is down"), std::string::npos);
  auto s = sync(0.05);
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().exit, Exit::link_down);
  live.change([](World& w) { w.write("d/new", "written while it was down"); });
  down = false;
  ASSERT_TRUE(sync());
  EXPECT_EQ(state(), "SYNCED");
  EXPECT_EQ(relation->status().reason, "");
  live.change([](World& w) { w.rename("d/new", "d/newer"); });
  wire->cut();
  ASSERT_TRUE(sync());
  end();
  live.expect_equal();
}

TEST_F(RelationTest, PausedItNotesAndResumedItBrings) {
  begin();
  ASSERT_TRUE(sync());
  relation->pause(true);
  EXPECT_EQ(state(), "PAUSED");
  auto s = sync();
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().exit, Exit::lag);
  live.change([](World& w) { w.write("empty", "no more"); });
  const int cuts = live.cuts;
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(live.cuts, cuts);
  relation->pause(false);
  ASSERT_TRUE(sync());
  end();
  live.expect_equal();
}

TEST_F(RelationTest, StepsAsideForSomebodyElse) {
  begin();
  ASSERT_TRUE(sync());
  for (int i = 0; i < 3; ++i) {
    relation->step_aside(true);
    {
      auto mirror = Mirror::open(live.still().mirror(), Mirror::Mode::existing);
      EXPECT_TRUE(mirror) << "nobody holds it: " << mirror.error().line();
    }
    relation->step_aside(false);
  }
  live.change([](World& w) { w.write("d/small", "x"); });
  ASSERT_TRUE(sync());
  end();
  live.expect_equal();
}

TEST_F(RelationTest, WhatTheBrakeHoldsWaitsForAPerson) {
  for (int i = 0; i < 300; ++i) live.still().write("f" + std::to_string(i), "x");
  begin();
  ASSERT_TRUE(sync());
  live.change([](World& w) {
    for (int i = 0; i < 300; ++i) w.remove("f" + std::to_string(i));
  });
  ASSERT_TRUE(eventually([&] { return state() == "HELD"; }));
  auto s = sync();
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().exit, Exit::person);
  relation->step_aside(true);
  ASSERT_TRUE(Mirror::open(live.still().mirror(), Mirror::Mode::existing).value()->decide_held(true));
  relation->step_aside(false);
  ASSERT_TRUE(eventually([&] { return state() == "SYNCED"; }));
  ASSERT_TRUE(sync());
  end();
  live.expect_equal();
}

TEST_F(RelationTest, AnotherCutIsWaitedFor) {
  live.busy = true;
  begin();
  ASSERT_TRUE(eventually([&] { return live.refused > 2; }));
  EXPECT_EQ(relation->status().failures, 0u);
  EXPECT_EQ(wire->connects, 1) << "nothing is wrong with the mirror";
  live.busy = false;
  ASSERT_TRUE(sync());
}

TEST_F(RelationTest, AClockThatIsSetByADayHoldsNothingUp) {
  constexpr std::int64_t kDay = 86400ll * 1'000'000'000;
  begin();
  ASSERT_TRUE(sync());
  int n = 0;
  for (std::int64_t ahead : {kDay, -kDay, std::int64_t{0}, -30 * kDay}) {
    live.change([&](World& w) { w.write("d/before" + std::to_string(++n), "x"); });
    clock.ahead = ahead;
    EXPECT_GE(relation->status().lag_s, 0) << "a lag is never less than nothing";
    live.change([&](World& w) { w.write("d/after" + std::to_string(n), "x"); });
    ASSERT_TRUE(sync());
    EXPECT_EQ(relation->status().lag_s, 0);
    EXPECT_EQ(state(), "SYNCED");
  }
  EXPECT_EQ(wire->connects, 1);
  end();
  live.expect_equal();
}

TEST_F(RelationTest, AMirrorThatSaysNothingIsNamed) {
  begin(false, [](RelationSettings& s) { s.silence_s = 0.3; });
  ASSERT_TRUE(sync());
  wire->heard.silent = MessageType::committed;
  live.change([](World& w) { w.write("d/small", "on its way"); });
  EXPECT_TRUE(eventually([&] { return relation->status().reason.starts_with("the mirror has said nothing for "); })) << relation->status().reason;
  wire->heard.silent = Heard::kNothing;
  ASSERT_TRUE(sync());
  EXPECT_EQ(relation->status().reason, "");
  end();
}

}  // namespace
}  // namespace somfs::replicator::test
