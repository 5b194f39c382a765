// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/verb_bench.h"

namespace somfs::cli {

void add_bench_fs(Command& app, RunBench& run) {
  Command c = app.add_subcommand("fs", "The data path: native time / mount time, beside bindfs and mergerfs");
  auto chosen = std::make_shared<std::vector<std::string>>();
  c.add_option("workload", *chosen, "Some of them only: by their names, such as seq-write or rename")
      .one_of({"seq-write", "random-write", "random-write-fsync", "seq-read", "random-read", "ls", "open-read-close", "rename", "sqlite", "git-clone"});
  c.footer("Each workload on a fresh ext4 on memory, peers in turns. Peers that are not installed are left out.");
  c.callback([&run, chosen] { run = [chosen](Bench& bench) { return run_script(bench, {"fs", *chosen, {}}); }; });
}

}  // namespace somfs::cli
