// SPDX-License-Identifier: Apache-2.0
// Mirrors of a toy source, one behind the other, in this process: the first one is written to directly, the others over forwards.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "replicator/forwarded_mirror.h"
#include "tests/unit/replicator/mirror_model.h"

namespace somfs::replicator::chain {

using model::compare;
using model::plan;
using model::Scratch;
using model::State;

inline bool in_time(const std::function<bool()>& what) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!what())
    if (std::chrono::steady_clock::now() >= until) return false;
    else std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return true;
}

struct Site {
  explicit Site(std::uint64_t bound = Spool::kDefaultBound) : bound_(bound) { boot(); }
  // As a new process would find it.
  void boot() { desk = std::make_shared<ForwardedMirror>(dir.path, bound_); }
  std::string differs(const State& s) const { return compare(dir.path, s); }
  Standing standing() {
    for (;;)
      if (auto m = Mirror::open(dir.path, Mirror::Mode::existing)) return (*m)->standing();
      else if (m.error().exit != Exit::locked) return {};
      else std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  std::size_t spooled() const {
    std::size_t n = 0;
    std::error_code ignored;
    for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator(dir.path + "/.somfs-mirror/forward", ignored)) ++n;
    return n;
  }
  Scratch dir{"/dev/shm"};
  std::shared_ptr<ForwardedMirror> desk;

 private:
  const std::uint64_t bound_;
};

// A site that serves in a thread of this process.
class Road final : public Connector {
 public:
  explicit Road(Site& to) : to_(to) {}
  ~Road() override {
    interrupt(true);
    (void)finish();
  }
  Result<std::unique_ptr<Transport>> connect() override {
    (void)finish();
    if (*open_ == false) return fail(Exit::link_down, "no road");
    auto [mine, theirs] = make_pair_in_process();
    Lock l(mutex_);
    far_ = std::move(theirs);
    serving_ = std::jthread([this, far = far_.get()] {
      Yielding yielding(*far);
      yielding.with(to_.desk);
      served_ = serve(yielding, [this](const Hello&) { return to_.desk->open(); });
      far->close();
    });
    return std::move(mine);
  }
  Status finish() override {
    if (!serving_.joinable()) return {};
    serving_.join();
    return served_;
  }
  void interrupt(bool on) override {
    Lock l(mutex_);
    if (on && far_) far_->close();
  }
  std::shared_ptr<std::atomic<bool>> gate() { return open_; }

 private:
  Site& to_;
  const std::shared_ptr<std::atomic<bool>> open_ = std::make_shared<std::atomic<bool>>(true);
  Mutex mutex_;
  std::unique_ptr<Transport> far_ GUARDED_BY(mutex_);
  Status served_;
  std::jthread serving_;
};

struct Way {
  Way(Site& from, Site& to, bool open = true) {
    auto road = std::make_unique<Road>(to);
    gate = road->gate();
    *gate = open;
    ForwardSettings settings;
    settings.target = to.dir.path;
    settings.brake_share = 1;
    settings.first_retry_s = 0.01;
    settings.last_retry_s = 0.05;
    settings.decision_s = 0.05;
    settings.look_s = 0.05;
    settings.alive_s = 0.02;
    forward = std::make_unique<Forward>(from.desk, std::move(road), settings);
  }
  bool is(const char* state) const { return std::string(forward->status().state) == state; }
  bool becomes(const char* state) {
    if (in_time([&] { return is(state); })) return true;
    const ForwardStatus s = forward->status();
    ADD_FAILURE() << "not " << state << " but " << s.state << ": " << s.reason << ", epoch " << s.epoch << " of " << s.committed;
    return false;
  }
  // It has what the first one has committed by now.
  bool arrives(std::uint64_t epoch) {
    if (in_time([&] { return forward->status().epoch >= epoch && is("SYNCED"); })) return true;
    const ForwardStatus s = forward->status();
    ADD_FAILURE() << "epoch " << epoch << " does not arrive: " << s.state << ": " << s.reason << ", epoch " << s.epoch << " of " << s.committed;
    return false;
  }
  std::shared_ptr<std::atomic<bool>> gate;
  std::unique_ptr<Forward> forward;
};

// The source of the first mirror.
struct Origin {
  State now, before;
  std::uint64_t epoch = 0, committed = 0;
  std::mt19937 random{7};

  Origin() { before.nodes.clear(); }
  void change(int times = 5) {
    for (int i = 0; i < times; ++i) model::mutate(now, random);
    now.sweep();
  }
  std::string records() { return plan(before, now, &random); }
  Begin begin(std::uint64_t base) const {
    Begin b = model::begin(base, epoch + 1);
    b.brake_share = 1;
    return b;
  }
  static Result<std::unique_ptr<Mirror>> open(Site& at, bool spooling) {
    for (;;) {
      auto m = spooling ? at.desk->open() : Mirror::open(at.dir.path, Mirror::Mode::create);
      if (m || m.error().exit != Exit::locked) return m;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  Result<Committed> commit(Site& at, bool spooling = true, double brake = 1) {
    SOMFS_TRY_ASSIGN(auto mirror, open(at, spooling));
    Begin b = begin(committed);
    b.brake_share = brake;
    SOMFS_TRY_ASSIGN(Committed c, model::run(*mirror, b, records()));
    ++epoch;
    if (c.held) return c;
    before = now;
    committed = epoch;
    return c;
  }
  void go_on(Site& at, int epochs = 1, bool spooling = true) {
    for (int i = 0; i < epochs; ++i) {
      change();
      auto c = commit(at, spooling);
      ASSERT_TRUE(c) << c.error().line();
    }
  }
};

}  // namespace somfs::replicator::chain
