// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/random_operations.h"

#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/tools/scratch.h"
#include "tests/tools/tree_compare.h"

using namespace somfs;
using namespace somfs::tools;

namespace {

// The log of a run in a fresh directory.
std::vector<std::string> log_of(const Scratch& scratch, const char* name, std::uint64_t seed, int ops) {
  mkdirat(scratch.fd(), name, 0755);
  Fd dir(openat(scratch.fd(), name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  RandomOperations operations(dir.get(), seed);
  std::vector<std::string> log;
  for (int i = 0; i < ops; ++i) log.push_back(operations.step());
  operations.describe([&](const std::string& line) { log.push_back(line); });
  return log;
}

TEST(RandomOperations, the_same_seed_gives_the_same_log_and_the_same_tree) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    Scratch scratch;
    auto a = log_of(scratch, "a", seed, 150);
    auto b = log_of(scratch, "b", seed, 150);
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) ASSERT_EQ(a[i], b[i]) << "seed " << seed;
    ASSERT_EQ(a.size(), b.size());
    auto found = compare_trees(scratch.path() + "/a", scratch.path() + "/b", {.ignore = {"mtime"}});
    ASSERT_TRUE(found);
    EXPECT_TRUE(found->empty()) << line(found->front());
  }
}

TEST(RandomOperations, another_seed_gives_another_log) {
  Scratch scratch;
  EXPECT_NE(log_of(scratch, "a", 1, 20), log_of(scratch, "b", 2, 20));
}

TEST(RandomOperations, a_file_system_that_behaves_differently_shows) {
  Scratch scratch;
  auto a = log_of(scratch, "a", 3, 100);
  mkdirat(scratch.fd(), "b", 0755);
  mkdirat(scratch.fd(), "b/d1", 0755);  // stands for a call that had another effect
  EXPECT_NE(a, log_of(scratch, "b", 3, 100));
}

TEST(RandomOperations, every_call_succeeds_now_and_then) {
  Scratch scratch;
  std::map<std::string, bool> succeeded;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    for (const std::string& entry : log_of(scratch, std::to_string(seed).c_str(), seed, 300)) {
      std::istringstream words(entry);
      std::string number, call;
      words >> number >> call;
      if (number.find_first_not_of("0123456789") != std::string::npos) break;  // the tree begins
      succeeded[call] |= entry.find(" = -1") == std::string::npos && entry.find("(no page)") == std::string::npos;
    }
  }
  for (const auto& [call, ok] : succeeded) EXPECT_TRUE(ok) << call << " never succeeded";
  EXPECT_GE(succeeded.size(), 29u);
}

}  // namespace
