// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>

#include "cli/config.h"
#include "cli/interrupt.h"
#include "cli/source.h"
#include "cli/target.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "common/printable.h"
#include "replicator/sender.h"

namespace somfs::cli {
namespace {

struct Options {
  std::string dir, target, bwlimit, pipeline, compress, idle = "2s";
  bool full = false, differential = false, dry_run = false, when_idle = false, confirm = false, crash_consistent = false;
  double timeout = 30, idle_wait = 3600;
};

using Steady = std::chrono::steady_clock;

double since(Steady::time_point t) { return std::chrono::duration<double>(Steady::now() - t).count(); }

std::string draw(const replicator::Progress& p, Steady::time_point start, unsigned columns) {
  std::uint64_t bytes = p.bytes, total = p.bytes_total, files = p.files, files_total = p.files_total;
  double seconds = since(start);
  double share = total != 0 ? static_cast<double>(bytes) / static_cast<double>(total)
               : files_total != 0 ? static_cast<double>(files) / static_cast<double>(files_total) : -1;
  char percent[8] = "";
  if (share >= 0) std::snprintf(percent, sizeof percent, "%3.0f%% ", std::floor(std::min(share, 1.0) * 100));
  char tail[160];
  std::snprintf(tail, sizeof tail, " %llu files  %s  %s/s  %s", static_cast<unsigned long long>(files), human_bytes(bytes).c_str(),
                human_bytes(static_cast<std::uint64_t>(static_cast<double>(bytes) / std::max(seconds, 0.1))).c_str(), human_seconds(seconds).c_str());
  std::string line = std::string(p.phase.load()) + " " + percent + ProgressBar::bar(share, 24) + tail;
  return line.substr(0, columns);
}

// The configuration that the volume was mounted with.
Result<Config> config_of(const std::string& dir) {
  SOMFS_TRY_ASSIGN(Json j, ask(dir, {{"verb", "configuration"}}));
  std::string file = j.value("file", "");
  if (file.empty()) return Config();
  return load_config(file);
}

// Waits until nothing has changed for `quiet` seconds; after `most` seconds it goes on all the same and says so.
Status wait_until_idle(const std::string& dir, double quiet, double most, Terminal& t) {
  for (auto start = Steady::now();;) {
    SOMFS_TRY_ASSIGN(Json j, ask(dir, {{"verb", "idle"}}));
    double idle = j.value("idle_ms", 0.0) / 1000;
    if (idle >= quiet) return {};
    if (since(start) > most) {
      if (!t.quiet) t.err << "somfs-ctl: " << printable(dir) << " was not idle for " << human_seconds(most) << "; migrating all the same\n";
      return {};
    }
    std::this_thread::sleep_for(std::chrono::duration<double>(std::min(1.0, quiet - idle + 0.01)));
  }
}

std::string summary(const replicator::MigrateReport& r, const Json& lease, const std::string& target, bool dry_run, double seconds) {
  char line[512], compared[96] = "";
  if (r.subtrees != 0)
    std::snprintf(compared, sizeof compared, " with %llu %s compared (%llu objects)", static_cast<unsigned long long>(r.subtrees),
                  r.subtrees == 1 ? "subtree" : "subtrees", static_cast<unsigned long long>(r.compared));
  double frozen = lease.value("freeze_ms", 0.0) / 1000;
  std::snprintf(line, sizeof line, "%s%s%s to %s: %llu objects, %llu names, %llu removed; read %s, sent %s; %s; %s\n",
                dry_run ? "would migrate, " : "", r.strategy.c_str(), compared, printable(target).c_str(), static_cast<unsigned long long>(r.files),
                static_cast<unsigned long long>(r.names), static_cast<unsigned long long>(r.removed), human_bytes(r.bytes_source).c_str(),
                human_bytes(r.bytes_wire).c_str(), frozen > 0 ? ("frozen " + human_seconds(frozen)).c_str() : "no freeze needed", human_seconds(seconds).c_str());
  return line;
}

Result<Exit> migrate(const Options& o, Terminal& t) {
  if (o.full && o.differential) return fail(Exit::usage, "--full and --differential exclude each other");
  // A mistake in the command is told before anything is asked of the mount.
  if (!o.target.empty()) SOMFS_TRY(parse_target(o.target));
  Config config;
  SOMFS_TRY(link_settings(config, o.pipeline, o.compress));
  SOMFS_TRY_ASSIGN(config, config_of(o.dir));
  if (o.target.empty() && config.target.empty())
    return fail(Exit::usage, "no target", {}, "none was given, and the configuration names none", "see somfs-ctl migrate --help");
  SOMFS_TRY_ASSIGN(Target target, parse_target(o.target.empty() ? config.target : o.target));
  SOMFS_TRY_ASSIGN(auto settings, link_settings(config, o.pipeline, o.compress));
  if (!o.bwlimit.empty()) {
    SOMFS_TRY_ASSIGN(settings.bwlimit, parse_bytes(o.bwlimit));
  }
  SOMFS_TRY_ASSIGN(Mounted mounted, find_mounted(o.dir));
  SOMFS_TRY(refuse_overlap(target, mounted.dir, mounted.mountpoint));
  SOMFS_TRY_ASSIGN(double quiet, parse_seconds(o.idle));
  if (o.when_idle) SOMFS_TRY(wait_until_idle(o.dir, quiet, o.idle_wait, t));

  auto start = Steady::now();
  replicator::Progress progress;
  progress.phase = "snapshot";
  MirrorLink link(target, o.dry_run ? MirrorLink::Missing::pretend : MirrorLink::Missing::make, settings);
  Interrupt interrupt([&] {
    progress.cancelled = true;
    link.interrupt();
  });
  SOMFS_TRY_ASSIGN(SourceLease lease, SourceLease::open(o.dir, {.purpose = "migrate", .target = target.text, .snapshot = "",
                                                                 .crash_consistent = o.crash_consistent, .timeout_s = o.timeout}));
  SOMFS_TRY_ASSIGN(auto view, snapshot::View::open(lease.root_fd(), lease.store_fd(), lease.snapshot()));
  SOMFS_TRY_ASSIGN(replicator::Source source, lease.source(*view));
  if (progress.cancelled) return fail(Exit::interrupted, "interrupted");

  replicator::MigrateOptions options;
  using Want = replicator::MigrateOptions::Want;
  options.want = o.full ? Want::full : o.differential ? Want::differential : Want::automatic;
  options.dry_run = o.dry_run;
  options.confirmed = o.confirm;
  options.brake_share = lease.answer().value("brake", 0.5);
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  options.host = host;
  options.volume_name = target.volume;
  Result<replicator::MigrateReport> report = replicator::MigrateReport{};
  {
    progress.totals = !t.quiet && !t.json && ::isatty(STDERR_FILENO) != 0;
    ProgressBar bar(progress.totals, [&](unsigned columns) { return draw(progress, start, columns); });
    report = replicator::migrate(source, [&] { return link.connect(); }, options, progress);
  }
  if (!report && progress.cancelled)
    return fail(Exit::interrupted, "interrupted", printable(o.dir), "the mirror keeps its last epoch", "run it again: it continues");
  Status finished = link.finish();
  if (!report) SOMFS_TRY(lease.still_held());
  if (!report) return pass_on(MirrorLink::telling(std::move(report).error(), finished));
  if (!o.dry_run && !report->held) SOMFS_TRY(lease.acknowledge(report->mirror, report->epoch, report->root));

  double seconds = since(start);
  Json unreadable = Json::array();
  for (const std::string& u : report->unreadable) unreadable.push_back(u);
  Json j{{"schema", 1}, {"strategy", report->strategy}, {"snapshot", lease.snapshot()}, {"epoch", report->epoch},
         {"files", report->files}, {"bytes_source", report->bytes_source}, {"bytes_wire", report->bytes_wire}, {"seconds", seconds},
         {"names", report->names}, {"removed", report->removed}, {"subtrees", report->subtrees}, {"compared", report->compared}, {"freeze_ms", lease.answer().value("freeze_ms", 0.0)},
         {"dry_run", o.dry_run}, {"held", report->held}, {"unreadable", unreadable}, {"notes", report->notes}};
  if (report->held) {
    j["reason"] = report->held_reason;
    if (t.json) t.result(j, "");
    return fail(Exit::person, "held at the mirror", printable(target.text), report->held_reason,
                target.kind == Target::Kind::directory ? "look, then: somfs-ctl held accept " + printable(target.text) + " (or reject)"
                                                       : "look at the mirror, then there: somfs-ctl held accept DIRECTORY (or reject)");
  }
  t.result(j, summary(*report, lease.answer(), target.text, o.dry_run, seconds));
  if (!t.quiet)
    for (const std::string& note : report->notes) t.err << "somfs-ctl: " << note << "\n";
  if (!report->unreadable.empty()) {
    for (const std::string& u : report->unreadable) t.err << "somfs-ctl: could not read " << u << "\n";
    return Exit::partial;
  }
  return Exit::done;
}

}  // namespace

void add_migrate(Command& app, Run& run) {
  auto o = std::make_shared<Options>();
  Command sub = app.add_subcommand("migrate", "Bring a mirror to the state of a fresh snapshot: in full the first time, by difference afterwards");
  sub.add_option("DIR", o->dir, "The volume").required();
  sub.add_option("TARGET", o->target, "The mirror: /path, dir:/path or ssh://[USER@]HOST/path (default: the configuration's)");
  sub.add_flag("--full", o->full, "Send everything, whatever the mirror holds");
  sub.add_flag("--differential", o->differential, "Send the difference only; fail where that cannot be done");
  sub.add_flag("--dry-run", o->dry_run, "Say what would be done and sent; change nothing");
  sub.add_option("--bwlimit", o->bwlimit, "Bytes per second on the link: 500K, 10MiB");
  sub.add_option("--compress", o->compress, "On the link: snappy (default), lz4, zstd, none");
  sub.add_option("--pipeline", o->pipeline, "How this side spreads its work over threads: auto (default), serial, fine, threaded, hybrid");
  sub.add_flag("--when-idle", o->when_idle, "Wait for a quiet moment first");
  sub.add_option("--idle", o->idle, "What is quiet: no change for so long").capture_default_str();
  sub.add_option("--idle-wait", o->idle_wait, "Seconds to wait for it at most; then go on").capture_default_str();
  sub.add_flag("--confirm-removal", o->confirm, "Release the brake on mass removal for this run");
  sub.add_flag("--crash-consistent", o->crash_consistent, "Go on without writers that veto or do not answer");
  sub.add_option("--timeout", o->timeout, "Seconds for making the snapshot").positive().capture_default_str();
  sub.footer("A run that was killed continues where it was: run it again. A second run onto the same target exits 11.");
  sub.callback([o, &run] { run = [o](Terminal& t) { return migrate(*o, t); }; });
}

}  // namespace somfs::cli
