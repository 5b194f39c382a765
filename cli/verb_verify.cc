// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdio>
#include <tuple>

#include "cli/interrupt.h"
#include "cli/source.h"
#include "cli/target.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "common/printable.h"
#include "replicator/sender.h"
#include "replicator/text_codes.h"

namespace somfs::cli {
namespace {

struct Options {
  std::string dir, target;
  bool deep = false, repair = false, crash_consistent = false;
  double timeout = 30;
};

struct Outcome {
  replicator::VerifyReport report;
  std::uint64_t epoch = 0;               // whose end, the instant, was compared
  Json lag;                              // how old what the mirror held was, before anything was sent here
  bool repaired = false;
};

class Comparison {
 public:
  Comparison(const Options& options, const Target& target, Terminal& terminal)
      : options_(options), target_(target), terminal_(terminal), link_(target, MirrorLink::Missing::refuse), interrupt_([this] {
          progress_.cancelled = true;
          link_.interrupt();
        }) {}

  Result<Outcome> run() {
    // A repair sends; it takes the target's lock as a migration does.
    SOMFS_TRY_ASSIGN(SourceLease lease, SourceLease::open(options_.dir, {.purpose = options_.repair ? "migrate" : "verify", .target = target_.text,
                                                                         .snapshot = "", .crash_consistent = options_.crash_consistent,
                                                                         .timeout_s = options_.timeout}));
    SOMFS_TRY_ASSIGN(auto view, snapshot::View::open(lease.root_fd(), lease.store_fd(), lease.snapshot()));
    SOMFS_TRY_ASSIGN(replicator::Source source, lease.source(*view));
    // A mirror that is kept in step is compared with the instant it was brought to.
    Outcome outcome;
    outcome.epoch = source.epoch;
    outcome.lag = lease.answer().value("lag_s", Json());
    if (lease.answer().value("replicated", false)) SOMFS_TRY(bring(source, lease, {.wants = replicator::kSync}));
    SOMFS_TRY_ASSIGN(outcome.report, read_both(source, lease));
    if (outcome.report.equal || !options_.repair) return outcome;
    // First what is damaged, beside what the catalog shows as different; if that is not enough, everything. Believed only once it
    // was read again.
    for (bool all : {false, true}) {
      replicator::MigrateOptions how;
      how.repair = outcome.report.damaged;
      how.confirmed = true;
      if (all) how.want = replicator::MigrateOptions::Want::full;
      if (Status sent = bring(source, lease, how); !sent) {
        if (!progress_.cancelled) SOMFS_TRY(lease.still_held());   // nor would the second try do better
        if (!all && !progress_.cancelled) continue;
        return pass_on(std::move(sent).error());
      }
      SOMFS_TRY_ASSIGN(auto again, read_both(source, lease));
      outcome.repaired = again.equal;
      if (again.equal) {   // what differed stays named; the roots are those of what is there now
        auto& r = outcome.report;
        std::tie(r.mirror_epoch, r.mirror_root, r.root_agrees, r.source_tree, r.mirror_tree) =
            std::tie(again.mirror_epoch, again.mirror_root, again.root_agrees, again.source_tree, again.mirror_tree);
        break;
      }
      outcome.report = std::move(again);
    }
    return outcome;
  }

 private:
  Status bring(replicator::Source& source, SourceLease& lease, replicator::MigrateOptions how) {
    how.volume_name = target_.volume;
    how.brake_share = lease.answer().value("brake", 0.5);
    auto sent = replicator::migrate(source, [this] { return link_.connect(); }, how, progress_);
    Status ended = link_.finish();
    if (!sent && !progress_.cancelled) SOMFS_TRY(lease.still_held());
    if (!sent) return pass_on(MirrorLink::telling(std::move(sent).error(), ended));
    if (sent->held) return fail(Exit::person, "held at the mirror", printable(target_.text), sent->held_reason, "decide it first: somfs-ctl held");
    SOMFS_TRY(lease.acknowledge(sent->mirror, sent->epoch, sent->root));
    source.base_epoch = sent->epoch;
    source.base_root = sent->root;
    if (sent->history_differs) told_ = sent->notes.front();
    return {};
  }

  // What was read while the lease lasted; without it the snapshot may have been another one, or none.
  Result<replicator::VerifyReport> read_both(const replicator::Source& source, const SourceLease& lease) {
    ProgressBar bar(!terminal_.quiet && !terminal_.json, [this](unsigned columns) {
      return (std::string(progress_.phase.load()) + "  " + std::to_string(progress_.files.load()) + " files  " + human_bytes(progress_.bytes)).substr(0, columns);
    });
    SOMFS_TRY_ASSIGN(auto transport, link_.connect());
    auto report = replicator::verify(source, *transport, {.volume_name = target_.volume, .deep = options_.deep}, progress_);
    transport.reset();
    Status ended = link_.finish();
    if (!report && progress_.cancelled) return fail(Exit::interrupted, "interrupted");
    SOMFS_TRY(lease.still_held());
    if (!report) return pass_on(MirrorLink::telling(std::move(report).error(), ended));
    if (!told_.empty()) report->notes.push_back(told_);
    return report;
  }

