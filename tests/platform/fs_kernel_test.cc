// SPDX-License-Identifier: Apache-2.0
// What the kernel above the mount remembers or decides by itself, and how it is brought in line with the file system beneath.
#include "tests/platform/fs_fixture.h"

namespace somfs::fs::test {
namespace {

// O_NOATIME of the mount as a whole. Beneath, whoever reads a file that was written since it was read last moves its access time.
TEST(Mount, AccessTimesStayWhereTheMountSaysSo) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  timespec old[2] = {{1000, 0}, {2000, 0}};
  auto reset = [&] {
    for (const char* name : {"/dir/file", "/dir"}) ASSERT_EQ(::utimensat(AT_FDCWD, (s.path + name).c_str(), old, 0), 0);
  };
  auto read_both = [&] {
    EXPECT_EQ(slurp(s.path + "/dir/file"), "content");
    EXPECT_EQ(names_in(s.path + "/dir").size(), 1u);
  };
  auto atime = [&](const char* name) {
    struct stat st = {};
    EXPECT_EQ(::stat((s.path + name).c_str(), &st), 0);
    return st.st_atime;
  };
  ASSERT_EQ(::mkdir((s.path + "/dir").c_str(), 0755), 0);
  spill(s.path + "/dir/file", "content");
  reset();
  read_both();
  if (atime("/dir/file") == 1000) GTEST_SKIP() << "the file system beneath keeps no access times";
  struct {
    bool no_atime, no_dir_atime, read_only, file_moves, dir_moves;
  } cases[] = {{false, false, false, true, true}, {true, false, false, false, false}, {false, true, false, true, false}, {false, false, true, false, false}};
  for (auto& c : cases) {
    reset();
    {
      MountedWith with;
      with.mount.no_atime = c.no_atime;
      with.mount.no_dir_atime = c.no_dir_atime;
      with.mount.read_only = c.read_only;
      Mounted m(s.path, with);
      ASSERT_TRUE(m.mount);
      read_both();
    }
    EXPECT_EQ(atime("/dir/file") != 1000, c.file_moves) << c.no_atime << c.no_dir_atime << c.read_only;
    EXPECT_EQ(atime("/dir") != 1000, c.dir_moves) << c.no_atime << c.no_dir_atime << c.read_only;
  }
}

// Handles name objects, not places in memory: one of an object that is gone must not open whatever came to lie there.
TEST(Mount, HandlesOfRemovedFilesAreStale) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  Fd root(::open(s.path.c_str(), O_RDONLY | O_DIRECTORY));
  alignas(file_handle) char space[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
  auto* gone = reinterpret_cast<file_handle*>(space);
  int mount_id = 0;
  spill(s.path + "/gone", "");
  gone->handle_bytes = MAX_HANDLE_SZ;
  ASSERT_EQ(::name_to_handle_at(root.get(), "gone", gone, &mount_id, 0), 0) << std::strerror(errno);
  EXPECT_TRUE(Fd(::open_by_handle_at(root.get(), gone, O_RDONLY)));
  ASSERT_EQ(::unlink((s.path + "/gone").c_str()), 0);
  for (int i = 0; i < 200; ++i) {
    spill(s.path + "/" + std::to_string(i), "");
    EXPECT_FALSE(Fd(::open_by_handle_at(root.get(), gone, O_RDONLY))) << i;
    EXPECT_EQ(errno, ESTALE);
  }
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int result = RUN_ALL_TESTS();
  return result == 0 && somfs::fs::test::skipped() ? 77 : result;
}
