// SPDX-License-Identifier: Apache-2.0
// Two sources of one volume were active, each with a history that the other does not have: a person says which one the mirror goes with.
#include <chrono>
#include <thread>

#include "cli/target.h"
#include "cli/verb.h"
#include "common/printable.h"
#include "replicator/mirror.h"

namespace somfs::cli {
namespace {

struct Options {
  std::string dir, target, keep, generation;
};

// A relation that asks the mirror every few seconds may just have it.
Result<std::unique_ptr<replicator::Mirror>> open_mirror(const std::string& path) {
  for (int i = 0;; ++i) {
    auto mirror = replicator::Mirror::open(path, replicator::Mirror::Mode::existing);
    if (mirror || mirror.error().exit != Exit::locked || i == 50) return mirror;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

Result<Exit> decide(const std::string& path, const Uuid& right, const Uuid* volume, Terminal& t) {
  SOMFS_TRY_ASSIGN(auto mirror, open_mirror(path));
  const replicator::Welcome w = mirror->welcome();
  if (volume != nullptr && w.volume && w.volume != *volume)
    return fail(Exit::not_allowed, "this mirror belongs to another volume", w.volume.text(), "the source is " + volume->text());
  const Uuid left = mirror->generation();
  SOMFS_TRY(mirror->decide_split(right));
  mirror.reset();
  SOMFS_TRY_ASSIGN(mirror, open_mirror(path));   // which reads its tree anew
  t.result({{"schema", 1}, {"target", path}, {"kept", "source"}, {"generation", right.text()}, {"fenced", left.text()}},
           "resolved: the mirror goes with generation " + right.text() + "; what differs in it is replaced by the source's next epoch.\n"
           "The other side (" + left.text() + ") is refused from now on: stop it, and bring its data elsewhere first if it is needed.\n");
  return Exit::done;
}

Result<Exit> resolve(const Options& o, Terminal& t) {
  if (o.keep != "source" && o.keep != "mirror") return fail(Exit::usage, "--keep is source or mirror, not", printable(o.keep));
  SOMFS_TRY_ASSIGN(const Target target, parse_target(o.target));
  if (o.keep == "mirror")
    return fail(Exit::usage, "bringing a mirror's state back to its source is not in this version", {}, {},
                "copy it by hand from tree/ at the mirror (rsync -aHAX --delete --exclude=.somfs), then resolve with --keep source");
  SOMFS_TRY_ASSIGN(const Json status, ask(o.dir, {{"verb", "status"}}));
  SOMFS_TRY_ASSIGN(const Uuid volume, Uuid::parse(status.value("volume", "")));
  SOMFS_TRY_ASSIGN(const Uuid generation, Uuid::parse(status.value("generation", "")));
  if (target.kind == Target::Kind::directory) return decide(target.path, generation, &volume, t);
  // A source says of itself what its history is; what the mirror goes with is not for it to say.
  const bool daemon = !target.volume.empty();
  return fail(daemon ? Exit::not_allowed : Exit::person, "a split is decided where the mirror lies, not from", printable(o.dir),
              daemon ? "this source may only write there" : "over ssh nobody decides",
              "run there: somfs-ctl split accept " + (daemon ? "STORE/" + target.volume : printable(target.path)) + " " + generation.text());
}

Result<Exit> accept(const Options& o, Terminal& t) {
  SOMFS_TRY_ASSIGN(const Target target, parse_target(o.target));
  if (target.kind != Target::Kind::directory) return fail(Exit::usage, "cannot decide over a link", printable(o.target), {}, "run it where the mirror lies, with the mirror's directory");
  const auto generation = Uuid::parse(o.generation);
  if (!generation || !*generation) return fail(Exit::usage, "not a generation", printable(o.generation), {}, "somfs-ctl split resolve, at the source, says which one");
  return decide(target.path, *generation, nullptr, t);
}

}  // namespace

void add_split(Command& app, Run& run) {
  auto o = std::make_shared<Options>();
  Command split = app.add_subcommand("split", "Two sources of one volume were active: which one the mirror goes with");
  split.require_subcommand(1);
  Command sub = split.add_subcommand("resolve", "Let the mirror go with this volume: what another source brought there is replaced");
  sub.add_option("DIR", o->dir, "The volume").required();
  sub.add_option("TARGET", o->target, "The mirror's directory").required();
  sub.add_option("--keep", o->keep, "source: this volume's state; mirror is not in this version").required();
  sub.callback([o, &run] { run = [o](Terminal& t) { return resolve(*o, t); }; });
  sub = split.add_subcommand("accept", "The same, at the mirror of a source that may only write there");
  sub.add_option("TARGET", o->target, "The mirror's directory").required();
  sub.add_option("GENERATION", o->generation, "The source's, as its split resolve says").required();
  sub.callback([o, &run] { run = [o](Terminal& t) { return accept(*o, t); }; });
}

}  // namespace somfs::cli
