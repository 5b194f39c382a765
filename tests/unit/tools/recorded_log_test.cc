// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/recorded_log.h"

#include <set>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/tools/scratch.h"

using namespace somfs;
using namespace somfs::tools;

namespace {

constexpr std::uint64_t kSector = 4096;

class RecordedLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(replace_file(scratch_.fd(), "base", std::string(16 * kSector, '.')));
    auto log = RecordedLogWriter::create(path("log"));
    ASSERT_TRUE(log);
    ASSERT_TRUE(log->append(Recorded::write, 0, 2 * kSector, std::string(2 * kSector, 'a')));
    ASSERT_TRUE(log->append(Recorded::flush, 0, 0));
    ASSERT_TRUE(log->append(Recorded::write, 0, 4 * kSector, std::string(4 * kSector, 'b')));
    ASSERT_TRUE(log->append(Recorded::write, kSector, kSector, std::string(kSector, 'c')));
    ASSERT_TRUE(log->append(Recorded::zero, 8 * kSector, kSector));
  }
  std::string path(const char* name) { return scratch_.path() + "/" + name; }
  // One character per sector; '!' where a sector is mixed.
  std::string cut(std::uint64_t at, std::uint64_t seed, std::uint64_t sector = kSector) {
    auto log = RecordedLog::open(path("log"));
    if (!log || !cut_image(path("base"), *log, {at, seed, sector}, path("out"))) return "failed";
    std::string image = read_file(scratch_.fd(), "out", 1 << 20).value_or("");
    std::string sectors;
    for (std::size_t i = 0; i < image.size(); i += kSector) {
      bool same = image.find_first_not_of(image[i], i) >= i + kSector;
      sectors += !same ? '!' : image[i] == '\0' ? '0' : image[i];
    }
    return sectors;
  }
  Scratch scratch_;
};

TEST_F(RecordedLogTest, nothing_before_the_first_entry_and_all_or_nothing_on_demand) {
  EXPECT_EQ(cut(0, 1), "................");
  EXPECT_EQ(cut(1, 0), "................");
  EXPECT_EQ(cut(1, 1), "aa..............");
  EXPECT_EQ(cut(5, 0), "aa..............");
  EXPECT_EQ(cut(5, 1), "bcbb....0.......");
}

TEST_F(RecordedLogTest, what_was_flushed_survives_every_seed_and_each_sector_holds_a_value_it_may_hold) {
  std::set<std::string> seen;
  for (std::uint64_t seed = 2; seed < 400; ++seed) {
    std::string now = cut(5, seed);
    seen.insert(now);
    ASSERT_EQ(now.size(), 16u);
    EXPECT_NE(std::string("ab").find(now[0]), std::string::npos) << now;
    EXPECT_NE(std::string("abc").find(now[1]), std::string::npos) << now;
    EXPECT_NE(std::string(".b").find(now[2]), std::string::npos) << now;
    EXPECT_NE(std::string(".0").find(now[8]), std::string::npos) << now;
    EXPECT_EQ(now.substr(9), ".......");
    EXPECT_EQ(now, cut(5, seed)) << "a seed must always give the same image";
  }
  EXPECT_TRUE(seen.contains("acbb............") || seen.contains("ac.b............")) << "torn and reordered";
  EXPECT_TRUE(seen.contains("ac..............")) << "the later write survives without the earlier";
  EXPECT_GT(seen.size(), 10u);
}

TEST_F(RecordedLogTest, small_sectors_tear_inside_a_large_one) {
  bool mixed = false;
  for (std::uint64_t seed = 2; seed < 100; ++seed) mixed |= cut(5, seed, 512).find('!') != std::string::npos;
  EXPECT_TRUE(mixed);
}

TEST_F(RecordedLogTest, a_log_cut_short_ends_at_its_last_whole_entry_and_a_cut_beyond_it_is_refused) {
  struct stat st {};
  ASSERT_EQ(stat(path("log").c_str(), &st), 0);
  ASSERT_EQ(truncate(path("log").c_str(), st.st_size - 18), 0);
  auto log = RecordedLog::open(path("log"));
  ASSERT_TRUE(log);
  EXPECT_EQ(log->entries().size(), 3u);
  auto beyond = cut_image(path("base"), *log, {5, 0, kSector}, path("out"));
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().exit, Exit::usage);
  EXPECT_FALSE(RecordedLog::open(path("base")));
}

}  // namespace
