// SPDX-License-Identifier: Apache-2.0
#include <exception>
#include <iostream>

#include "cli/control.h"
#include "cli/verb_bench.h"
#include "cli/version.h"
#include "common/printable.h"

namespace somfs::cli {
namespace {

int failed(const Bench& bench, const Error& e) {
  if (bench.json) bench.out << error_json(e).dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  bench.err << "somfs-bench: " << e.line() << std::endl;
  return static_cast<int>(e.exit);
}

}  // namespace

int bench_main(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  Bench bench{out, err};
  try {
    CommandLine app("What somfs costs and gains, beside its rivals and beside the papers it comes from, on this machine.", "somfs-bench");
    app.footer("Each verb measures in namespaces of its own, on file systems in memory that are gone afterwards, prints a table, and as its last line one JSON object.\n"
               "Ratios of one run mean something, absolute times belong to the machine. It needs root, some GB of memory and quiet.\n"
               "First look:  somfs-bench paper --quick --plots /tmp/plots\n"
               "Exit codes: 0 done, 1 usage, 2 not installed, 10 not root, 75 it could not be measured, 130 interrupted.");
    app.set_version_flag("--version", std::string("somfs-bench ") + kVersion);
    app.require_subcommand(1);
    app.fallthrough();
    app.add_flag("--json", bench.json, "Nothing but the result, as one JSON object").group("Everywhere");
    app.add_flag("--quick", bench.quick, "Small sizes, one run: a short look, whose ratios mean little").group("Everywhere");
    app.add_option("--repeat", bench.repeat, "Runs of each cell, the median is shown; else 3").range(1u, 99u).group("Everywhere");
    app.add_option("--plots", bench.plots, "Write the plots to this directory, as SVG (paper, pipeline)").group("Everywhere");
    RunBench run;
    add_bench_paper(app, run);
    add_bench_fs(app, run);
    add_bench_migrate(app, run);
    add_bench_pipeline(app, run);
    add_bench_lag(app, run);
    add_bench_block(app, run);
    const Parsed parsed = app.parse(argc, argv);
    if (parsed.answer) {
      out << *parsed.answer << std::flush;
      return static_cast<int>(Exit::done);
    }
    if (parsed.problem) {
      for (int i = 1; i < argc; ++i) bench.json = bench.json || std::string(argv[i]) == "--json";
      const bool unknown = argc > 1 && argv[1][0] != '-' && !app.has_subcommand();
      return failed(bench, Error{Exit::usage, 0, unknown ? "no such verb" : *parsed.problem, unknown ? printable(argv[1]) : "", {}, "see somfs-bench --help"});
    }
    auto code = run(bench);
    if (code) return static_cast<int>(*code);
    return failed(bench, code.error());
  } catch (const std::exception& e) {
    return failed(bench, Error{Exit::temporary, 0, "failed unexpectedly", {}, e.what(), {}});
  }
}

}  // namespace somfs::cli
