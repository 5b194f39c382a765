// SPDX-License-Identifier: Apache-2.0
#include "snapshot/gap_scan.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/unit/snapshot/scratch.h"

namespace somfs::snapshot {
namespace {

// A tree whose ctimes are the kernel's, and a journal whose clock is set relative to them.
class GapScanTest : public testing::Test {
 protected:
  GapScanTest() {
    ::mkdirat(tree.fd(), ".somfs", 0700);
    ::mkdirat(tree.fd(), ".somfs/inner", 0700);
    ::mkdirat(tree.fd(), "d", 0700);
    ::mkdirat(tree.fd(), "d/e", 0700);
    touch("d/f");
    touch("d/e/g");
    options.start_flusher = false;
    SystemClock now;
    clock.wall = now.wall_ns();
    auto j = Journal::open(dir.fd(), "fs", clock, options);
    journal = std::move(*j);
    scan.trusted_until_ns = ctime("d/e/g") + 1'000'000'000;  // the tree is older
    scan.margin_ns = 0;
  }
  void touch(const std::string& path) { Fd fd(::openat(tree.fd(), path.c_str(), O_WRONLY | O_CREAT, 0600)); }
  Inode inode(const std::string& path) { return *inode_at(tree.fd(), path); }
  std::int64_t ctime(const std::string& path) {
    const Time t = inode(path).attr.ctime;
    return t.sec * 1'000'000'000 + t.nsec;
  }
  DirtySet run() {
    GapScan s(tree.fd(), *journal, scan);
    progress = s.wait();
    return journal->known_since(0, journal->rotate());
  }

  test::Scratch tree, dir;
  FakeClock clock;
  Journal::Options options;
  std::unique_ptr<Journal> journal;
  GapScanOptions scan;
  GapScan::Progress progress;
};

TEST_F(GapScanTest, an_old_tree_has_no_suspects) {
  EXPECT_TRUE(run().empty());
  EXPECT_EQ(progress.state, GapScan::State::done);
  EXPECT_EQ(progress.directories, 3u);
  EXPECT_EQ(progress.objects, 5u);
  EXPECT_EQ(progress.suspects, 0u);
  EXPECT_FALSE(*first_change_beneath(tree.fd(), *journal, scan));
}

TEST_F(GapScanTest, every_object_whose_ctime_is_not_older_is_a_suspect) {
  scan.trusted_until_ns = ctime("d/f");
  const DirtySet set = run();
  EXPECT_TRUE(set.objects().at(inode("d/f").id).whole);
  EXPECT_TRUE(set.objects().at(inode("d").id).whole) << "its listing changed with the file";
  EXPECT_FALSE(set.objects().at(inode("d").id).subtree);
  EXPECT_FALSE(set.objects().at(inode("d/f").id).handle.empty());
  EXPECT_FALSE(set.objects().contains(inode(".somfs").id));
  EXPECT_FALSE(set.objects().contains(inode(".somfs/inner").id));
  EXPECT_EQ(progress.suspects, set.objects().size());
}

TEST_F(GapScanTest, the_margin_reaches_back) {
  scan.margin_ns = 3'600'000'000'000;
  EXPECT_EQ(run().objects().size(), 5u);
}

TEST_F(GapScanTest, excluded_paths_are_passed_over) {
  scan.trusted_until_ns = 0;
  scan.limits.excluded = {"d/e"};
  const DirtySet set = run();
  EXPECT_TRUE(set.objects().contains(inode("d/f").id));
  EXPECT_FALSE(set.objects().contains(inode("d/e").id));
  EXPECT_FALSE(set.objects().contains(inode("d/e/g").id));
}

TEST_F(GapScanTest, deep_trees_need_few_descriptors) {
  scan.trusted_until_ns = 0;
  scan.limits.open_dirs = 2;
  constexpr int kDepth = 300;  // with such names far beyond PATH_MAX
  const std::string name(40, 'x');
  Fd at(::openat(tree.fd(), "d", O_RDONLY | O_DIRECTORY));
  for (int i = 0; i < kDepth; ++i) {
    ::mkdirat(at.get(), name.c_str(), 0700);
    ::mkdirat(at.get(), "side", 0700);
    at.reset(::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY));
  }
  at.reset();
  run();
  EXPECT_EQ(progress.state, GapScan::State::done) << progress.reason;
  EXPECT_EQ(progress.objects, 5u + 2 * kDepth);
  for (int i = kDepth; i > 0; --i) {  // too deep for a removal by path
    at.reset(::openat(tree.fd(), "d", O_RDONLY | O_DIRECTORY));
    for (int k = 1; k < i; ++k) at.reset(::openat(at.get(), name.c_str(), O_RDONLY | O_DIRECTORY));
    ::unlinkat(at.get(), "side", AT_REMOVEDIR);
    ::unlinkat(at.get(), name.c_str(), AT_REMOVEDIR);
  }
}

TEST_F(GapScanTest, a_directory_moved_while_its_descriptor_was_closed_is_given_up_as_a_subtree) {
  ::mkdirat(tree.fd(), "d/e/h", 0700);
  WalkLimits limits;
  limits.open_dirs = 1;
  std::vector<ObjectId> moved;
  ::mkdirat(tree.fd(), "d/e/h/i", 0700);
  ::mkdirat(tree.fd(), "d/e/h/k", 0700);
  const ObjectId h = inode("d/e/h").id;
  bool done = false;
  TreeWalk walk(
      tree.fd(), limits,
      [&](const WalkEntry& e) {
        const bool inside = e.name == "deep";
        if (inside && !done) done = ::renameat(tree.fd(), "d/e/h", tree.fd(), "away") == 0;
        return true;
      },
      [&](const ObjectId& id) { moved.push_back(id); });
  ::mkdirat(tree.fd(), "d/e/h/i/deep", 0700);
  ::mkdirat(tree.fd(), "d/e/h/k/deep", 0700);
  ASSERT_TRUE(walk.run());
  EXPECT_TRUE(done);
  EXPECT_EQ(moved, std::vector<ObjectId>{h});
}

TEST_F(GapScanTest, the_first_change_that_nothing_explains_is_named) {
  scan.trusted_until_ns = ctime("d/e/g") - 3'600'000'000'000;
  for (const char* known : {".", "d", "d/e", "d/f"}) journal->intend(inode(known).id, nullptr, Promise::soon);
  EXPECT_EQ(first_change_beneath(tree.fd(), *journal, scan)->value_or(""), "d/e/g");
  journal->intend(inode("d/e/g").id, nullptr, Promise::soon);
  EXPECT_FALSE(*first_change_beneath(tree.fd(), *journal, scan));
}

TEST_F(GapScanTest, cancelled_it_is_not_finished) {
  journal.reset();
  journal = std::move(*Journal::open(dir.fd(), "fs", clock, options));
  ASSERT_TRUE(journal->gap_scan_wanted());
  for (int i = 0; i < 2000; ++i) touch("d/e/n" + std::to_string(i));
  GapScan s(tree.fd(), *journal, scan);
  s.cancel();
  const GapScan::State state = s.wait().state;
  EXPECT_EQ(journal->gap_scan_wanted(), state == GapScan::State::cancelled) << name_of(state);
}

TEST_F(GapScanTest, a_tree_that_is_gone_is_a_failure_with_its_reason) {
  GapScan s(-1, *journal, scan);
  EXPECT_EQ(s.wait().state, GapScan::State::failed);
  EXPECT_FALSE(s.progress().reason.empty());
}

}  // namespace
}  // namespace somfs::snapshot
