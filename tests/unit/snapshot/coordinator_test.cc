// SPDX-License-Identifier: Apache-2.0
// The coordinator with fakes that veto, hang, throw and fail at every step: whatever happens, every writer that was asked is released
// once, the gate is open and a snapshot that was not taken is cancelled.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "snapshot/coordinator.h"

namespace somfs::snapshot {
namespace {

using Answer = WriterReport::Answer;

class FakeFreezer final : public Freezer {
 public:
  bool can_freeze = true, holds = true;
  Held::Why why = Held::too_long;
  bool closed = false;
  int freezes = 0, thaws = 0;
  Held freeze(unsigned, unsigned) override {
    ++freezes;
    closed = can_freeze;
    return {can_freeze ? Held::held : why};
  }
  Held thaw() override {
    ++thaws;
    closed = false;
    return {holds ? Held::held : why};
  }
};

// Stands still until it is let go.
class HeldClock final : public Clock {
 public:
  std::int64_t mono_ns() const override { return runs ? real_.mono_ns() : begun_; }
  std::int64_t wall_ns() const override { return real_.wall_ns(); }
  std::atomic<bool> runs{false};

 private:
  SystemClock real_;
  const std::int64_t begun_ = real_.mono_ns();
};

class FakeWriter final : public Writer {
 public:
  enum class Mood { ready, veto, timeout, fails, throws, hangs };
  FakeWriter(std::string name, Mood mood) : name_(std::move(name)), mood_(mood) {}
  std::string name() const override { return name_; }
  void announce(const CutRequest& r) override { announced = r.name; }
  WriterReport prepare(std::int64_t) override {
    ++prepares;
    switch (mood_) {
      case Mood::ready: return {name_, Answer::ready, {}};
      case Mood::veto: return {name_, Answer::veto, "it is a bad time"};
      case Mood::timeout: return {name_, Answer::timeout, "still flushing"};
      case Mood::fails: return {name_, Answer::failed, "connection refused"};
      case Mood::throws: throw std::runtime_error("boom");
      case Mood::hangs: break;
    }
    std::unique_lock l(m_);
    cv_.wait(l, [this] { return let_go_; });
    return {name_, Answer::ready, {}};
  }
  void release(bool took, std::int64_t) noexcept override {
    std::lock_guard l(m_);
    ++releases;
    took_place = took;
    cv_.notify_all();
  }
  void let_go() {
    std::unique_lock l(m_);
    let_go_ = true;
    cv_.notify_all();
    cv_.wait(l, [this] { return releases.load() > 0; });
  }
  std::string announced;
  std::atomic<int> prepares{0}, releases{0};
  std::atomic<bool> took_place{false};

 private:
  const std::string name_;
  const Mood mood_;
  std::mutex m_;
  std::condition_variable cv_;
  bool let_go_ = false;
};
using Mood = FakeWriter::Mood;

struct Scene {
  SystemClock real;
  FakeFreezer freezer;
  enum class Fault { none, store, barrier, barrier_throws, take, rotate_throws, take_throws } fault = Fault::none;
  std::vector<bool> quiet;  // the answers, one by one; then false
  int prepared = 0, taken = 0, cancelled = 0, rotated = 0;
  bool take_saw_closed = false;
  std::vector<std::shared_ptr<FakeWriter>> writers;
  std::unique_ptr<Coordinator> coordinator;

