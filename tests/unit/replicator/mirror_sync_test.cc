// SPDX-License-Identifier: Apache-2.0
// What is durable when. A recorded disk shows a missing sync only where its file system does not make up for it; here every sync is seen,
// and what the order says must have been made durable before the catalog is, was.
#include <gtest/gtest.h>

#include <limits.h>
#include <sys/stat.h>

#include <cerrno>
#include <chrono>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "replicator/early_sync.h"
#include "replicator/mirror.h"
#include "tests/unit/replicator/mirror_model.h"
#include "tests/unit/sync_calls.h"

namespace somfs::replicator {
namespace {

using model::begin;
using model::plan;
using model::State;

// Paths relative to the mirror, as they were at the sync, in order; "*" stands for the whole file system.
class MirrorSync : public ::testing::Test {
 protected:
  MirrorSync() {
    State first;
    first.add(first.root, "a", Kind::file, "alpha");
    first.add(first.add(first.root, "d", Kind::dir), "in", Kind::file, "inner");
    first.sweep();
    state_ = first;
    State none;
    none.nodes.clear();
    listen();
    auto made = Mirror::open(dir_.path, Mirror::Mode::create);
    EXPECT_TRUE(made) << (made ? "" : made.error().line());
    mirror_ = std::move(*made);
    at_open_ = synced_;
    EXPECT_TRUE(mirror_->greet(model::hello()));
    run(none, first);
  }
  ~MirrorSync() override { test::on_sync({}); }

  void listen() {
    test::on_sync([this](int fd, test::Sync what) {
      if (what == test::Sync::file_system) return synced_.push_back("*");
      char path[PATH_MAX];
      ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
      std::string name(path, n > 0 ? static_cast<std::size_t>(n) : 0);
      if (name.starts_with(dir_.path)) synced_.push_back(name.size() > dir_.path.size() ? name.substr(dir_.path.size() + 1) : ".");
    });
  }
  void run(const State& from, const State& to) {
    synced_.clear();
    ++epoch_;
    ASSERT_TRUE(mirror_->begin(begin(epoch_ - 1, epoch_)));
    ASSERT_TRUE(mirror_->receive(plan(from, to)));
    auto done = mirror_->commit();
    ASSERT_TRUE(done) << done.error().line();
  }
  // The next epoch, by what `change` does.
  void change(const std::function<void(State&)>& change) {
    State next = state_;
    change(next);
    next.sweep();
    run(state_, next);
    state_ = next;
  }
  // The syncs before the commit of the catalog, and those between it and the one that says the epoch is applied.
  std::vector<std::string> between(int commit) const {
    std::vector<std::string> out;
    int seen = 0;
    for (const std::string& s : synced_) {
      if (s.find("catalog.sqlite") != std::string::npos) {
        ++seen;
      } else if (seen == commit) {
        out.push_back(s);
      }
    }
    return seen > commit ? out : std::vector<std::string>{"no commit of the catalog"};
  }
  static int count(const std::vector<std::string>& in, const std::string& prefix) {
    int n = 0;
    for (const std::string& s : in) n += s.starts_with(prefix) ? 1 : 0;
    return n;
  }
  static bool has(const std::vector<std::string>& in, const std::string& one) {
    for (const std::string& s : in)
      if (s == one) return true;
    return false;
  }

  model::Scratch dir_;
  std::vector<std::string> synced_, at_open_;
  std::unique_ptr<Mirror> mirror_;
  State state_;
  std::uint64_t epoch_ = 0;
};

const std::string kState = ".somfs-mirror";

TEST_F(MirrorSync, a_new_mirror_is_there_when_it_is_open) {
  EXPECT_TRUE(has(at_open_, kState));
  EXPECT_TRUE(has(at_open_, "."));
}

TEST_F(MirrorSync, few_objects_and_the_list_are_durable_before_the_catalog_names_them) {
  change([](State& s) {
    s.add(s.root, "new", Kind::file, "fresh");
    s.add(s.add(s.root, "n", Kind::dir), "f", Kind::file, "x");
  });
  auto before = between(0);
  EXPECT_EQ(count(before, kState + "/stage/"), 3) << "both files and the directory";
  EXPECT_TRUE(has(before, kState + "/stage"));
  EXPECT_TRUE(has(before, kState + "/journal/" + std::to_string(epoch_)));
  EXPECT_TRUE(has(before, kState + "/journal"));
}

TEST_F(MirrorSync, many_objects_are_synced_together) {
  change([](State& s) {
    for (int i = 0; i < 40; ++i) s.add(s.root, "n" + std::to_string(i), Kind::file, "x");
  });
  EXPECT_TRUE(has(between(0), "*"));
  EXPECT_TRUE(has(between(0), kState + "/journal/" + std::to_string(epoch_)));
}

// The file system tells a write error once: to the sync that was made while the epoch still came in.
TEST_F(MirrorSync, what_an_early_sync_met_fails_the_epoch) {
  State large = state_;
  for (int i = 0; i < 70; ++i) large.add(large.root, "n" + std::to_string(i), Kind::file, std::string(1 << 20, static_cast<char>('a' + i % 26)));
  large.sweep();
  for (bool fails : {true, false}) {
    const std::string records = plan(state_, large);
    ASSERT_GT(records.size(), EarlySync::kEvery);
    if (fails) test::fail_next(test::Sync::file_system, EIO);
    ASSERT_TRUE(mirror_->begin(begin(epoch_, epoch_ + 1)));
    ASSERT_TRUE(mirror_->receive(records));
    for (int i = 0; i < 3000 && test::is_due(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    ASSERT_FALSE(test::is_due()) << "there is no early sync";
    auto done = mirror_->commit();
    EXPECT_EQ(static_cast<bool>(done), !fails);
    if (fails) mirror_->abort();
  }
}

TEST_F(MirrorSync, what_was_applied_is_durable_before_the_list_may_go) {
  change([](State& s) {
    s.nodes[s.at("a")].data = "in place, longer";
    s.move(s.at("d"), "in", s.root, "out");
  });
  auto applied = between(1);
  EXPECT_TRUE(has(applied, "tree/a"));
  EXPECT_TRUE(has(applied, "tree"));
  EXPECT_TRUE(has(applied, "tree/d"));
  EXPECT_TRUE(has(applied, kState + "/stage"));
}

TEST_F(MirrorSync, much_that_was_applied_is_synced_together) {
  change([](State& s) {
    for (int i = 0; i < 40; ++i) s.add(s.root, "n" + std::to_string(i), Kind::file, "x");
  });
  change([](State& s) {
    for (int i = 0; i < 40; ++i) s.nodes[s.at("n" + std::to_string(i))].data = "changed";
  });
  EXPECT_TRUE(has(between(1), "*"));
}

}  // namespace
}  // namespace somfs::replicator
