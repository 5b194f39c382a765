// SPDX-License-Identifier: Apache-2.0
// When a source is taken for suspect or lost, and when not.
#include <gtest/gtest.h>

#include "cli/source_watch.h"

namespace somfs::cli {
namespace {

using S = SourceState;
using Pairs = std::vector<std::pair<S, S>>;
constexpr std::int64_t kDay = 86'400'000'000'000;

class SourceWatchTest : public ::testing::Test {
 protected:
  Pairs changes() {
    Pairs out;
    for (const auto& c : watch.look()) out.emplace_back(c.before, c.after);
    return out;
  }
  void arrives(bool replicates = true) {
    watch.arrived("data", replicates, "web1");
    watch.listens("data");
  }
  void speaks(bool replicates = true) {
    watch.heard("data", replicates);
    watch.listens("data");
  }
  void passes(int seconds) { clock.advance_ms(seconds * 1000); }
  S state() { return watch.all().at("data").state; }

  FakeClock clock;
  SourceWatch watch{{10, 30}, clock};
};

TEST_F(SourceWatchTest, SilenceMakesItSuspectThenLostAndAWordAlive) {
  arrives();
  EXPECT_EQ(changes(), (Pairs{{S::unwatched, S::alive}}));
  for (int i = 0; i < 100; ++i) {
    passes(9);
    EXPECT_EQ(changes(), Pairs{});
    speaks();
  }
  passes(10);
  EXPECT_EQ(changes(), (Pairs{{S::alive, S::suspect}}));
  passes(19);
  EXPECT_EQ(changes(), Pairs{});
  passes(1);
  const auto lost = watch.look();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0].after, S::lost);
  EXPECT_EQ(lost[0].volume, "data");
  EXPECT_EQ(lost[0].silent_s, 30);
  EXPECT_EQ(lost[0].source.host, "web1");
  passes(100);
  EXPECT_EQ(changes(), Pairs{});
  speaks();
  const auto back = watch.look();
  ASSERT_EQ(back.size(), 1u);
  EXPECT_EQ(back[0].before, S::lost);
  EXPECT_EQ(back[0].after, S::alive);
  EXPECT_EQ(back[0].silent_s, 130) << "how long it was silent, not how long since it spoke";
}

TEST_F(SourceWatchTest, AConnectionThatIsGoneIsSilenceLikeAnyOther) {
  arrives();
  watch.gone("data", false);
  passes(9);
  arrives();
  passes(9);
  EXPECT_EQ(changes(), (Pairs{{S::unwatched, S::alive}}));
  passes(1);
  EXPECT_EQ(changes(), (Pairs{{S::alive, S::suspect}}));
}

TEST_F(SourceWatchTest, BothSilencesAtOnceAreOneChange) {
  arrives();
  (void)changes();
  passes(1000);
  EXPECT_EQ(changes(), (Pairs{{S::alive, S::lost}}));
}

TEST_F(SourceWatchTest, AGoodbyeIsNotALoss) {
  for (auto [how, state] : {std::pair{"paused", S::paused}, {"stopped", S::stopped}, {"unmounted", S::unmounted}}) {
    arrives();
    (void)changes();
    watch.heard("data", true);
    watch.said_goodbye("data", how);
    watch.gone("data", true);
    EXPECT_EQ(changes(), (Pairs{{S::alive, state}}));
    passes(1000);
    EXPECT_EQ(changes(), Pairs{}) << how;
  }
  arrives();
  watch.said_goodbye("data", "until then");
  passes(10);
  (void)changes();
  EXPECT_EQ(state(), S::suspect) << "a word that is not known excuses nothing";
}

TEST_F(SourceWatchTest, WhileTheMirrorIsAtWorkNobodyIsSilent) {
  arrives();
  watch.heard("data", true);   // a commit that takes an hour
  passes(3600);
  EXPECT_EQ(changes(), (Pairs{{S::unwatched, S::alive}}));
  watch.listens("data");
  passes(9);
  EXPECT_EQ(changes(), Pairs{});
  passes(1);
  EXPECT_EQ(changes(), (Pairs{{S::alive, S::suspect}}));
  arrives();
  watch.heard("data", true);
  watch.gone("data", true);    // broken off at work: from here it counts again
  passes(10);
  EXPECT_EQ(changes(), (Pairs{{S::suspect, S::alive}, {S::alive, S::suspect}}));
}