  explicit Scene(const std::vector<Mood>& moods = {}, const Clock* clock = nullptr) {
    CutActions a;
    a.prepare_store = [this](const CutRequest&) -> Status {
      if (fault == Fault::store) return fail(Exit::usage, "bad name");
      ++prepared;
      return {};
    };
    a.barrier = [this](std::int64_t) -> Status {
      if (fault == Fault::barrier) return fail(Exit::veto, "cannot flush");
      if (fault == Fault::barrier_throws) throw std::runtime_error("flush");
      return {};
    };
    a.quiet = [this] {
      if (quiet.empty()) return false;
      bool q = quiet.front();
      quiet.erase(quiet.begin());
      return q;
    };
    a.rotate = [this]() -> std::uint64_t {
      if (fault == Fault::rotate_throws) throw std::runtime_error("rotate");
      return static_cast<std::uint64_t>(++rotated);
    };
    a.take = [this](const std::string&, std::uint64_t) -> Status {
      take_saw_closed = freezer.closed;
      if (fault == Fault::take_throws) throw std::runtime_error("take");
      if (fault == Fault::take) return fail(Exit::no_space, "no room");
      ++taken;
      return {};
    };
    a.cancel = [this](const std::string&) { ++cancelled; };
    coordinator = std::make_unique<Coordinator>(freezer, a, clock != nullptr ? *clock : real);
    std::vector<std::shared_ptr<Writer>> all;
    for (Mood m : moods) {
      writers.push_back(std::make_shared<FakeWriter>("w" + std::to_string(writers.size()), m));
      all.push_back(writers.back());
    }
    coordinator->set_writers(all);
  }
  Result<CutReport> cut(bool crash = false, double timeout = 30) {
    CutRequest r;
    r.name = "s";
    r.crash_consistent = crash;
    r.timeout_s = timeout;
    return coordinator->cut(r);
  }
};

TEST(Coordinator, TheWholeWay) {
  Scene s({Mood::ready, Mood::ready});
  auto r = s.cut();
  ASSERT_TRUE(r) << r.error().line();
  EXPECT_EQ(r->epoch, 1u);
  EXPECT_TRUE(r->frozen);
  EXPECT_EQ(r->consistency, "application");
  EXPECT_EQ(r->writers.size(), 2u);
  EXPECT_TRUE(s.take_saw_closed);
  EXPECT_FALSE(s.freezer.closed);
  EXPECT_EQ(s.cancelled, 0);
  for (auto& w : s.writers) {
    EXPECT_EQ(w->announced, "s");
    EXPECT_EQ(w->releases, 1);
    EXPECT_TRUE(w->took_place);
  }
  EXPECT_EQ(s.coordinator->freezes().count(), 1u);
  EXPECT_EQ(s.coordinator->state(), "idle");
  EXPECT_EQ(s.coordinator->last_writers().size(), 2u);
}

TEST(Coordinator, WithoutWritersItIsCrashConsistent) {
  Scene s;
  auto r = s.cut();
  ASSERT_TRUE(r);
  EXPECT_EQ(r->consistency, "crash");
}

TEST(Coordinator, AVetoStopsItAndSaysWhy) {
  Scene s({Mood::ready, Mood::veto, Mood::ready});
  auto r = s.cut();
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().exit, Exit::veto);
  EXPECT_EQ(r.error().line(),
            "no snapshot: writer w1: vetoed the snapshot: it is a bad time; or take it with --crash-consistent");
  EXPECT_EQ(s.freezer.freezes, 0);
  EXPECT_EQ(s.cancelled, 1);
  EXPECT_EQ(s.writers[0]->releases, 1);
  EXPECT_FALSE(s.writers[0]->took_place);
  EXPECT_EQ(s.writers[1]->releases, 1);
  EXPECT_EQ(s.writers[2]->prepares, 0);
  EXPECT_EQ(s.writers[2]->releases, 0);
  auto last = s.coordinator->last_writers();
  EXPECT_EQ(last[2].answer, Answer::skipped);
}

TEST(Coordinator, CrashConsistentGoesOnWithoutThem) {
  Scene s({Mood::throws, Mood::veto, Mood::timeout, Mood::fails, Mood::ready});
  s.fault = Scene::Fault::barrier;
  auto r = s.cut(true);
  ASSERT_TRUE(r) << r.error().line();
  EXPECT_EQ(r->consistency, "crash");
  EXPECT_EQ(r->writers[0].reason, "boom");
  EXPECT_EQ(r->writers[4].answer, Answer::ready);
  for (auto& w : s.writers) EXPECT_EQ(w->releases, 1);
}

TEST(Coordinator, AWriterThatHangsIsAbandonedAndReleasedWhenItComesBack) {
  HeldClock clock;   // however long it takes until it hangs
  Scene s({Mood::ready, Mood::hangs}, &clock);
  std::jthread time([&] {
    for (int i = 0; i < 30'000 && s.writers[1]->prepares == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    clock.runs = true;
  });
  auto r = s.cut(false, 0.02);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().exit, Exit::veto);
  EXPECT_EQ(s.writers[0]->releases, 1);
  EXPECT_EQ(s.writers[1]->releases, 0);
  time.join();
  auto again = s.cut(false, 5);
  ASSERT_FALSE(again);
  EXPECT_NE(again.error().line().find("still busy"), std::string::npos);
  EXPECT_EQ(s.writers[1]->prepares, 1);
  s.writers[1]->let_go();
  EXPECT_EQ(s.writers[1]->releases, 1);
  EXPECT_FALSE(s.writers[1]->took_place);
}

TEST(Coordinator, AFreezeThatFails) {
  Scene s({Mood::ready});
  s.freezer.can_freeze = false;
  auto r = s.cut();
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().exit, Exit::veto);
  EXPECT_EQ(s.taken, 0);
  EXPECT_EQ(s.cancelled, 1);
  EXPECT_EQ(s.writers[0]->releases, 1);
}

