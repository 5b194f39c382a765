// SPDX-License-Identifier: Apache-2.0
#include "cli/verb_bench.h"

namespace somfs::cli {

void add_bench_block(Command& app, RunBench& run) {
  Command c = app.add_subcommand("block", "The block-level fallback: not in this version");
  c.callback([&run] {
    run = [](Bench&) -> Result<Exit> {
      return fail(Exit::usage, "cannot measure the block-level fallback", {}, "it is not in this version", "see somfs-bench --help for what is");
    };
  });
}

}  // namespace somfs::cli
