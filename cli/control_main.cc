// SPDX-License-Identifier: Apache-2.0
#include <exception>
#include <iostream>

#include "cli/verb.h"
#include "cli/version.h"

namespace somfs::cli {

void Terminal::result(const Json& j, const std::string& text) const {
  if (json) out << j.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
  else if (!quiet) out << text;
  out.flush();
}

void Terminal::error(const Error& e) const {
  if (json) out << error_json(e).dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  err << "somfs-ctl: " << e.line() << std::endl;
}

int control_main(int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  Terminal terminal{out, err};
  try {
    CommandLine app("Snapshots, migrations and the state of volumes protected by somfs.", "somfs-ctl");
    app.footer("A volume is named by its protected directory or its mount point. Every verb takes --json, --quiet and --help.\n"
               "Exit codes: 0 done, 1 usage, 2 configuration, 3 partial, 4 lag, 6 differences, 7 veto or freeze time-out, 8 a person must\n"
               "decide, 9 no space, 10 not allowed, 11 locked by another run, 12 link down, 75 try again; see somfs-exit-codes(7).");
    app.set_version_flag("--version", std::string("somfs-ctl ") + kVersion);
    app.require_subcommand(1);
    app.fallthrough();
    app.add_flag("--json", terminal.json, "One JSON object per result, for programs").group("Everywhere");
    app.add_flag("-q,--quiet", terminal.quiet, "Nothing but errors").group("Everywhere");
    Run run;
    add_status(app, run);
    add_snapshot(app, run);
    add_migrate(app, run);
    add_replicate(app, run);
    add_verify(app, run);
    add_held(app, run);
    add_split(app, run);
    add_umount(app, run);
    add_pair(app, run);
    add_doctor(app, run);
    add_config(app, run);
    const Parsed parsed = app.parse(argc, argv);
    if (parsed.answer) {
      out << *parsed.answer << std::flush;
      return static_cast<int>(Exit::done);
    }
    if (parsed.problem) {
      for (int i = 1; i < argc; ++i) terminal.json = terminal.json || std::string(argv[i]) == "--json";
      std::string verb = argc > 1 && argv[1][0] != '-' ? std::string(" ") + argv[1] : "";
      terminal.error(Error{Exit::usage, 0, *parsed.problem, {}, {}, "see somfs-ctl" + verb + " --help"});
      return static_cast<int>(Exit::usage);
    }
    auto code = run(terminal);
    if (code) return static_cast<int>(*code);
    terminal.error(code.error());
    return static_cast<int>(code.error().exit);
  } catch (const std::exception& e) {
    terminal.error(Error{Exit::temporary, 0, "failed unexpectedly", {}, e.what(), {}});
    return static_cast<int>(Exit::temporary);
  }
}

}  // namespace somfs::cli