TEST_F(SourceWatchTest, OtherConversationsHoldSilenceOffAndChangeNothing) {
  arrives(false);
  passes(1000);
  EXPECT_EQ(changes(), Pairs{});
  EXPECT_EQ(state(), S::unwatched) << "it only migrates";
  arrives();
  passes(8);
  arrives(false);              // the relation stepped aside for a verify
  passes(8);
  EXPECT_EQ(changes(), (Pairs{{S::unwatched, S::alive}}));
  passes(1000);
  (void)changes();
  speaks(false);
  EXPECT_EQ(changes(), Pairs{});
  EXPECT_EQ(state(), S::lost) << "it does not replicate";
}

TEST_F(SourceWatchTest, TheWallClockDecidesNothing) {
  arrives();
  (void)changes();
  clock.wall += kDay;
  EXPECT_EQ(changes(), Pairs{});
  clock.wall -= 3 * kDay;
  passes(9);
  EXPECT_EQ(changes(), Pairs{});
  passes(1);
  EXPECT_EQ(changes(), (Pairs{{S::alive, S::suspect}}));
}

TEST_F(SourceWatchTest, ARestartKeepsStatesAndBeginsTheSilenceAnew) {
  const auto always = [](const std::string&) { return true; };
  arrives();
  const std::int64_t heard = clock.wall / 1'000'000'000;
  passes(29);
  (void)changes();
  const auto kept = watch.encode();
  clock.now = 5;               // another boot's
  clock.wall += kDay;
  SourceWatch next({10, 30}, clock);
  ASSERT_TRUE(next.restore(kept, always));
  EXPECT_TRUE(next.look().empty());
  EXPECT_EQ(next.all().at("data").state, S::suspect);
  EXPECT_EQ(next.all().at("data").heard_ns / 1'000'000'000, heard);
  EXPECT_EQ(next.all().at("data").host, "web1");
  passes(29);
  EXPECT_TRUE(next.look().empty());
  passes(1);
  ASSERT_EQ(next.look().size(), 1u);
  EXPECT_EQ(next.all().at("data").state, S::lost);
  SourceWatch again({10, 30}, clock);
  ASSERT_TRUE(again.restore(next.encode(), always));
  passes(1000);
  EXPECT_TRUE(again.look().empty()) << "lost already: the hook has run";
  SourceWatch without({10, 30}, clock);
  ASSERT_TRUE(without.restore(kept, [](const std::string&) { return false; }));
  EXPECT_TRUE(without.all().empty()) << "the mirror was removed";
}

TEST_F(SourceWatchTest, OfAFileThatIsNotSoundNothingIsTaken) {
  arrives();
  const auto always = [](const std::string&) { return true; };
  const auto sound = watch.encode();
  for (const char* wrong : {"{}", "5", "[5]", "[{}]", R"([{"volume":"data"}])", R"([{"volume":"../x","state":"ALIVE"}])", R"([{"volume":"data","state":"alive"}])",
                            R"([{"volume":5,"state":"ALIVE"}])"})
    EXPECT_FALSE(watch.restore(nlohmann::json::parse(wrong), always)) << wrong;
  EXPECT_EQ(watch.encode(), sound);
  for (const char* odd : {R"([{"volume":"data","state":"LOST","heard":-5}])", R"([{"volume":"data","state":"LOST","heard":18446744073709551615}])"}) {
    ASSERT_TRUE(watch.restore(nlohmann::json::parse(odd), always)) << odd;
    (void)watch.encode();
  }
}

TEST(Silence, SaysWhatIsWrong) {
  EXPECT_EQ((Silence{60, 600}.problem()), "");
  EXPECT_NE((Silence{4, 600}.problem()), "");
  EXPECT_NE((Silence{60, 60}.problem()), "");
  EXPECT_NE((Silence{60, 1e12}.problem()), "");
}

}  // namespace
}  // namespace somfs::cli
