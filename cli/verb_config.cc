// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include "cli/config.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "common/printable.h"

namespace somfs::cli {

void add_config(Command& app, Run& run) {
  struct Options {
    std::string what;
  };
  auto o = std::make_shared<Options>();
  Command config = app.add_subcommand("config", "The configuration of a volume");
  config.require_subcommand(1);
  Command check = config.add_subcommand("check", "Read a configuration as somfs would and say what it means");
  check.add_option("FILE_OR_DIR", o->what, "A configuration file, or a protected directory for the file it would use").required();
  check.callback([o, &run] {
    run = [o](Terminal& t) -> Result<Exit> {
      std::string file = o->what;
      if (auto i = inode_at(AT_FDCWD, file); i && i->attr.kind == Kind::dir) {
        SOMFS_TRY_ASSIGN(std::string dir, canonical_without_touching(file));
        file = default_config_file(dir);
        if (::access(file.c_str(), F_OK) != 0) {
          t.result({{"schema", 1}, {"file", nullptr}, {"valid", true}}, "no " + printable(file) + ": the defaults hold\n");
          return Exit::done;
        }
      }
      SOMFS_TRY_ASSIGN(Config c, load_config(file));
      Json writers = Json::array();
      std::string names;
      for (const auto& w : c.writers) {
        writers.push_back({{"type", w.type}, {"name", w.name}});
        names += (names.empty() ? "" : ", ") + w.name;
      }
      Json excludes = c.excludes;
      std::string text = printable(file) + ": good\n";
      text += "  excludes   " + (c.excludes.empty() ? std::string("none") : std::to_string(c.excludes.size())) + "\n";
      text += "  writers    " + (names.empty() ? std::string("none: snapshots are crash-consistent") : printable(names)) + "\n";
      text += "  reserve    " + c.reserve + " of the file system stays free of pre-images\n";
      text += "  freeze     at most " + std::to_string(c.hold_ms) + " ms, after a drain of at most " + std::to_string(c.drain_ms) + " ms\n";
      t.result({{"schema", 1}, {"file", file}, {"valid", true}, {"excludes", excludes}, {"writers", writers}, {"target", c.target}}, text);
      return Exit::done;
    };
  });
}

}  // namespace somfs::cli
