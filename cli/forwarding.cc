// SPDX-License-Identifier: Apache-2.0
#include "cli/forwarding.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <utility>

#include "cli/target.h"
#include "cli/target_connector.h"
#include "common/log.h"
#include "common/printable.h"

namespace somfs::cli {
namespace {

constexpr const char *kFile = "forwards", *kLock = "forwards.lock", *kDirectory = ".somfs-mirrord";
constexpr std::size_t kMostBytes = 4u << 20, kMostForwards = 64;
constexpr std::chrono::milliseconds kLook{500};
constexpr std::int64_t kSaveEvery = 2'000'000'000;   // of numbers that advance; a state or a reason at once

std::string host_name() {
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  return host;
}

// A mirror beneath the other would be part of what is mirrored.
bool lies_within(const std::string& path, const std::string& above) { return path == above || path.starts_with(above + "/"); }

}  // namespace

Result<std::unique_ptr<Forwarding>> Forwarding::make(const std::string& store, Fd dir, const std::vector<ForwardConfig>& configs, const Clock& clock) {
  if (configs.size() > kMostForwards) return fail(Exit::configuration, "too many forwards", std::to_string(configs.size()), "at most " + std::to_string(kMostForwards));
  Fd lock(::openat(dir.get(), kLock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return fail_errno("cannot forward from", printable(store));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return fail(Exit::locked, "another daemon forwards from", printable(store));
  std::unique_ptr<Forwarding> f(new Forwarding(std::move(dir), std::move(lock), clock));
  std::set<std::pair<std::string, std::string>> known;
  std::map<std::string, std::uint64_t> bounds;
  for (const ForwardConfig& c : configs) bounds[c.volume] = std::max(bounds[c.volume], c.spool);
  for (const ForwardConfig& c : configs) {
    SOMFS_TRY_ASSIGN(const Target target, parse_target(c.target));
    const std::string here = store + "/" + c.volume;
    if (target.kind == Target::Kind::directory && (lies_within(target.path, here) || lies_within(here, target.path)))
      return fail(Exit::usage, "refusing to forward to", printable(target.text), "it is the mirror itself, lies in it or around it");
    if (!known.emplace(c.volume, target.text).second) return fail(Exit::usage, "forwarded twice:", printable(c.volume + " to " + target.text));
    auto& mirror = f->mirrors_[c.volume];
    if (!mirror) mirror = std::make_shared<replicator::ForwardedMirror>(here, bounds[c.volume]);
    One& one = f->all_.emplace_back();
    one.config = c;
    one.settings.target = target.text;
    one.settings.volume_name = target.volume;
    one.settings.host = host_name();
    one.settings.brake_share = c.brake;
    one.settings.alive_s = target.volume.empty() ? 0 : 2;
    one.connector = std::make_unique<TargetConnector>(target, c.link);
  }
  return f;
}

void Forwarding::begin() {
  for (One& one : all_)
    one.forward = std::make_unique<replicator::Forward>(mirrors_.at(one.config.volume), std::move(one.connector), one.settings);
  keeper_ = std::jthread([this](const std::stop_token& stop) { keep(stop); });
}

Forwarding::~Forwarding() {
  keeper_.request_stop();
  for (One& one : all_)
    if (one.forward) one.forward->end();
}

std::shared_ptr<replicator::ForwardedMirror> Forwarding::mirror(const std::string& volume) const {
  const auto at = mirrors_.find(volume);
  return at == mirrors_.end() ? nullptr : at->second;
}

nlohmann::json Forwarding::seen() const {
  nlohmann::json out = nlohmann::json::array();
  for (const One& one : all_) {
    const replicator::ForwardStatus s = one.forward->status();
    nlohmann::json j{{"volume", one.config.volume}, {"target", one.settings.target}, {"state", s.state}, {"reason", s.reason}, {"epoch", s.epoch},
                     {"committed", s.committed}, {"epochs", s.epochs}, {"comparisons", s.comparisons}, {"failures", s.failures},
                     {"standing_still", s.standing_still}, {"spool_bytes", mirrors_.at(one.config.volume)->spool().bytes()}, {"spool_bound", one.config.spool}};
    if (s.percent >= 0) j["percent"] = s.percent;
    out.push_back(std::move(j));
  }
  return out;
}

void Forwarding::keep(const std::stop_token& stop) {
  std::mutex m;
  std::condition_variable_any over;
  std::string last, last_states;
  std::int64_t saved = 0;
  bool failed = false;
  for (bool end = false; !end;) {
    {
      std::unique_lock l(m);
      end = over.wait_for(l, stop, kLook, [&] { return stop.stop_requested(); }) || stop.stop_requested();
    }
    nlohmann::json now = seen();
    std::string states;
    for (const auto& one : now) states += one["state"].get<std::string>() + "\n" + one["reason"].get<std::string>() + "\n";
    const std::string text = now.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    if (text == last || (states == last_states && !end && clock_.mono_ns() - saved < kSaveEvery)) continue;
    const nlohmann::json file{{"schema", 1}, {"written", clock_.wall_ns() / 1'000'000'000}, {"forwards", std::move(now)}};
    const Status done = replace_file(dir_.get(), kFile, file.dump(2, ' ', true, nlohmann::json::error_handler_t::replace) + "\n");
    if (!done && !failed) log::warning("cannot keep what is known of the forwards: {}", done.error().line());
    failed = !done;
    last = text;
    last_states = states;
    saved = clock_.mono_ns();
  }
}

Result<nlohmann::json> Forwarding::kept(const std::string& store) {
  nlohmann::json out{{"forwarding", false}, {"forwards", nlohmann::json::array()}};
  const Fd at(::open(store.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const Fd dir(at ? ::openat(at.get(), kDirectory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : -1);
  if (!dir) return fail_errno("cannot look at the forwards of", printable(store));
  auto text = read_file(dir.get(), kFile, kMostBytes);
  if (!text && text.error().sys == ENOENT) return out;
  if (!text) return pass_on(std::move(text).error());
  const nlohmann::json file = nlohmann::json::parse(*text, nullptr, false);
  bool sound = file.is_object() && file.contains("schema") && file["schema"] == 1 && file.contains("forwards") && file["forwards"].is_array();
  for (const char* key : {"volume", "target", "state", "reason"})
    for (std::size_t i = 0; sound && i < file["forwards"].size(); ++i)
      sound = file["forwards"][i].is_object() && file["forwards"][i].contains(key) && file["forwards"][i][key].is_string();
  for (const char* key : {"epoch", "committed", "spool_bytes"})
    for (std::size_t i = 0; sound && i < file["forwards"].size(); ++i)
      sound = file["forwards"][i].contains(key) && file["forwards"][i][key].is_number_unsigned();
  if (!sound)
    return fail(Exit::configuration, "cannot read what is known of the forwards of", printable(store), "its file .somfs-mirrord/forwards is damaged",
                "a daemon that is started replaces it");
  const Fd lock(::openat(dir.get(), kLock, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  out["forwarding"] = lock && ::flock(lock.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  out["forwards"] = file["forwards"];
  return out;
}

}  // namespace somfs::cli
