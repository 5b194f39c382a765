// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "fs/excludes.h"
#include "fs/mount_table.h"

namespace somfs::fs {
namespace {

TEST(Excludes, CoverWhatLiesAtOrBeneath) {
  Excludes e({"var/cache/", "./tmp", "a//b", ""});
  EXPECT_TRUE(e.covers({"var", "cache"}));
  EXPECT_TRUE(e.covers({"var", "cache", "x", "y"}));
  EXPECT_TRUE(e.covers({"tmp"}));
  EXPECT_TRUE(e.covers({"a", "b"}));
  EXPECT_FALSE(e.covers({"var"}));
  EXPECT_FALSE(e.covers({"var", "cache2"}));
  EXPECT_FALSE(e.covers({"tmp2"}));
  EXPECT_FALSE(e.covers({}));
  EXPECT_TRUE(Excludes({"", ".", "/"}).empty());
}

TEST(MountTable, ReadsEscapedPathsAndOptionalFields) {
  auto all = parse_mountinfo(
      "36 35 98:0 /mnt1 /mnt/with\\040space rw,noatime master:1 shared:2 - ext3 /dev/root rw\n"
      "broken line\n"
      "40 36 0:41 / /v rw - fuse.somfs /v rw,user_id=0\n");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].where, "/mnt/with space");
  EXPECT_EQ(all[0].type, "ext3");
  EXPECT_EQ(all[0].source, "/dev/root");
  EXPECT_EQ(all[0].device, "98:0");
  EXPECT_EQ(all[1].type, "fuse.somfs");
}

TEST(MountTable, BeneathIsByComponent) {
  EXPECT_TRUE(beneath("/a/b", "/a"));
  EXPECT_TRUE(beneath("/a", "/"));
  EXPECT_FALSE(beneath("/a", "/a"));
  EXPECT_FALSE(beneath("/ab", "/a"));
  EXPECT_FALSE(beneath("/", "/"));
}

}  // namespace
}  // namespace somfs::fs
