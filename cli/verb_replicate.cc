// SPDX-License-Identifier: Apache-2.0
// Continuous replication: begin it, end it, hold it, wait for it, and ask what would be lost now.
#include <cstdio>
#include <optional>

#include "cli/target.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "common/printable.h"

namespace somfs::cli {
namespace {

struct Options {
  std::string dir, target, mode = "async", pipeline, compress, pacing = "bottleneck";
  double rpo = 0, share = 0.5, alpha = 0.5, beta = 0.5, first = 0.03, timeout = 60;
  std::optional<double> lag_bound, sync_timeout;
  bool stop = false;
};

// As the volume remembers it; empty stays empty: whatever there is.
Result<std::string> normalised(const std::string& target) {
  if (target.empty()) return std::string();
  SOMFS_TRY_ASSIGN(const Target t, parse_target(target));
  return t.text;
}

Result<Json> ask_of(const Options& o, const char* verb, Json more = Json::object()) {
  SOMFS_TRY_ASSIGN(const std::string target, normalised(o.target));
  more["verb"] = verb;
  more["target"] = target;
  return ask(o.dir, more);
}

std::string joined(const Json& targets) {
  std::string out;
  for (const auto& t : targets) out += (out.empty() ? "" : ", ") + printable(t.get<std::string>());
  return out;
}

Result<Exit> replicate(const Options& o, Terminal& t) {
  if (o.stop) {
    SOMFS_TRY_ASSIGN(const Json j, ask_of(o, "replicate-stop"));
    t.result(j, "no longer replicated to " + printable(j.value("target", "")) + "; the mirror keeps what it holds\n");
    return Exit::done;
  }
  if (o.target.empty()) return fail(Exit::usage, "no target", {}, {}, "see somfs-ctl replicate --help");
  Json how{{"mode", o.mode}, {"pipeline", o.pipeline}, {"compress", o.compress}, {"pacing", o.pacing}, {"rpo", o.rpo}, {"share", o.share}, {"alpha", o.alpha}, {"beta", o.beta}, {"first", o.first}};
  if (o.lag_bound && o.mode != "semi") return fail(Exit::usage, "--lag-bound belongs to --mode semi");
  if (o.lag_bound) how["lag_bound"] = *o.lag_bound;
  if (o.sync_timeout && o.mode != "sync") return fail(Exit::usage, "--sync-timeout belongs to --mode sync");
  if (o.sync_timeout) how["sync_timeout"] = *o.sync_timeout;
  SOMFS_TRY_ASSIGN(const Json j, ask_of(o, "replicate", std::move(how)));
  t.result(j, "replicating to " + printable(j.value("target", "")) + ", also after the next mount; see somfs-ctl status " + printable(o.dir) + "\n");
  return Exit::done;
}

Result<Exit> lose(const Options& o, Terminal& t) {
  SOMFS_TRY_ASSIGN(const Json j, ask_of(o, "lose"));
  std::string text;
  for (const auto& one : j["targets"]) {
    const auto files = one.value("files", 0ull), names = one.value("names", 0ull);
    const bool at_least = one.value("at_least", false);
    char line[256];
    if (files == 0 && names == 0 && !at_least) {
      std::snprintf(line, sizeof line, "nothing: it holds all there is\n");
    } else {
      const std::string age = one["lag_s"].is_number() ? "changed in the last " + human_seconds(one["lag_s"].get<double>()) : "changed since its last epoch";
      std::snprintf(line, sizeof line, "%s%llu objects, %llu names, %s, %s\n", at_least ? "at least " : "", static_cast<unsigned long long>(files),
                    static_cast<unsigned long long>(names), human_bytes(one.value("bytes", 0ull)).c_str(), age.c_str());
    }
    text += printable(one.value("target", "")) + "  " + line;
  }
  t.result(j, text);
  return Exit::done;
}

}  // namespace

void add_replicate(Command& app, Run& run) {
  auto o = std::make_shared<Options>();
  auto add = [&](const char* name, const char* help, auto act) {
    Command sub = app.add_subcommand(name, help);
    sub.add_option("DIR", o->dir, "The volume").required();
    sub.add_option("TARGET", o->target, "The mirror: /path, dir:/path, somfs://HOST:PORT/VOLUME or ssh://[USER@]HOST/path");
    sub.callback([o, &run, act] { run = [o, act](Terminal& t) -> Result<Exit> { return act(*o, t); }; });
    return sub;
  };
  Command sub = add("replicate", "Keep a mirror in step from now on: every change reaches it, one instant after the other", replicate);
  sub.add_option("--mode", o->mode, "async: the application never waits; semi: it is slowed down above a lag; sync: what it makes durable is so at the mirror as well").capture_default_str();
  sub.add_option("--lag-bound", o->lag_bound, "Mode semi: seconds of lag above which changes are slowed down (default: 1)").range(0.1, 3600.0);
  sub.add_option("--sync-timeout", o->sync_timeout, "Mode sync: seconds that an answer waits at most (default: 2)").range(0.01, 60.0);
  sub.add_option("--pipeline", o->pipeline, "How this side spreads its work over threads: auto (default), serial, fine, threaded, hybrid");
  sub.add_option("--compress", o->compress, "On the link: snappy (default), lz4, zstd, none");
  sub.add_option("--pacing", o->pacing, "How long a group is collected: bottleneck, paper or none").capture_default_str();
  sub.add_option("--rpo", o->rpo, "Seconds that may be lost: an upper bound for the interval; 0: none").non_negative().capture_default_str();
  sub.add_option("--share", o->share, "Part of its time that the slowest stage may spend for this mirror, 0.01 to 1: less leaves more to others, and makes groups larger and later").range(0.01, 1.0).capture_default_str();
  sub.add_option("--alpha", o->alpha, "How fast the interval follows this side (paper), or shrinks (bottleneck): 0.01 to 1").range(0.01, 1.0).capture_default_str();
  sub.add_option("--beta", o->beta, "How fast it follows the mirror's side (paper), or grows (bottleneck): 0.01 to 1").range(0.01, 1.0).capture_default_str();
  sub.add_option("--first", o->first, "The first interval, in seconds: 0.03 to 1").range(0.03, 1.0).capture_default_str();
  sub.add_flag("--stop", o->stop, "End it; the mirror keeps what it holds");
  sub.footer("The relation is stored with the volume and goes on after the next mount. While the mirror is away the volume notes what\n"
             "changes and brings it later. The mount reads the keys of the user it runs as.");
  for (const bool pause : {true, false})
    add(pause ? "pause" : "resume", pause ? "Hold replication: changes are noted and brought later" : "Go on with replication", [pause](const Options& options, Terminal& t) -> Result<Exit> {
      SOMFS_TRY_ASSIGN(const Json j, ask_of(options, pause ? "pause" : "resume"));
      t.result(j, (pause ? "paused: " : "resumed: ") + joined(j["targets"]) + "\n");
      return Exit::done;
    });
  sub = add("sync", "Wait until the mirror holds, and shows, everything that has happened up to now", [](const Options& options, Terminal& t) -> Result<Exit> {
    SOMFS_TRY_ASSIGN(const Json j, ask_of(options, "sync", {{"timeout", options.timeout}}));
    t.result(j, "everything is at " + joined(j["targets"]) + ", after " + human_seconds(j.value("seconds", 0.0)) + "\n");
    return Exit::done;
  });
  sub.add_option("--timeout", o->timeout, "Seconds to wait at most; then exit 4, or what keeps it: 8, 12").positive().capture_default_str();
  add("lose", "What would be lost now: what the mirrors do not hold yet", lose);
}

}  // namespace somfs::cli
