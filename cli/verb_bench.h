// SPDX-License-Identifier: Apache-2.0
// The verbs of somfs-bench. Each runs a script of bench/, which prints tables and plots; what is said here is which, with what, and how it ended.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>
#include <utility>
#include <vector>

#include "cli/arguments.h"
#include "common/result.h"

namespace somfs::cli {

struct Bench {                              // where a benchmark runs; tests pass their own streams
  std::ostream& out;
  std::ostream& err;
  bool json = false;                        // nothing but the result, as one object
  bool quick = false;
  unsigned repeat = 0;                      // 0: as the script has it
  std::string plots;                        // a directory for SVG; empty: none
};

// A script with its arguments, and what stands in its environment beside what is there already.
struct Script {
  std::string name;
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> environment;
};

using RunBench = std::function<Result<Exit>(Bench&)>;

void add_bench_paper(Command& app, RunBench& run);
void add_bench_fs(Command& app, RunBench& run);
void add_bench_migrate(Command& app, RunBench& run);
void add_bench_pipeline(Command& app, RunBench& run);
void add_bench_lag(Command& app, RunBench& run);
void add_bench_block(Command& app, RunBench& run);

// Runs it to its end; its exit code. Exit::configuration where the scripts, or python3, are not found; Exit::not_allowed without root.
Result<Exit> run_script(Bench& bench, Script script);

// The directory of the scripts: $SOMFS_BENCH_DIR; where they are installed beside the programs; bench/ of the sources this was built in.
Result<std::string> bench_directory();

// The whole of somfs-bench: returns the exit code.
int bench_main(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

}  // namespace somfs::cli
