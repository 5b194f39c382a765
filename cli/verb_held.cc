// SPDX-License-Identifier: Apache-2.0
#include <sstream>

#include "cli/target.h"
#include "cli/verb.h"
#include "common/printable.h"
#include "replicator/mirror.h"

namespace somfs::cli {
namespace {

Result<std::unique_ptr<replicator::Mirror>> open_mirror(const std::string& text) {
  SOMFS_TRY_ASSIGN(Target target, parse_target(text));
  if (target.kind != Target::Kind::directory)
    return fail(Exit::usage, "cannot decide over a link", printable(text), "a held epoch is decided where the mirror lies",
                "run somfs-ctl held there, with the mirror's directory");
  return replicator::Mirror::open(target.path, replicator::Mirror::Mode::existing);
}

}  // namespace

void add_held(Command& app, Run& run) {
  struct Options {
    std::string target;
  };
  auto o = std::make_shared<Options>();
  Command held = app.add_subcommand("held", "Epochs that the brake on mass change holds at a mirror");
  held.require_subcommand(1);
  auto add = [&](const char* name, const char* help, auto act) {
    Command sub = held.add_subcommand(name, help);
    sub.add_option("TARGET", o->target, "The mirror's directory").required();
    sub.callback([o, &run, act] { run = [o, act](Terminal& t) -> Result<Exit> { return act(*o, t); }; });
  };
  add("list", "Say whether an epoch is held, and why", [](const Options& options, Terminal& t) -> Result<Exit> {
    SOMFS_TRY_ASSIGN(auto mirror, open_mirror(options.target));
    auto w = mirror->welcome();
    t.result({{"schema", 1}, {"target", options.target}, {"held", w.held}, {"reason", mirror->held_reason()}, {"epoch", w.epoch}},
             w.held ? "held: " + mirror->held_reason() + "\n" : "nothing is held\n");
    return w.held ? Exit::person : Exit::done;
  });
  auto decide = [](bool accept) {
    return [accept](const Options& options, Terminal& t) -> Result<Exit> {
      SOMFS_TRY_ASSIGN(auto mirror, open_mirror(options.target));
      if (!mirror->welcome().held) return fail(Exit::usage, "nothing is held at", printable(options.target));
      SOMFS_TRY(mirror->decide_held(accept));
      t.result({{"schema", 1}, {"target", options.target}, {accept ? "accepted" : "rejected", true}, {"epoch", mirror->committed_epoch()}},
               accept ? "accepted: the mirror now holds the epoch\n" : "rejected: the mirror keeps what it had; the next migration compares with it\n");
      return Exit::done;
    };
  };
  add("accept", "Let the held epoch in: what it removes is removed", decide(true));
  add("reject", "Forget the held epoch: the mirror keeps what it has", decide(false));
}

}  // namespace somfs::cli
