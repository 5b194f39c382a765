// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/verb_bench.h"

namespace somfs::cli {

void add_bench_lag(Command& app, RunBench& run) {
  Command c = app.add_subcommand("lag", "How far a mirror is behind, beside lsyncd with rsync and rsync in a loop");
  auto chosen = std::make_shared<std::vector<std::string>>();
  c.add_option("peer", *chosen, "Some of them only: somfs, lsyncd, rsync").one_of({"somfs", "lsyncd", "rsync"});
  c.footer("200 files of 4 KiB a second for 30 s, beside 10 000 files. Needs lsyncd and rsync for their rows.");
  c.callback([&run, chosen] {
    run = [chosen](Bench& bench) {
      Script script{"lag", *chosen, {}};
      if (bench.quick) script.environment = {{"LAG_SECONDS", "2"}, {"LAG_TREE", "500"}};
      return run_script(bench, std::move(script));
    };
  });
}

}  // namespace somfs::cli
