// SPDX-License-Identifier: Apache-2.0
// oracle: ordered writers, and whether a tree shows one instant of them.
#include <cstdio>

#include "cli/arguments.h"
#include "tests/tools/oracle.h"

using namespace somfs;
using namespace somfs::tools;

namespace {

int refuse(const Error& e) {
  std::fprintf(stderr, "oracle: %s\n", e.line().c_str());
  return static_cast<int>(e.exit);
}

}  // namespace

int main(int argc, char** argv) {
  cli::CommandLine app{"Several writers make numbered mutations in one order; `check` says whether a tree shows a prefix of them."};
  app.require_subcommand(1);
  OracleRun run;
  cli::Command write = app.add_subcommand("write", "write into an empty directory; prints n=NUMBER at the end");
  write.add_option("DIR", run.dir).required();
  write.add_option("--seconds", run.seconds, "how long");
  write.add_option("--count", run.count, "end after this many mutations");
  write.add_option("--procs", run.processes);
  write.add_option("--seed", run.seed);
  write.add_flag("--sync", run.sync, "fsync each mutation before the next");
  write.add_option("--progress", run.progress, "a file outside DIR that begins with the number of the last finished mutation");
  std::string dir;
  cli::Command check = app.add_subcommand("check", "prints n=NUMBER (exit 0) or the violation (exit 6)");
  check.add_option("DIR", dir).required();
  if (const auto code = app.parse_and_tell(argc, argv)) return *code;

  if (write.parsed()) {
    auto number = oracle_write(run);
    if (!number) return refuse(number.error());
    std::printf("n=%llu\n", static_cast<unsigned long long>(*number));
    return 0;
  }
  auto verdict = oracle_check(dir);
  if (!verdict) return refuse(verdict.error());
  if (!verdict->one_instant) {
    std::printf("violation: %s\n", verdict->violation.c_str());
    return static_cast<int>(Exit::differs);
  }
  std::printf("n=%llu\n", static_cast<unsigned long long>(verdict->number));
  return 0;
}
