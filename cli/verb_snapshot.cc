// SPDX-License-Identifier: Apache-2.0
#include <ctime>
#include <cstdio>

#include "cli/source.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "common/printable.h"
#include "snapshot/snapshot_diff.h"
#include "snapshot/view.h"

namespace somfs::cli {
namespace {

std::string local_time(std::int64_t ns) {
  std::time_t s = ns / 1000000000;
  std::tm tm{};
  ::localtime_r(&s, &tm);
  char b[32];
  std::strftime(b, sizeof b, "%Y-%m-%d %H:%M:%S", &tm);
  return b;
}

struct Options {
  std::string dir, name, a, b;
  bool crash_consistent = false;
  double timeout = 30;
};

Result<Exit> create(const Options& o, Terminal& t) {
  SOMFS_TRY_ASSIGN(Json j, ask(o.dir, {{"verb", "snapshot-create"}, {"name", o.name}, {"crash_consistent", o.crash_consistent}, {"timeout", o.timeout}}));
  std::string text = "snapshot " + j.value("name", "") + ": " + (j.value("freeze_ms", 0.0) > 0 ? "frozen " + human_seconds(j.value("freeze_ms", 0.0) / 1000) : std::string("no freeze needed")) + ", in all " +
                     human_seconds(j.value("total_ms", 0.0) / 1000) + ", " + j.value("consistency", "") + "-consistent\n";
  for (const auto& w : j["writers"]) {
    text += "  writer " + printable(w.value("name", "")) + ": " + w.value("answer", "");
    if (!w.value("reason", "").empty()) text += ", " + printable(w.value("reason", ""));
    text += "\n";
  }
  t.result(j, text);
  return Exit::done;
}

Result<Exit> list(const Options& o, Terminal& t) {
  SOMFS_TRY_ASSIGN(Json j, ask(o.dir, {{"verb", "snapshot-list"}}));
  std::string text;
  for (const auto& s : j["snapshots"]) {
    char line[256];
    std::snprintf(line, sizeof line, "%-32s  %s  epoch %-8llu %10s  %s%s\n", s.value("name", "").c_str(),
                  local_time(s.value("created_ns", std::int64_t{0})).c_str(), static_cast<unsigned long long>(s.value("epoch", 0ull)),
                  human_bytes(s.value("store_bytes", 0ull)).c_str(), s.value("consistency", "").c_str(),
                  s.value("for_migration", false) ? ", for a migration" : "");
    text += line;
  }
  if (j["snapshots"].empty()) text += "no snapshots\n";
  for (const auto& d : j["dropped"])
    text += "dropped: " + d.value("name", "") + " at " + local_time(d.value("when_ns", std::int64_t{0})) + ": " + printable(d.value("reason", "")) + "\n";
  t.result(j, text);
  return Exit::done;
}

Result<Exit> remove(const Options& o, Terminal& t) {
  SOMFS_TRY_ASSIGN(Json j, ask(o.dir, {{"verb", "snapshot-delete"}, {"name", o.name}}));
  t.result(j, "");
  return Exit::done;
}

// Without B, a snapshot made for the purpose stands for now.
Result<Exit> diff(const Options& o, Terminal& t) {
  SOMFS_TRY_ASSIGN(SourceLease lease, SourceLease::open(o.dir, {.purpose = "diff", .snapshot = !o.b.empty() ? "none" : ""}));
  SOMFS_TRY_ASSIGN(auto a, snapshot::View::open(lease.root_fd(), lease.store_fd(), o.a));
  SOMFS_TRY_ASSIGN(auto b, snapshot::View::open(lease.root_fd(), lease.store_fd(), o.b.empty() ? lease.snapshot() : o.b));
  bool any = false;
  SOMFS_TRY(snapshot::diff(*a, *b, [&](const snapshot::PathChange& c) {
    using What = snapshot::PathChange::What;
    any = true;
    std::string what = c.what == What::added ? "added" : c.what == What::removed ? "removed" : c.what == What::renamed ? "renamed" : "modified";
    std::string text = what + " " + printable(c.path);
    Json j{{"schema", 1}, {"change", what}, {"path", printable(c.path)}, {"data", c.data}, {"attributes", c.attr}, {"xattrs", c.xattr}};
    if (!c.from.empty()) {
      text = what + " " + printable(c.from) + " -> " + printable(c.path);
      j["from"] = printable(c.from);
    }
    t.result(j, text + "\n");
  }));
  if (!any && !t.json && !t.quiet) t.out << "no differences\n";
  return Exit::done;
}

}  // namespace

void add_snapshot(Command& app, Run& run) {
  auto o = std::make_shared<Options>();
  Command snap = app.add_subcommand("snapshot", "Snapshots of one exact instant");
  snap.require_subcommand(1);
  Command c = snap.add_subcommand("create", "Take a snapshot: prepare writers, freeze for milliseconds, thaw");
  c.add_option("DIR", o->dir, "The volume").required();
  c.add_option("--name", o->name, "Its name: letters, digits, . _ : - (default: the date and time)");
  c.add_flag("--crash-consistent", o->crash_consistent, "Go on without writers that veto or do not answer");
  c.add_option("--timeout", o->timeout, "Seconds for the whole procedure").positive();
  c.callback([o, &run] { run = [o](Terminal& t) { return create(*o, t); }; });
  Command l = snap.add_subcommand("list", "List snapshots, and those that had to be dropped with the reason");
  l.add_option("DIR", o->dir, "The volume").required();
  l.callback([o, &run] { run = [o](Terminal& t) { return list(*o, t); }; });
  Command d = snap.add_subcommand("delete", "Delete a snapshot and free its space");
  d.add_option("DIR", o->dir, "The volume").required();
  d.add_option("NAME", o->name, "The snapshot").required();
  d.callback([o, &run] { run = [o](Terminal& t) { return remove(*o, t); }; });
  Command f = snap.add_subcommand("diff", "What changed from snapshot A to snapshot B, or to now");
  f.add_option("DIR", o->dir, "The volume").required();
  f.add_option("A", o->a, "The earlier snapshot").required();
  f.add_option("B", o->b, "The later one; now, when left out");
  f.callback([o, &run] { run = [o](Terminal& t) { return diff(*o, t); }; });
}

}  // namespace somfs::cli
