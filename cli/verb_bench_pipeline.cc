// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/verb_bench.h"

namespace somfs::cli {

void add_bench_pipeline(Command& app, RunBench& run) {
  Command c = app.add_subcommand("pipeline", "The pipeline alone: rows, arrangements, traces and random writes of the paper");
  auto chosen = std::make_shared<std::vector<std::string>>();
  c.add_option("part", *chosen, "Some of them only: rows, modes, traces, random").one_of({"rows", "modes", "traces", "random"});
  c.footer("As the second half of the verb paper.");
  c.callback([&run, chosen] { run = [chosen](Bench& bench) { return run_script(bench, {"pipeline", *chosen, {}}); }; });
}

}  // namespace somfs::cli
