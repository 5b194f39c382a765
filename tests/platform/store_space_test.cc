// SPDX-License-Identifier: Apache-2.0
// A small file system fills up while snapshots exist: the writes succeed, snapshots go with a reason, the reserve stays free.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdlib>

#include <fmt/format.h>

#include "tests/unit/snapshot/store_harness.h"

namespace somfs::snapshot::test {
namespace {

struct SmallDisk {
  std::string dir;
  bool mounted = false;
  explicit SmallDisk(const std::string& make) {
    const char* t = std::getenv("TMPDIR");
    dir = std::string(t != nullptr ? t : "/tmp") + "/somfs-space-XXXXXX";
    if (::mkdtemp(dir.data()) == nullptr) return;
    // In a mount namespace of our own: whatever happens, nothing stays behind.
    std::string script = fmt::format("cd {0} && mkdir m && truncate -s {2} image && {1} image >/dev/null 2>&1 && "
                                     "mount -o loop image m", dir, make, make.starts_with("mkfs.xfs") ? "320M" : "96M");
    mounted = std::system(script.c_str()) == 0;
  }
  ~SmallDisk() {
    if (mounted) ::umount2((dir + "/m").c_str(), MNT_DETACH);
    for (const char* n : {"/image", "/m"}) ::remove((dir + n).c_str());
    ::rmdir(dir.c_str());
  }
};

std::uint64_t free_of(const Volume& v) {
  struct statvfs s;
  return ::fstatvfs(v.root.get(), &s) == 0 ? s.f_bavail * s.f_frsize : 0;
}

void fill(const std::string& make, std::uint64_t reserve) {
  SmallDisk disk(make);
  if (!disk.mounted) GTEST_SKIP() << "cannot mount a loop device with " << make;
  Volume v(disk.dir + "/m");
  std::vector<DroppedSnapshot> told;
  Store::Options o;
  o.reserve_bytes = reserve;
  o.on_drop = [&](const DroppedSnapshot& d) { told.push_back(d); };
  v.open_store(o);
  const std::uint64_t size = free_of(v) * 2 / 5, step = 1u << 20;
  std::string block(step, 'a');
  v.create("/big");
  for (std::uint64_t off = 0; off < size; off += step) v.write("/big", off, block);
  v.snapshot("first");
  v.create("/small", "x");
  v.snapshot("second");
  // Overwritten twice, a snapshot before each: more pre-images than there is room for. write() throws when a write fails.
  for (char c : {'b', 'c'}) {
    block.assign(step, c);
    for (std::uint64_t off = 0; off < size; off += step) {
      ASSERT_NO_THROW(v.write("/big", off, block));
      ASSERT_GE(free_of(v), reserve) << "snapshots go before that";
    }
    if (c == 'b' && told.empty()) v.snapshot("third");
  }
  ASSERT_FALSE(told.empty());
  EXPECT_EQ(told[0].name, "first");
  EXPECT_NE(told[0].reason.find("space"), std::string::npos) << told[0].reason;
  v.store->keep_reserve();
  EXPECT_GE(free_of(v), reserve);
  EXPECT_EQ(v.live().at("/big").content, std::string(v.live().at("/big").attr.size, 'c'));
}

TEST(StoreSpace, Ext4WithReserve) { fill("mkfs.ext4 -q -m 0", 24u << 20); }
TEST(StoreSpace, Ext4ToTheLastByte) { fill("mkfs.ext4 -q -m 0", 0); }

// Reflinks: a file cut to nothing is kept as a whole, without copying.
TEST(StoreSpace, XfsKeepsWholeFiles) {
  SmallDisk disk("mkfs.xfs -q -m reflink=1");
  if (!disk.mounted) GTEST_SKIP() << "cannot mount xfs";
  Volume v(disk.dir + "/m");
  v.open_store();
  v.create("/big");
  for (int i = 0; i < 20; ++i)
    v.write("/big", static_cast<std::uint64_t>(i) << 20, std::string(1u << 20, static_cast<char>('a' + i)));
  Tree before = v.live();
  v.snapshot("s");
  v.snapshot("t");
  v.truncate("/big", 0);
  v.write("/big", 0, std::string(3u << 20, 'z'));
  EXPECT_LT(v.store->find("t")->store_bytes, 1u << 20);
  for (const char* name : {"s", "t"}) {
    auto seen = v.view(name);
    ASSERT_TRUE(seen) << seen.error().line();
    EXPECT_EQ(describe_difference(before, *seen), "");
  }
  ASSERT_TRUE(v.store->remove("t"));
  auto seen = v.view("s");
  ASSERT_TRUE(seen) << seen.error().line();
  EXPECT_EQ(describe_difference(before, *seen), "");
}

}  // namespace
}  // namespace somfs::snapshot::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (::geteuid() != 0 || ::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    fmt::print("needs root and a mount namespace\n");
    return 77;
  }
  return RUN_ALL_TESTS();
}
