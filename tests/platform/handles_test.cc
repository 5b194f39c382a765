// SPDX-License-Identifier: Apache-2.0
// Handles of files that are gone, while their inode numbers are given to new files all the time.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "common/fd.h"

namespace somfs {
namespace {

// So few inodes that one just freed is taken again at once. In a mount namespace of our own: nothing stays mounted.
struct FewInodes {
  std::string dir;
  bool mounted = false;
  FewInodes() {
    const char* t = std::getenv("TMPDIR");
    dir = std::string(t != nullptr ? t : "/tmp") + "/somfs-handles-XXXXXX";
    if (::mkdtemp(dir.data()) == nullptr) return;
    mounted = std::system(fmt::format("cd {} && mkdir m && truncate -s 16M image && mkfs.ext4 -q -N 256 image >/dev/null 2>&1 && mount -o loop image m", dir).c_str()) == 0;
  }
  ~FewInodes() {
    if (mounted) ::umount2((dir + "/m").c_str(), MNT_DETACH);
    for (const char* n : {"/image", "/m"}) ::remove((dir + n).c_str());
    ::rmdir(dir.c_str());
  }
  std::string path(const std::string& name) const { return dir + "/m/" + name; }
};

TEST(Handles, OfFilesThatAreGoneAreStaleWhateverIsMadeMeanwhile) {
  FewInodes disk;
  if (!disk.mounted) GTEST_SKIP() << "cannot mount an ext4 loop device here";
  const Fd top(::open(disk.path("").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_TRUE(top);
  constexpr int kFiles = 150;
  std::vector<Handle> gone;
  for (int i = 0; i < kFiles; ++i) {
    const Fd f(::open(disk.path(std::to_string(i)).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    ASSERT_TRUE(f);
    gone.push_back(handle_of(f.get()));
    ASSERT_FALSE(gone.back().empty());
  }
  for (int i = 0; i < kFiles; ++i) ASSERT_EQ(::unlink(disk.path(std::to_string(i)).c_str()), 0);

  std::atomic<bool> over{false};
  std::atomic<long> made{0};
  std::vector<std::jthread> makers;
  for (const char* who : {"a", "b"})
    makers.emplace_back([&, who] {
      while (!over) {
        for (int i = 0; i < kFiles / 3; ++i) {
          const Fd f(::open(disk.path(who + std::to_string(i)).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
          if (f) ++made;
        }
        for (int i = 0; i < kFiles / 3; ++i) ::unlink(disk.path(who + std::to_string(i)).c_str());
      }
    });
  for (long n = 0; (n < 1'000'000 || made < 20'000) && n < 20'000'000 && !HasFailure(); ++n) {
    const Handle& handle = gone[static_cast<std::size_t>(n) % gone.size()];
    const Fd fd = open_handle(top.get(), handle, O_PATH);
    ASSERT_FALSE(fd) << n;
    EXPECT_EQ(errno, ESTALE) << n;
  }
  over = true;
  makers.clear();
  EXPECT_GE(made, 20'000);
}

}  // namespace
}  // namespace somfs

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (::geteuid() != 0 || ::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    fmt::print("needs root and a mount namespace\n");
    return 77;
  }
  return RUN_ALL_TESTS();
}
