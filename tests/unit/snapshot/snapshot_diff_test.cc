// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "snapshot/snapshot_diff.h"
#include "tests/unit/snapshot/store_harness.h"

namespace somfs::snapshot::test {
namespace {

TEST(SnapshotDiff, SaysWhatChanged) {
  Volume v;
  v.open_store();
  v.create("/same", "x");
  v.create("/data", "old");
  v.create("/mode", "x");
  v.create("/label", "x");
  v.create("/gone", "x");
  v.create("/here", "x");
  v.create("/replaced", "x");
  v.mkdir("/dir");
  v.mkdir("/dir/sub");
  v.create("/dir/sub/quiet", "x");
  v.create("/dir/sub/loud", "x");
  v.snapshot("a");
  v.write("/data", 0, "new");
  v.chmod("/mode", 0600);
  v.set_xattr("/label", "user.x", "y");
  v.unlink("/gone");
  v.rename("/here", "/dir/there");
  v.unlink("/replaced");
  v.create("/replaced", "another");
  v.write("/dir/sub/loud", 0, "y");
  v.rename("/dir", "/moved");
  v.create("/born", "x");
  v.snapshot("b");
  v.create("/later", "not to be seen");
  auto a = View::open(v.root.get(), v.dir.get(), "a").value();
  auto b = View::open(v.root.get(), v.dir.get(), "b").value();
  std::string said;
  Status s = diff(*a, *b, [&](const PathChange& c) {
    said += "-+MR"[static_cast<int>(c.what)];
    said += " " + c.path + (c.from.empty() ? "" : " from " + c.from);
    said += std::string(c.data ? " data" : "") + (c.attr && !c.data ? " attr" : "") + (c.xattr ? " xattr" : "") + "\n";
  });
  ASSERT_TRUE(s) << s.error().line();
  EXPECT_EQ(said,
            "+ born\n"
            "M data data\n"
            "- gone\n"
            "M label xattr\n"
            "M mode attr\n"
            "R moved from dir\n"
            "M moved/sub/loud data\n"
            "R moved/there from here\n"
            "- replaced\n"
            "+ replaced\n");
  said.clear();
  ASSERT_TRUE(diff(*b, *b, [&](const PathChange& c) { said += c.path; }));
  EXPECT_EQ(said, "");
}

}  // namespace
}  // namespace somfs::snapshot::test
