// SPDX-License-Identifier: Apache-2.0
// What the store makes durable: while it is in use its head says on the disk that pre-images may be missing; only after everything was
// synced does it say the contrary.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <string>
#include <vector>

#include "common/clock.h"
#include "snapshot/store.h"
#include "snapshot/store_head.h"
#include "tests/unit/snapshot/scratch.h"
#include "tests/unit/sync_calls.h"

namespace somfs::snapshot {
namespace {

class StoreSync : public ::testing::Test {
 protected:
  // 'F': the whole file system; else the head, as '0' or '1': whether it says that all is synced.
  StoreSync() {
    somfs::test::on_sync([this](int fd, somfs::test::Sync what) {
      struct stat st {}, head {};
      if (what == somfs::test::Sync::file_system) {
        seen_ += 'F';
      } else if (::fstat(fd, &st) == 0 && ::fstatat(store_.fd(), "head", &head, 0) == 0 && st.st_ino == head.st_ino) {
        auto reader = StoreHead::open_reader(store_.fd());
        seen_ += reader && reader->synced() ? '1' : '0';
      }
    });
  }
  ~StoreSync() override { somfs::test::on_sync({}); }
  std::unique_ptr<Store> open() {
    auto s = Store::open(store_.fd(), root_.fd(), boot_, clock_, {});
    EXPECT_TRUE(s) << (s ? "" : s.error().line());
    return s ? std::move(*s) : nullptr;
  }

  test::Scratch root_, store_;
  FakeClock clock_;
  Uuid boot_ = Uuid::random();
  std::string seen_;
};

TEST_F(StoreSync, in_use_it_says_so_and_only_a_whole_sync_lets_it_say_otherwise) {
  auto store = open();
  EXPECT_EQ(seen_, "0");
  seen_.clear();
  store.reset();
  EXPECT_EQ(seen_, "F1");
  seen_.clear();
  store = open();
  EXPECT_EQ(seen_, "0");
}

}  // namespace
}  // namespace somfs::snapshot
