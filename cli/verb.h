// SPDX-License-Identifier: Apache-2.0
// The verbs of somfs-ctl: one file each. A verb declares its options on a sub-command and leaves a function to run.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>

#include "cli/arguments.h"
#include "cli/control.h"
#include "common/result.h"

namespace somfs::cli {

struct Terminal {            // where a verb writes; tests pass their own
  std::ostream& out;
  std::ostream& err;
  bool json = false, quiet = false;
  // A finished object: one line of JSON with --json, `text` else (nothing with --quiet).
  void result(const Json& json_object, const std::string& text) const;
  void error(const Error& e) const;
};

using Run = std::function<Result<Exit>(Terminal&)>;

void add_status(Command& app, Run& run);
void add_umount(Command& app, Run& run);
void add_snapshot(Command& app, Run& run);
void add_migrate(Command& app, Run& run);
void add_verify(Command& app, Run& run);
void add_held(Command& app, Run& run);
void add_split(Command& app, Run& run);
void add_replicate(Command& app, Run& run);
void add_pair(Command& app, Run& run);
void add_doctor(Command& app, Run& run);
void add_config(Command& app, Run& run);

// The whole of somfs-ctl: returns the exit code.
int control_main(int argc, const char* const* argv, std::ostream& out, std::ostream& err);

}  // namespace somfs::cli
