// SPDX-License-Identifier: Apache-2.0
#include "cli/own_directory.h"

#include <gtest/gtest.h>

#include <sys/stat.h>

#include <vector>

#include "tests/unit/snapshot/scratch.h"
#include "tests/unit/sync_calls.h"

namespace somfs::cli {
namespace {

TEST(OwnDirectory, its_name_is_durable_once_it_is_made) {
  snapshot::test::Scratch above;
  // At each sync of the directory above: whether the name was there.
  std::vector<bool> syncs;
  struct stat root {};
  ASSERT_EQ(::fstat(above.fd(), &root), 0);
  test::on_sync([&](int fd, test::Sync) {
    struct stat st {}, made {};
    if (::fstat(fd, &st) == 0 && st.st_ino == root.st_ino) syncs.push_back(::fstatat(above.fd(), ".somfs", &made, AT_SYMLINK_NOFOLLOW) == 0);
  });
  EXPECT_TRUE(own_directory(above.fd(), ".somfs"));
  EXPECT_EQ(syncs, (std::vector<bool>{true}));
  EXPECT_TRUE(own_directory(above.fd(), ".somfs"));
  EXPECT_EQ(syncs.size(), 1u) << "it was there already";
  test::on_sync({});
}

}  // namespace
}  // namespace somfs::cli
