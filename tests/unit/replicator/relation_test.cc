// SPDX-License-Identifier: Apache-2.0
// A relation against a real mirror in a scratch directory: what it says of itself, and that nothing is lost or mixed whatever fails.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>
#include <vector>

#include "common/sync.h"
#include "replicator/relation.h"
#include "tests/unit/replicator/migrate_world.h"
#include "tests/unit/replicator/random_round.h"
#include "tests/unit/replicator/state_roots.h"

namespace somfs::replicator::test {
namespace {

bool eventually(const std::function<bool()>& what) {
  for (int i = 0; i < 3000; ++i) {
    if (what()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

// People's time may be set; the monotonic clock goes on, and may be moved on.
class Settable final : public Clock {
 public:
  std::int64_t mono_ns() const override { return real_.mono_ns() + later; }
  std::int64_t wall_ns() const override { return real_.wall_ns() + ahead; }
  std::atomic<std::int64_t> ahead{0}, later{0};

 private:
  SystemClock real_;
};

// A World that relations may cut while the test changes it.
class Live final : public Replicated {
 public:
  explicit Live(const Clock& clock) : clock_(clock) {}
  // One change, as the mount would make it: whoever cuts waits for it.
  void change(const std::function<void(World&)>& how) {
    bool first = false;
    {
      Lock l(mutex_);
      how(world_);
      if (!world_.dirty.empty() && since_ == 0) {
        since_ = clock_.wall_ns();
        first = true;
      }
    }
    if (first && relation != nullptr) relation->changed();
  }
  Result<std::unique_ptr<Instant>> cut(const std::string&) override {
    while (slow) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    Lock l(mutex_);
    if (busy) {
      ++refused;
      return fail(Exit::locked, "somebody else cuts");
    }
    const std::uint64_t epoch = world_.cut();
    if (record) roots_[epoch] = root_of(*tree_of(*world_.view()));
    done_[epoch] = std::exchange(world_.dirty, {});
    if (since_ != 0) first_[epoch] = std::exchange(since_, 0);
    ++cuts;
    return std::make_unique<Cut>(*this, epoch, world_.view());
  }
  Source identity() const override {
    Lock l(mutex_);
    return world_.identity();
  }
  std::uint64_t acknowledged(const std::string&) const override { return acked; }
  std::int64_t changed_since_ns(std::uint64_t epoch) const override {
    Lock l(mutex_);
    auto at = first_.upper_bound(epoch);
    return at != first_.end() ? at->second : since_;
  }
  void expect_equal() {
    Lock l(mutex_);
    world_.expect_equal();
  }
  std::map<std::uint64_t, std::string> roots() const {      // of the cuts that were recorded
    Lock l(mutex_);
    return roots_;
  }
  std::string kept() const {                                // of the mirror's history
    Lock l(mutex_);
    return root_;
  }

  class Cut final : public Instant {
   public:
    Cut(Live& live, std::uint64_t epoch, std::unique_ptr<snapshot::View> view) : live_(live), epoch_(epoch), view_(std::move(view)), tree_(tree_of(*view_)) {}
    Tree& tree() override { return *tree_; }
    std::uint64_t epoch() const override { return epoch_; }
    Result<Source> source() override {
      Source s = live_.identity();
      s.view = view_.get();
      s.epoch = epoch_;
      s.base_epoch = live_.acked;
      {
        Lock l(live_.mutex_);
        s.base_root = live_.root_;
      }
      s.dirty_since = [this](std::uint64_t from) -> Result<Changes> {
        Lock l(live_.mutex_);
        Changes c;
        c.complete = from != 0;
        for (auto at = live_.done_.upper_bound(from); at != live_.done_.end() && at->first <= epoch_; ++at) c.set.merge(at->second);
        return c;
      };
      return s;
    }
    void release() override {
      tree_.reset();
      view_.reset();
    }
    Status acknowledge(const Uuid&, std::uint64_t epoch, const std::string& root) override {
      {
        Lock l(live_.mutex_);
        if (epoch > live_.acked || !root.empty()) live_.root_ = root;
      }
      live_.acked = std::max(live_.acked.load(), epoch);
      return {};
    }

   private:
    Live& live_;
    const std::uint64_t epoch_;
    std::unique_ptr<snapshot::View> view_;
    std::unique_ptr<Tree> tree_;
  };

  std::atomic<std::uint64_t> acked{0};
  std::atomic<int> cuts{0}, refused{0};
  std::atomic<bool> busy{false};
  std::atomic<bool> slow{false};
  std::atomic<bool> record{false};                            // the root of every cut's state
  Relation* relation = nullptr;

  World& still() NO_THREAD_SAFETY_ANALYSIS { return world_; }   // while no relation is there

 private:
  mutable Mutex mutex_;
  World world_ GUARDED_BY(mutex_);
  const Clock& clock_;
  std::int64_t since_ GUARDED_BY(mutex_) = 0;
  std::map<std::uint64_t, std::int64_t> first_ GUARDED_BY(mutex_);
  std::map<std::uint64_t, DirtySet> done_ GUARDED_BY(mutex_);
  std::map<std::uint64_t, std::string> roots_ GUARDED_BY(mutex_);
  std::string root_ GUARDED_BY(mutex_);   // of the mirror's history, as acknowledged
};

// What the mirror hears of the source's life, and what it is kept from saying and taking, until the conversation is cut.
struct Heard {
  std::atomic<int> alive{0}, hellos{0}, commits{0};
  std::atomic<MessageType> silent{MessageType::error};
  std::atomic<std::uint64_t> allowed{UINT64_MAX}, taken{0};   // bytes of records it takes
  std::atomic<int> closed{0};                                 // the last conversation that was cut, or ended from outside
  Mutex mutex;
  std::string goodbye GUARDED_BY(mutex) = "none";
  std::string last() {
    Lock l(mutex);
    return goodbye;
  }
};

class Listening final : public Transport {
 public:
  Listening(Transport& transport, Heard& heard, int number) : transport_(transport), heard_(heard), number_(number) {}
  Status send(Message message) override {
    while (heard_.silent == message.type && !over()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return transport_.send(std::move(message));
  }
  Result<Message> receive() override {
    auto m = transport_.receive();
    Hello hello;
    if (m && m->type == MessageType::alive) ++heard_.alive;
    if (m && m->type == MessageType::records) {
      heard_.taken += m->body.size();
      while (heard_.taken > heard_.allowed && !over()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (m && m->type == MessageType::commit) ++heard_.commits;
    if (m && m->type == MessageType::hello && decode(m->body, &hello) && hello.wants == kReplicate) ++heard_.hellos;
    if (m && m->type == MessageType::bye) {
      Lock l(heard_.mutex);
      heard_.goodbye = m->body;
    }
    return m;
  }
  void close() noexcept override {
    closed_ = true;
    transport_.close();
  }
  std::uint64_t bytes_sent() const override { return 0; }
  std::uint64_t bytes_received() const override { return 0; }

 private:
  bool over() const { return closed_ || heard_.closed >= number_; }

  Transport& transport_;
  Heard& heard_;
  const int number_;
  std::atomic<bool> closed_{false};
};

// In-process mirrors, and a link that can be down or be cut.
class Wire final : public Connector {
 public:
  explicit Wire(const World& world, std::atomic<bool>& down) : world_(world), down_(down) {}
  Result<std::unique_ptr<Transport>> connect() override {
    ++connects;
    Lock l(mutex_);
    if (interrupted_) return fail(Exit::interrupted, "interrupted");
    if (down_) return fail(Exit::link_down, "cannot connect", "the mirror", "it is down");
    auto [mine, theirs] = make_pair_in_process();
    far_ = std::shared_ptr<Transport>(std::move(theirs));
    server_ = std::jthread([this, far = far_, number = ++conversations_] {
      Listening listening(*far, heard, number);
      ended_ = serve(listening, [&](const Hello&) { return Mirror::open(world_.mirror(), Mirror::Mode::create); });
      far->close();
    });
    return std::move(mine);
  }
  Status finish() override {
    std::jthread server;
    {
      Lock l(mutex_);
      server.swap(server_);
      far_.reset();
    }
    if (!server.joinable()) return {};
    server.join();
    return ended_;
  }
  void interrupt(bool on) override {
    Lock l(mutex_);
    interrupted_ = on;
    if (on) hang_up();
  }
  void cut() {
    Lock l(mutex_);
    hang_up();
  }
  std::atomic<int> connects{0};
  Heard heard;

 private:
  void hang_up() REQUIRES(mutex_) {
    if (!far_) return;
    far_->close();
    heard.closed = conversations_;
  }

  const World& world_;
  std::atomic<bool>& down_;
  Mutex mutex_;
  int conversations_ GUARDED_BY(mutex_) = 0;
  std::shared_ptr<Transport> far_ GUARDED_BY(mutex_);
  bool interrupted_ GUARDED_BY(mutex_) = false;
  std::jthread server_ GUARDED_BY(mutex_);
  Status ended_;
};

class RelationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fill(live.still());
  }
  void begin(bool paused = false, const std::function<void(RelationSettings&)>& more = {}) {
    auto made = std::make_unique<Wire>(live.still(), down);
    wire = made.get();
    RelationSettings s;
    s.target = "the mirror";
    s.first_retry_s = 0.01;
    s.last_retry_s = 0.05;
    s.decision_s = 0.05;
    s.options.brake_share = 0.5;
    s.alive_s = alive_s;
    if (more) more(s);
    relation = std::make_unique<Relation>(live, std::move(made), s, paused, clock);
    live.relation = relation.get();
  }
  void end() {
    live.relation = nullptr;
    relation.reset();
  }
  std::string state() { return relation->status().state; }
  Status sync(double seconds = 60) { return relation->sync(seconds, {}); }

  // Mode sync, at rest and in step. The pace alone would cut once in a while.
  void begin_in_step(double timeout_s = 60) {
    begin(false, [&](RelationSettings& s) {
      s.mode = Mode::sync;
      s.sync_timeout_s = timeout_s;
      s.pace.first_s = s.pace.min_s = 200;
      s.pace.max_s = 400;
    });
    ASSERT_TRUE(sync());
    ASSERT_TRUE(eventually([&] { return relation->status().holding; }));
  }
  // A change, and an answer that promises it.
  void promise(int n = 0) {
    live.change([&](World& w) { w.write("d/promised" + std::to_string(n), "kept"); });
    relation->attest([this] { ++answered; });
  }
  std::size_t waiting() { return relation->status().waiting; }

  Settable clock;
  Live live{clock};
  std::atomic<int> answered{0};
  std::atomic<bool> down{false};
  Wire* wire = nullptr;
  double alive_s = 0;
  std::unique_ptr<Relation> relation;
};

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
  wire->heard.silent = MessageType::error;
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

TEST_F(RelationTest, AMirrorThatSaysNothingIsNamed) {
  begin(false, [](RelationSettings& s) { s.silence_s = 0.3; });
  ASSERT_TRUE(sync());
  wire->heard.silent = MessageType::committed;
  live.change([](World& w) { w.write("d/small", "on its way"); });
  EXPECT_TRUE(eventually([&] { return relation->status().reason.starts_with("the mirror has said nothing for "); })) << relation->status().reason;
  wire->heard.silent = MessageType::error;
  ASSERT_TRUE(sync());
  EXPECT_EQ(relation->status().reason, "");
  end();
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
  wire->heard.silent = MessageType::error;
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
  wire->heard.silent = MessageType::error;
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
    wire->heard.silent = MessageType::error;
    if (round % 5 == 4) {
      ASSERT_TRUE(sync());
    }
  }
  ASSERT_TRUE(sync());
  EXPECT_EQ(state(), "SYNCED");
  end();
  live.expect_equal();
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
