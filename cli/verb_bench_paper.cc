// SPDX-License-Identifier: Apache-2.0
#include "cli/verb_bench.h"

namespace somfs::cli {

void add_bench_paper(Command& app, RunBench& run) {
  Command c = app.add_subcommand("paper", "Every table of both papers that this version can print, with today's numbers");
  c.footer("Both sites on this machine, disks on memory. Migration: snapshots, full and differential, beside an image of the same file system. Pipeline: the eight rows,\n"
           "the four arrangements with what their stages' processor times allow, the traces of the interval, random writes. Where the set-up or the shape differs from\n"
           "the papers' it is said. A quarter of an hour; keep the machine quiet. What it takes is memory (some GB) and nothing is left behind.");
  c.callback([&run] { run = [](Bench& bench) { return run_script(bench, {"paper", {}, {}}); }; });
}

}  // namespace somfs::cli
