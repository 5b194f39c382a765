// SPDX-License-Identifier: Apache-2.0
// A relation against a real mirror in a scratch directory, over a link in this process that tests may cut and keep silent.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "common/sync.h"
#include "replicator/relation.h"
#include "tests/unit/replicator/migrate_world.h"
#include "tests/unit/replicator/state_roots.h"

namespace somfs::replicator::test {

inline bool eventually(const std::function<bool()>& what) {
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
  static constexpr MessageType kNothing = MessageType::hello;  // which a mirror never says
  std::atomic<MessageType> silent{kNothing};
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
      heard.closed = conversations_;   // the source has ended it: nobody is kept waiting any more
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

}  // namespace somfs::replicator::test
