// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/verb_bench.h"

namespace somfs::cli {

void add_bench_migrate(Command& app, RunBench& run) {
  Command c = app.add_subcommand("migrate", "Migration beside the rsync daemon on loopback, and btrfs send where there is one");
  auto chosen = std::make_shared<std::vector<std::string>>();
  c.add_option("workload", *chosen, "Some of them only: W1 to W10").one_of({"W1", "W2", "W3", "W4", "W5", "W6", "W7", "W8", "W9", "W10"});
  c.footer("Each peer has a source of its own with the same content and gets the same change.");
  c.callback([&run, chosen] { run = [chosen](Bench& bench) { return run_script(bench, {"migrate", *chosen, {}}); }; });
}

}  // namespace somfs::cli
