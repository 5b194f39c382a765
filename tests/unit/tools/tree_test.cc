// SPDX-License-Identifier: Apache-2.0
// The tree maker and the tree comparison, each by means of the other.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>

#include "tests/tools/scratch.h"
#include "tests/tools/tree_compare.h"
#include "tests/tools/tree_make.h"

using namespace somfs;
using namespace somfs::tools;

namespace {

class Tree : public ::testing::Test {
 protected:
  void SetUp() override {
    mkdir(a().c_str(), 0755);
    mkdir(b().c_str(), 0755);
  }
  std::string a() { return scratch_.path() + "/a"; }
  std::string b() { return scratch_.path() + "/b"; }
  // The differences, joined; "" when there are none.
  std::string differences(const CompareOptions& options = {}) {
    auto found = compare_trees(a(), b(), options);
    if (!found) return found.error().line();
    std::string all;
    for (const Difference& d : *found) all += line(d) + "\n";
    return all;
  }
  void make(const std::string& dir, std::uint64_t seed, std::uint64_t files, Profile profile) {
    Status made = make_tree(dir, seed, files, profile);
    ASSERT_TRUE(made) << made.error().line();
  }
  Scratch scratch_;
};

TEST_F(Tree, the_same_seed_gives_equal_trees_in_every_profile) {
  for (Profile profile : {Profile::mixed, Profile::small, Profile::odd, Profile::sparse}) {
    for (const std::string& dir : {a(), b()}) {
      Fd fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      ASSERT_EQ(empty_directory(fd.get()), 0);
      ASSERT_NO_FATAL_FAILURE(make(dir, 42, 130, profile));
    }
    EXPECT_EQ(differences(), "");
  }
}

TEST_F(Tree, another_seed_gives_another_tree) {
  ASSERT_NO_FATAL_FAILURE(make(a(), 1, 20, Profile::small));
  ASSERT_NO_FATAL_FAILURE(make(b(), 2, 20, Profile::small));
  EXPECT_NE(differences(), "");
}

struct Change {
  const char* name;
  const char* expected;  // in the line that tells it
  std::function<bool(int)> make;
};

constexpr const char* kFile = "attributes/far";

timespec at(time_t sec, long nsec) { return {sec, nsec}; }

// Puts the old times back, so that nothing but the change itself can be seen.
bool keeping_times(int top, const char* path, const std::function<bool()>& change) {
  struct stat st {};
  if (fstatat(top, path, &st, AT_SYMLINK_NOFOLLOW) != 0 || !change()) return false;
  timespec both[2] = {st.st_atim, st.st_mtim};
  return utimensat(top, path, both, AT_SYMLINK_NOFOLLOW) == 0;
}

const Change kChanges[] = {
    Change{"content", "links/one: content from byte 4999",
           [](int top) {
             return keeping_times(top, "links/one", [&] {
               Fd fd(openat(top, "links/one", O_RDWR));
               char last = 0;
               return pread(fd.get(), &last, 1, 4999) == 1 &&
                      (last = static_cast<char>(last + 1), pwrite(fd.get(), &last, 1, 4999) == 1);
             });
           }},
    Change{"mode", "attributes/far: mode", [](int top) { return fchmodat(top, kFile, 0123, 0) == 0; }},
    Change{"nanosecond", "attributes/far: mtime",
           [](int top) {
             timespec both[2] = {at(4102444800, 2), at(4102444800, 2)};
             return utimensat(top, kFile, both, 0) == 0;
           }},
    Change{"target", "kinds/loop: target",
           [](int top) { return unlinkat(top, "kinds/loop", 0) == 0 && symlinkat("other", top, "kinds/loop") == 0; }},
    Change{"missing", "kinds/fifo: only in the first", [](int top) { return unlinkat(top, "kinds/fifo", 0) == 0; }},
    Change{"extra", "kinds/more: only in the second", [](int top) { return mkdirat(top, "kinds/more", 0755) == 0; }},
    Change{"kind", "kinds/empty: kind",
           [](int top) { return unlinkat(top, "kinds/empty", AT_REMOVEDIR) == 0 && mkfifoat(top, "kinds/empty", 0755) == 0; }},
    Change{"xattr", "attributes/xattrs: xattr user.bytes only in the first",
           [](int top) { return fremovexattr(Fd(openat(top, "attributes/xattrs", O_RDONLY)).get(), "user.bytes") == 0; }},
    Change{
        "acl", "attributes/acl: xattr system.posix_acl_access only in the first",
        [](int top) { return fremovexattr(Fd(openat(top, "attributes/acl", O_RDONLY)).get(), "system.posix_acl_access") == 0; }},
    Change{"hard_link", "links/two: hard link to links/elsewhere/three / none before",
           [](int top) {
             return unlinkat(top, "links/two", 0) == 0 &&
                    static_cast<bool>(Fd(openat(top, "links/two", O_CREAT | O_WRONLY, 0600)));
           }},
    Change{"size_of_a_hole", "holes/0: size",
           [](int top) { return ftruncate(Fd(openat(top, "holes/0", O_RDWR)).get(), 12345) == 0; }},
};

TEST_F(Tree, every_kind_of_change_is_found) {
  ASSERT_NO_FATAL_FAILURE(make(a(), 9, 1, Profile::odd));
  ASSERT_NO_FATAL_FAILURE(make(b(), 9, 1, Profile::odd));
  Fd top(open(b().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (const Change& change : kChanges) ASSERT_TRUE(change.make(top.get())) << change.name << ": " << std::strerror(errno);
  std::string found = differences({.ignore = {"dir-mtime"}});
  for (const Change& change : kChanges)
    EXPECT_NE(found.find(change.expected), std::string::npos) << change.name << " not in\n" << found;
}

TEST_F(Tree, a_difference_beyond_path_max_is_found) {
  ASSERT_NO_FATAL_FAILURE(make(a(), 9, 0, Profile::odd));
  ASSERT_NO_FATAL_FAILURE(make(b(), 9, 0, Profile::odd));
  Fd at(open((b() + "/long path").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  while (true) {
    Fd below(openat(at.get(), std::string(255, 'd').c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!below) break;
    at = std::move(below);
  }
  ASSERT_EQ(fchmodat(at.get(), "bottom", 0123, 0), 0);
  std::string found = differences();
  EXPECT_NE(found.find("/bottom: mode"), std::string::npos) << found;
  EXPECT_EQ(std::count(found.begin(), found.end(), '\n'), 1) << found;
}

TEST_F(Tree, a_hole_equals_zeroes_and_names_at_the_top_can_be_skipped) {
  Fd hole(open((a() + "/f").c_str(), O_WRONLY | O_CREAT, 0600));
  Fd zeroes(open((b() + "/f").c_str(), O_WRONLY | O_CREAT, 0600));
  ASSERT_EQ(ftruncate(hole.get(), 1 << 20), 0);
  ASSERT_EQ(write_all(zeroes.get(), std::string(1 << 20, '\0')), 0);
  ASSERT_EQ(mkdir((a() + "/.somfs").c_str(), 0700), 0);
  EXPECT_EQ(differences({.skip = {".somfs"}, .ignore = {"mtime"}}), "");
  EXPECT_NE(differences({.ignore = {"mtime"}}), "");
}

}  // namespace