  const Options& options_;
  const Target& target_;
  Terminal& terminal_;
  replicator::Progress progress_;
  MirrorLink link_;
  std::string told_;                     // of the mirror's history, while it was brought up
  Interrupt interrupt_;
};

Json root_json(const std::string& root) { return root.empty() ? Json(nullptr) : Json(replicator::hex(root)); }

// What both sides say of the instant, each for itself; and of the history, as far as both kept it.
std::string roots(const Outcome& o) {
  const auto& r = o.report;
  auto shown = [](const std::string& root) { return root.empty() ? "none: not everything could be read" : replicator::hex(root); };
  std::string out = "instant: the end of epoch " + std::to_string(o.epoch) + "; the mirror holds epoch " + std::to_string(r.mirror_epoch) + ", lag " +
                    (o.lag.is_number() ? human_seconds(o.lag.get<double>()) : "not known") + "\n";
  if (!r.source_tree.empty() && r.source_tree == r.mirror_tree) out += "tree: " + shown(r.source_tree) + " on both sides\n";
  else out += "tree of the source: " + shown(r.source_tree) + "\ntree of the mirror: " + shown(r.mirror_tree) + "\n";
  if (r.mirror_root.empty() && !r.root_agrees) return out + "history: the mirror keeps no root\n";
  out += "history: " + (r.mirror_root.empty() ? "the mirror keeps no root" : replicator::hex(r.mirror_root));
  return out + (!r.root_agrees ? ", of which nothing was kept here\n" : *r.root_agrees ? ", as kept here\n" : ": NOT what it acknowledged\n");
}

Result<Exit> verify(const Options& o, Terminal& t) {
  SOMFS_TRY_ASSIGN(Target target, parse_target(o.target));
  auto start = std::chrono::steady_clock::now();
  SOMFS_TRY_ASSIGN(Outcome outcome, Comparison(o, target, t).run());
  const auto& r = outcome.report;
  Json differences = Json::array();
  std::string text;
  for (const auto& d : r.differences) {
    differences.push_back({{"path", d.path}, {"what", d.what}});
    text += "differs: " + d.path + ": " + d.what + "\n";
  }
  if (r.truncated) text += "... and more\n";
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Json excludes = Json::array();
  for (const std::string& e : r.excludes) excludes.push_back(printable(e));
  Json j{{"schema", 1}, {"equal", r.equal}, {"files", r.files}, {"bytes", r.bytes}, {"differences", differences}, {"truncated", r.truncated},
         {"repaired", outcome.repaired}, {"excludes", excludes}, {"notes", r.notes}, {"seconds", seconds}, {"epoch", outcome.epoch},
         {"mirror_epoch", r.mirror_epoch}, {"root", root_json(r.mirror_root)}, {"root_agrees", r.root_agrees ? Json(*r.root_agrees) : Json(nullptr)},
         {"lag_s", outcome.lag}, {"source_tree", root_json(r.source_tree)}, {"mirror_tree", root_json(r.mirror_tree)}};
  char tail[256];
  std::snprintf(tail, sizeof tail, "%s: %llu files, %s read on each side, %s\n",
                r.equal ? "equal" : outcome.repaired ? "differed, and is repaired: equal now" : "not equal",
                static_cast<unsigned long long>(r.files), human_bytes(r.bytes).c_str(), human_seconds(seconds).c_str());
  text += tail;
  text += roots(outcome);
  if (!r.excludes.empty()) {
    text += "not compared, because excluded:";
    for (const std::string& e : r.excludes) text += " " + printable(e);
    text += "\n";
  }
  for (const std::string& note : r.notes) text += note + "\n";
  t.result(j, text);
  return r.equal ? Exit::done : outcome.repaired ? Exit::repaired : Exit::differs;
}

}  // namespace

void add_verify(Command& app, Run& run) {
  auto o = std::make_shared<Options>();
  Command sub = app.add_subcommand("verify", "Compare a fresh snapshot with the mirror: contents by hash and all metadata, each side reading for itself");
  sub.add_option("DIR", o->dir, "The volume").required();
  sub.add_option("TARGET", o->target, "The mirror").required();
  sub.add_flag("--deep", o->deep, "Have the mirror read from its disk, not from memory");
  sub.add_flag("--repair", o->repair, "Send again what differs, then compare again (exit 5: repaired, 6: not)");
  sub.add_flag("--crash-consistent", o->crash_consistent, "Go on without writers that veto or do not answer");
  sub.add_option("--timeout", o->timeout, "Seconds for making the snapshot").positive().capture_default_str();
  sub.footer("What changed since the last migration differs, of course: migrate first. A mirror that is replicated to is brought up to\n"
             "the instant that is compared.");
  sub.callback([o, &run] { run = [o](Terminal& t) { return verify(*o, t); }; });
}

}  // namespace somfs::cli
