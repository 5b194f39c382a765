// SPDX-License-Identifier: Apache-2.0
// randops: seeded random calls in a directory, logged; `diff` of two logs shows where two file systems behave differently.
#include <cstdio>

#include <fcntl.h>
#include <grp.h>
#include <unistd.h>

#include "cli/arguments.h"
#include "tests/tools/random_operations.h"

int main(int argc, char** argv) {
  somfs::cli::CommandLine app{"Makes random calls in an empty directory and logs them; the log depends only on the seed and the file system."};
  std::string dir;
  std::uint64_t seed = 1, ops = 1000;
  long uid = -1;
  app.add_option("DIR", dir).required();
  app.add_option("--seed", seed);
  app.add_option("--ops", ops, "how many");
  app.add_option("--uid", uid, "become this user, with the group of the same number, first");
  if (const auto code = app.parse_and_tell(argc, argv)) return *code;
  somfs::Fd fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) {
    std::fprintf(stderr, "randops: cannot open %s\n", dir.c_str());
    return 1;
  }
  auto id = static_cast<uid_t>(uid);
  if (uid >= 0 && (setgroups(0, nullptr) != 0 || setresgid(id, id, id) != 0 || setresuid(id, id, id) != 0)) {
    std::fprintf(stderr, "randops: cannot become %ld\n", uid);
    return 1;
  }
  somfs::tools::RandomOperations operations(fd.get(), seed);
  for (std::uint64_t i = 0; i < ops; ++i) std::printf("%s\n", operations.step().c_str());
  operations.describe([](const std::string& line) { std::printf("%s\n", line.c_str()); });
  return 0;
}