TEST(Coordinator, AFreezeThatDidNotHoldMeansNoSnapshot) {
  Scene s({Mood::ready});
  s.freezer.holds = false;
  auto r = s.cut();
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().exit, Exit::veto);
  EXPECT_NE(r.error().line().find("1000 ms"), std::string::npos) << r.error().line();
  EXPECT_EQ(s.taken, 1);
  EXPECT_EQ(s.cancelled, 1);
  EXPECT_FALSE(s.writers[0]->took_place);
}

TEST(Coordinator, AnEndingMountIsNotCalledABusyOne) {
  for (const bool frozen : {false, true}) {
    Scene s({Mood::ready});
    s.freezer.can_freeze = frozen;
    s.freezer.holds = false;
    s.freezer.why = Held::ending;
    auto r = s.cut();
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().exit, Exit::temporary);
    EXPECT_NE(r.error().line().find("the mount is ending"), std::string::npos) << r.error().line();
    EXPECT_EQ(s.cancelled, 1);
  }
}

TEST(Coordinator, AQuietVolumeIsNotFrozen) {
  Scene s({Mood::ready});
  s.quiet = {true, true};
  auto r = s.cut();
  ASSERT_TRUE(r);
  EXPECT_FALSE(r->frozen);
  EXPECT_EQ(r->freeze_ms, 0);
  EXPECT_EQ(s.freezer.freezes, 0);
  EXPECT_EQ(s.rotated, 1);
  EXPECT_EQ(s.taken, 1);
  EXPECT_TRUE(s.writers[0]->took_place);
}

TEST(Coordinator, AChangeDuringAQuietCutMakesItFreezeAfterAll) {
  Scene s;
  s.quiet = {true, false};
  auto r = s.cut();
  ASSERT_TRUE(r);
  EXPECT_TRUE(r->frozen);
  EXPECT_EQ(r->epoch, 2u);
  EXPECT_EQ(s.cancelled, 1);
  EXPECT_EQ(s.prepared, 2);
  EXPECT_EQ(s.taken, 2);
}

TEST(Coordinator, OneAtATime) {
  Scene s({Mood::hangs});
  std::thread first([&] { EXPECT_TRUE(s.cut()); });
  while (s.writers[0]->prepares == 0) std::this_thread::yield();
  auto second = s.cut();
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().exit, Exit::locked);
  EXPECT_EQ(s.coordinator->state(), "preparing");
  s.writers[0]->let_go();
  first.join();
}

TEST(Coordinator, AnyFaultAnywhereLeavesNothingBehind) {
  EXPECT_TRUE(rc::check([] {
    auto moods = *rc::gen::container<std::vector<Mood>>(
        rc::gen::element(Mood::ready, Mood::ready, Mood::ready, Mood::veto, Mood::timeout, Mood::fails, Mood::throws));
    moods.resize(std::min<std::size_t>(moods.size(), 4));
    Scene s(moods);
    s.fault = *rc::gen::element(Scene::Fault::none, Scene::Fault::store, Scene::Fault::barrier, Scene::Fault::barrier_throws,
                                Scene::Fault::take, Scene::Fault::rotate_throws, Scene::Fault::take_throws);
    s.freezer.can_freeze = *rc::gen::weightedElement<bool>({{4, true}, {1, false}});
    s.freezer.holds = *rc::gen::weightedElement<bool>({{4, true}, {1, false}});
    s.quiet = *rc::gen::arbitrary<std::vector<bool>>();
    auto r = s.cut(*rc::gen::arbitrary<bool>());
    RC_ASSERT(!s.freezer.closed);
    RC_ASSERT(s.coordinator->state() == "idle");
    for (auto& w : s.writers) {
      RC_ASSERT(w->releases == w->prepares);
      RC_ASSERT((!w->took_place || r.has_value()));
    }
    // What was prepared in the store is either the one that was taken, or cancelled.
    RC_ASSERT(s.prepared == s.cancelled + (r ? 1 : 0));
    RC_ASSERT((!r || s.taken > 0));
    RC_ASSERT((!r || r->consistency == "crash" || !moods.empty()));
  }));
}

TEST(Histogram, PercentilesAreUpperEdges) {
  Histogram h;
  EXPECT_EQ(h.percentile(99), 0);
  for (int i = 1; i <= 100; ++i) h.add(i);
  EXPECT_EQ(h.count(), 100u);
  EXPECT_EQ(h.min(), 1);
  EXPECT_EQ(h.max(), 100);
  EXPECT_DOUBLE_EQ(h.mean(), 50.5);
  EXPECT_GE(h.percentile(50), 50);
  EXPECT_LE(h.percentile(50), 50 * 1.34);
  EXPECT_EQ(h.percentile(100), 100);
  h.add(1e12);
  EXPECT_EQ(h.percentile(100), 1e12);
  EXPECT_GE(h.percentile(1), 1);
}

}  // namespace
}  // namespace somfs::snapshot
