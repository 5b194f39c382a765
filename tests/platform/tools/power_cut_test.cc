// SPDX-License-Identifier: Apache-2.0
// The recording device under real file systems: what was fsynced survives every cut, and a missing fsync shows.
#include <optional>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/tools/recorded_log.h"
#include "tests/tools/recording_device.h"
#include "tests/tools/scratch.h"

using namespace somfs;
using namespace somfs::tools;

namespace {

constexpr int kFiles = 12;

struct FileSystem {
  const char* name;
  std::vector<std::string> make;
  std::uint64_t bytes;
  std::vector<std::string> check;  // of the image, after its journal was replayed by a mount
};

const FileSystem kExt4{"ext4", {"mkfs.ext4", "-q"}, 32u << 20, {"e2fsck", "-f", "-n"}};
const FileSystem kXfs{"xfs", {"mkfs.xfs", "-q"}, 320u << 20, {"xfs_repair", "-n"}};

std::string content(int file) { return std::string(3000 + static_cast<std::size_t>(file) * 2000, static_cast<char>('a' + file)); }

class PowerCut : public ::testing::TestWithParam<FileSystem> {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || access("/dev/fuse", R_OK | W_OK) != 0 || access("/dev/loop-control", R_OK | W_OK) != 0)
      GTEST_SKIP() << "needs root, /dev/fuse and loop devices";
    if (run_quietly({GetParam().make[0], "-V"}) == 127) GTEST_SKIP() << "no " << GetParam().make[0];
  }

  // Writes the files one after the other. done[i]: the length of the log when file i had been reported as safe.
  void record(bool with_fsync) {
    auto volume = RecordedVolume::start(scratch_.path(), GetParam().make, GetParam().bytes);
    ASSERT_TRUE(volume) << volume.error().line();
    image_ = volume->image();
    Fd dir(open(volume->dir().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(dir);
    for (int i = 0; i < kFiles; ++i) {
      Fd fd(openat(dir.get(), std::to_string(i).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
      ASSERT_TRUE(fd);
      ASSERT_EQ(write_all(fd.get(), content(i)), 0);
      if (with_fsync) {
        ASSERT_EQ(fsync(fd.get()), 0);
        ASSERT_EQ(fsync(dir.get()), 0);
      }
      done_.push_back(volume->entries());
    }
    dir.reset();
    volume->stop();
    auto log = RecordedLog::open(volume->log());
    ASSERT_TRUE(log) << log.error().line();
    log_.emplace(std::move(*log));
  }

  // The number of files that had been reported as safe before the cut and are not there whole after it.
  int lost_after(const Cut& cut, bool check) {
    std::string out = scratch_.path() + "/cut.img";
    std::string dir = scratch_.path() + "/cut";
    mkdir(dir.c_str(), 0700);
    auto result = cut_image(image_, *log_, cut, out);
    EXPECT_TRUE(result) << result.error().line();
    int lost = 0;
    {
      auto mounted = MountedImage::mount(out, dir);
      EXPECT_TRUE(mounted) << "cut at " << cut.at << " seed " << cut.seed;
      if (!mounted) return -1;
      for (std::size_t i = 0; i < done_.size() && done_[i] <= cut.at; ++i) {
        auto found = read_file(AT_FDCWD, dir + "/" + std::to_string(i), 1 << 20);
        lost += found.value_or("") != content(static_cast<int>(i));
      }
    }
    if (check) {
      std::vector<std::string> command = GetParam().check;
      command.push_back(out);
      EXPECT_EQ(run_quietly(command), 0) << "cut at " << cut.at << " seed " << cut.seed;
    }
    return lost;
  }

  Scratch scratch_;
  std::string image_;
  std::vector<std::uint64_t> done_;
  std::optional<RecordedLog> log_;
};

TEST_P(PowerCut, what_was_fsynced_is_there_after_every_cut) {
  ASSERT_NO_FATAL_FAILURE(record(true));
  ASSERT_GT(done_.back(), done_.front());
  std::uint64_t first = done_.front();
  std::uint64_t last = log_->entries().size();
  for (std::uint64_t n = 0; n <= 24; ++n) {
    std::uint64_t at = first + (last - first) * n / 24;
    EXPECT_EQ(lost_after({.at = at, .seed = n}, n % 6 == 0), 0) << "cut at " << at << " seed " << n;
  }
  for (std::uint64_t at : done_) EXPECT_EQ(lost_after({.at = at, .seed = 0}, false), 0) << "cut at " << at;
}

TEST_P(PowerCut, a_missing_fsync_shows_as_a_loss) {
  ASSERT_NO_FATAL_FAILURE(record(false));
  ASSERT_GT(done_.front(), 0u);
  EXPECT_GT(lost_after({.at = done_.back(), .seed = 0}, false), 0);
}

INSTANTIATE_TEST_SUITE_P(FileSystems, PowerCut, ::testing::Values(kExt4, kXfs),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
