// SPDX-License-Identifier: Apache-2.0
// The journal on a full file system: a tmpfs in a mount namespace of the test's own, which goes with the process.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>

#include <cstdio>
#include <cstring>

#include "tests/unit/snapshot/journal_fixture.h"

namespace somfs::snapshot {
namespace {

class FullDisk : public test::JournalTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(::mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=1m"), 0) << std::strerror(errno);
    disk.reset(::open(dir.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  void TearDown() override {
    disk.reset();
    ::umount2(dir.path().c_str(), MNT_DETACH);
  }
  void fill() {
    Fd fd(::openat(disk.get(), "filler", O_WRONLY | O_CREAT, 0600));
    const std::string page(4096, 'x');
    while (write_all(fd.get(), page) == 0) {
    }
  }
  Fd disk;
};

TEST_F(FullDisk, capture_goes_on_in_memory_and_the_gap_is_flagged) {
  auto j = open(disk.get());
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 0));
  fill();
  for (std::uint64_t n = 1; n <= 5000; ++n) write(*j, n, 0, 10, n % 1000 == 0 ? Promise::now : Promise::soon);
  EXPECT_FALSE(j->stats().trouble.empty());
  const std::uint64_t epoch = j->rotate();
  for (std::uint64_t n = 1; n <= 40; ++n) j->rotate();
  (void)j->flush();
  EXPECT_TRUE(j->target("m")->gap);

  ::unlinkat(disk.get(), "filler", 0);
  ASSERT_TRUE(j->flush());
  ASSERT_TRUE(j->flush());
  EXPECT_TRUE(j->stats().trouble.empty()) << j->stats().trouble;
  EXPECT_EQ(j->known_since(0, epoch).objects().size(), 5000u);
  write(*j, 1);
  j.reset();
  j = open(disk.get());
  EXPECT_EQ(j->gap_found(), Gap::killed);
  EXPECT_TRUE(j->target("m")->gap);
  EXPECT_EQ(j->known_since(0, epoch).objects().size(), 5000u);
  const std::uint64_t last = j->rotate();
  EXPECT_TRUE(j->known_since(last - 1, last).objects().contains(id(1)));
}

TEST_F(FullDisk, a_start_finds_room_for_what_was_recorded) {
  auto j = open(disk.get());
  for (std::uint64_t n = 1; n <= 50; ++n) write(*j, n);
  fill();
  for (int round = 0; round < 2; ++round) {
    j.reset();
    auto again = Journal::open(disk.get(), fs_id, clock, options);
    ASSERT_TRUE(again) << again.error().line();
    j = std::move(*again);
    EXPECT_EQ(j->gap_found(), Gap::killed);
    const std::uint64_t last = j->rotate();
    EXPECT_EQ(j->known_since(0, last).objects().size(), 50u);
  }
}

TEST_F(FullDisk, a_start_without_room_for_the_state_is_one_clear_error) {
  fill();
  auto j = Journal::open(disk.get(), fs_id, clock, options);
  ASSERT_FALSE(j);
  EXPECT_EQ(j.error().exit, Exit::no_space);
}

}  // namespace
}  // namespace somfs::snapshot

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    std::printf("skipped: no mount namespace of its own: %s\n", std::strerror(errno));
    return 77;
  }
  return RUN_ALL_TESTS();
}
