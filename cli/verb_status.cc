// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <thread>

#include "cli/forwarding.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/watchman.h"
#include "common/printable.h"

namespace somfs::cli {
namespace {

struct Options {
  std::string dir, store;
  bool watch = false;
};

std::string row(const std::string& name, const std::string& value) {
  char b[64];
  std::snprintf(b, sizeof b, "  %-11s ", name.c_str());
  return b + value + "\n";
}

std::string screen(const Json& v) {
  std::string s = printable(v.value("dir", "")) + "  " + v.value("state", "") + "\n";
  const Json& f = v["freeze_ms"];
  char b[256];
  s += row("mounted", printable(v.value("mountpoint", "")) + ", " + v.value("mode", "") + ", for " + human_seconds(v.value("uptime_s", 0.0)));
  if (f.value("count", 0) > 0) {
    std::snprintf(b, sizeof b, ", median %.2f ms, p99 %.2f ms, longest %.2f ms", f.value("p50", 0.0), f.value("p99", 0.0), f.value("max", 0.0));
    s += row("frozen", counted(f.value("count", 0ull), "time") + b);
  } else {
    s += row("frozen", "never so far");
  }
  const Json& j = v["journal"];
  s += row("changes", "epoch " + std::to_string(v.value("epoch", 0ull)) + ", " + counted(j.value("dirty_objects", 0ull), "object") + " and " +
                          counted(j.value("dirty_names", 0ull), "name") + " changed in it" + (j.value("degraded", false) ? ", more than memory holds: kept coarsely" : ""));
  if (!j.value("trouble", "").empty()) s += row("", "trouble: " + printable(j.value("trouble", "")));
  const Json& g = v["gap_scan"];
  if (g.value("state", "") != "idle") {
    std::snprintf(b, sizeof b, "%s: %s, %s looked at, %llu suspect", g.value("gap", "").c_str(), g.value("state", "").c_str(),
                  counted(g.value("objects", 0ull), "object").c_str(), static_cast<unsigned long long>(g.value("suspects", 0ull)));
    s += row("gap scan", b);
  }
  std::snprintf(b, sizeof b, "%zu, their pre-images take %s; %s free, %s kept in reserve", v["snapshots"].size(), human_bytes(v.value("store_bytes", 0ull)).c_str(),
                human_bytes(v.value("free_bytes", 0ull)).c_str(), human_bytes(v.value("reserve_bytes", 0ull)).c_str());
  s += row("snapshots", b);
  for (const auto& d : v["dropped"]) s += row("", "dropped " + d.value("name", "") + ": " + printable(d.value("reason", "")));
  for (const auto& m : v["mirrors"]) {
    const double lag = m["acked_lag_s"].is_number() ? m["acked_lag_s"].get<double>() : -1;
    const double shown = m.contains("applied_lag_s") && m["applied_lag_s"].is_number() ? m["applied_lag_s"].get<double>() : -1;
    s += row("mirror", printable(m.value("target", "")) + "  " + m.value("state", "") +
                           (lag < 0 ? ", holds nothing yet" : lag == 0 ? ", holds all there is" : ", holds the state of " + human_seconds(lag) + " ago") +
                           (lag < 0 ? "" : " (epoch " + std::to_string(m.value("epoch", 0ull)) + ")") +
                           (shown > lag ? ", its tree shows that of " + human_seconds(shown) + " ago" : ""));
    if (m.contains("percent") && m.value("state", "") == "CATCHING-UP") s += row("", std::to_string(static_cast<int>(m.value("percent", 0.0))) + " % of the epoch under way");
    if (!m.value("reason", "").empty()) s += row("", printable(m.value("reason", "")));
    if (const Json& p = m["pipeline"]; p.contains("groups")) {
      s += row("", counted(p.value("groups", 0ull), "group") + ", " + human_bytes(p.value("bytes", 0ull)) + " read, " + human_bytes(p.value("bytes_wire", 0ull)) + " sent" +
                       (m.value("in_flight", 0ull) != 0 ? "; " + std::to_string(m.value("in_flight", 0ull)) + " on the way, " + human_bytes(m.value("backlog_bytes", 0ull)) : ""));
      s += row("", p.value("pace", ""));
    }
    if (m.contains("slowdown_ms")) {
      std::snprintf(b, sizeof b, "mode semi: each change is slowed down by %.1f ms now", m.value("slowdown_ms", 0.0));
      s += row("", b);
    }
    if (m.contains("answers"))
      s += row("", std::string("mode sync: ") + (m["answers"].value("wait", false) ? counted(m["answers"].value("waiting", 0ull), "answer waits", "answers wait") + " for it now" : "no answer waits for it until it has caught up"));
  }
  if (v["mirrors"].empty()) s += row("mirrors", "none yet: somfs-ctl migrate DIR TARGET");
  std::string force;
  for (const auto& [name, on] : v["in_force"].items())
    if (on.is_boolean() && on.get<bool>()) force += (force.empty() ? "" : ", ") + name;
  if (const std::string passthrough = v["in_force"].value("passthrough", "not asked for"); passthrough != "not asked for")
    force += (force.empty() ? "passthrough" : ", passthrough") + (passthrough == "in force" ? "" : " (" + passthrough + ")");
  s += row("in force", force.empty() ? "plain FUSE" : force);
  if (!v.value("warning", "").empty()) s += row("note", v.value("warning", ""));
  return s;
}

Result<Json> collect(const std::string& dir) {
  Json all{{"schema", 1}, {"volumes", Json::array()}};
  if (!dir.empty()) {
    SOMFS_TRY_ASSIGN(Json v, ask(dir, {{"verb", "status"}}));
    all["volumes"].push_back(std::move(v));
    return all;
  }
  for (const Mounted& m : mounted_volumes()) {
    auto c = connect_to(m);
    if (!c || !c->send({{"verb", "status"}})) continue;   // another user's, or just going away
    if (auto v = answer_of(c->receive())) all["volumes"].push_back(std::move(*v));
  }
  return all;
}

std::string moment(const Json& seconds) {
  const auto at = static_cast<std::time_t>(seconds.get<std::int64_t>());
  std::tm parts{};
  char b[64];
  ::localtime_r(&at, &parts);
  return std::strftime(b, sizeof b, "%Y-%m-%d %H:%M:%S", &parts) != 0 ? b : "?";
}

// What the daemon of a store knows of its sources.
Result<Json> sources_of(const std::string& store) {
  SOMFS_TRY_ASSIGN(const Json kept, Watchman::kept(store));
  Json all{{"schema", 1}, {"store", store}, {"running", kept["running"]}, {"sources", kept["sources"]}};
  for (const char* limit : {"suspect_after_s", "lost_after_s"})
    if (kept.contains(limit) && kept[limit].is_number()) all[limit] = kept[limit];
  SOMFS_TRY_ASSIGN(const Json forwards, Forwarding::kept(store));
  all["forwarding"] = forwards["forwarding"];
  all["forwards"] = forwards["forwards"];
  return all;
}

std::string screen_of_store(const Json& v) {
  std::string s = printable(v.value("store", "")) + (v.value("running", false) ? "  watched\n" : "  not watched: no daemon runs; this is what the last one knew\n");
  for (const auto& one : v["sources"]) {
    const std::string host = one.value("host", "");
    s += row(one.value("volume", ""), one.value("state", "") + (one["heard"].is_number() ? ", last heard " + moment(one["heard"]) : ", never heard") +
                                          (host.empty() ? "" : ", from " + printable(host)));
  }
  if (v["sources"].empty()) s += "  no source has called so far\n";
  for (const auto& f : v["forwards"]) {
    const std::uint64_t epoch = f.value("epoch", 0ull), committed = f.value("committed", 0ull);
    s += row(f.value("volume", ""), "to " + printable(f.value("target", "")) + "  " + f.value("state", "") +
                                        (epoch == 0 ? ", not known what it holds" : ", it holds epoch " + std::to_string(epoch)) +
                                        (epoch != committed ? " of " + std::to_string(committed) : "") +
                                        (v.value("forwarding", false) ? "" : " when a daemon last ran"));
    if (f.contains("percent") && f["percent"].is_number()) s += row("", std::to_string(static_cast<int>(f.value("percent", 0.0))) + " % of the comparison");
    if (!f.value("reason", "").empty()) s += row("", printable(f.value("reason", "")));
    if (f.value("spool_bytes", 0ull) != 0) s += row("", human_bytes(f.value("spool_bytes", 0ull)) + " are kept for the next mirrors");
  }
  return s;
}

Result<Exit> show(const Options& o, Terminal& t) {
  if (!o.store.empty() && !o.dir.empty()) return fail(Exit::usage, "a volume or a store, not both", {}, {}, "see somfs-ctl status --help");
  for (;;) {
    SOMFS_TRY_ASSIGN(Json all, o.store.empty() ? collect(o.dir) : sources_of(o.store));
    std::string text;
    if (!o.store.empty()) {
      text = screen_of_store(all);
    } else {
      for (const auto& v : all["volumes"]) text += screen(v);
      if (all["volumes"].empty()) text = "somfs is not mounted over any directory that you may control\n";
    }
    if (o.watch && !t.json && ::isatty(STDOUT_FILENO) != 0) text = "\033[H\033[2J" + text;
    t.result(all, text);
    if (!o.watch) return Exit::done;
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
}

}  // namespace

void add_status(Command& app, Run& run) {
  auto o = std::make_shared<Options>();
  Command sub = app.add_subcommand("status", "What is protected, in which state, and how far each mirror is behind");
  sub.add_option("DIR", o->dir, "The volume (default: all)");
  sub.add_option("--store", o->store, "At a mirror daemon: which of the sources of this store are alive");
  sub.add_flag("--watch", o->watch, "Again every second");
  sub.callback([o, &run] { run = [o](Terminal& t) { return show(*o, t); }; });
}

}  // namespace somfs::cli
