// SPDX-License-Identifier: Apache-2.0
#include "cli/replication.h"

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "cli/target.h"
#include "cli/target_connector.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/printable.h"
#include "replicator/wire.h"

namespace somfs::cli {
namespace {

constexpr std::size_t kMostRelations = 16;
constexpr const char *kReplicate = "replicate-", *kLose = "lose-";   // how the names of our snapshots begin
constexpr double kProbeSeconds = 30;
constexpr double kAliveEvery = 2;   // seconds; a daemon's sources are watched: SourceWatch::Settings

Result<replicator::Pacing> pacing_of(const std::string& text) {
  for (auto p : {replicator::Pacing::bottleneck, replicator::Pacing::paper, replicator::Pacing::none})
    if (text == replicator::name_of(p)) return p;
  return fail(Exit::usage, "unknown pacing", printable(text), {}, "use bottleneck, paper or none");
}

Result<replicator::Mode> mode_of(const std::string& text) {
  for (auto m : {replicator::Mode::async, replicator::Mode::semi, replicator::Mode::sync})
    if (text == replicator::name_of(m)) return m;
  return fail(Exit::usage, "unknown mode", printable(text), {}, "use async, semi or sync");
}

// Of the last group that carried anything.
Json stages_json(const auto& of) {
  Json j = Json::object();
  for (std::size_t i = 0; i < replicator::kStages; ++i) j[replicator::name_of(static_cast<replicator::Stage>(i))] = of[i];
  return j;
}

Json pipeline_json(const Json& stored, const replicator::RelationStatus& s, const replicator::StreamSettings& link) {
  return {{"mode", stored.value("mode", "async")}, {"pipeline", replicator::name_of(link.sending)}, {"compress", replicator::name_of(link.codec)},
          {"in_force", s.groups == 0 ? Json() : Json{{"pipeline", replicator::name_of(s.how.arrangement)}, {"compress", replicator::name_of(s.how.codec)}}},
          {"stages_s", stages_json(s.times)}, {"stages_bytes", stages_json(s.bytes_of)}, {"bottleneck", replicator::name_of(s.decision.bottleneck)}, {"pacing", stored.value("pacing", "bottleneck")},
          {"interval_s", s.decision.interval_s}, {"pace", s.decision.reason()}, {"groups", s.groups}, {"bytes", s.bytes}, {"bytes_wire", s.bytes_wire},
          {"source_s", s.sent_s}, {"mirror_s", s.committed_s}, {"failures", s.failures}};
}

// A snapshot that lasts as long as this object, and a view of it.
class Moment {
 public:
  static Result<std::unique_ptr<Moment>> cut(const Replication::Parts& parts, const char* purpose, std::uint64_t number) {
    snapshot::SnapshotInfo info;
    info.name = purpose + std::to_string(::getpid()) + "-" + std::to_string(number);
    info.for_migration = true;
    info.expires_ns = parts.clock.wall_ns() + static_cast<std::int64_t>(parts.config.expire_s * 1e9);
    const std::string name = info.name;
    SOMFS_TRY_ASSIGN(const auto report, parts.cut(std::move(info)));
    auto moment = std::make_unique<Moment>(parts.store, name, report.epoch);
    SOMFS_TRY_ASSIGN(moment->view_, snapshot::View::open(parts.root_fd, parts.store_fd, name));
    return moment;
  }
  Moment(snapshot::Store& store, std::string name, std::uint64_t epoch) : store_(store), name_(std::move(name)), epoch_(epoch) {}
  ~Moment() {
    view_.reset();
    (void)store_.remove(name_);   // it may have been dropped meanwhile
  }
  Moment(const Moment&) = delete;
  Moment& operator=(const Moment&) = delete;
  snapshot::View& view() { return *view_; }
  std::uint64_t epoch() const { return epoch_; }

 private:
  snapshot::Store& store_;
  const std::string name_;
  const std::uint64_t epoch_;
  std::unique_ptr<snapshot::View> view_;
};

}  // namespace

// A moment, and the target's lock.
class Replication::OneInstant final : public replicator::Instant {
 public:
  static Result<std::unique_ptr<Instant>> make(const Replication& all, const std::string& target, std::uint64_t number) {
    auto made = std::make_unique<OneInstant>(all.parts_, target);
    made->hold_ = all.parts_.locks.take(target);
    if (!made->hold_) return fail(Exit::locked, "another run is under way to", printable(target));
    SOMFS_TRY_ASSIGN(made->moment_, Moment::cut(all.parts_, kReplicate, number));
    made->tree_ = replicator::tree_of(made->moment_->view());
    made->identity_ = all.identity();
    made->epoch_ = made->moment_->epoch();
    for (const auto& s : all.parts_.store.list())
      if (s.epoch == made->epoch_) made->cut_ns_ = s.created_ns;
    return made;
  }
  OneInstant(const Parts& parts, std::string target) : parts_(parts), target_(std::move(target)) {}
  ~OneInstant() override { release(); }

  void release() override {
    tree_.reset();
    hold_ = {};   // what follows may take its time
    moment_.reset();
  }

  replicator::Tree& tree() override { return *tree_; }
  std::uint64_t epoch() const override { return epoch_; }
  Result<replicator::Source> source() override {
    replicator::Source s = identity_;
    s.view = &moment_->view();
    s.epoch = epoch();
    if (auto known = parts_.journal.target(target_)) {
      s.base_epoch = known->acked_epoch;
      s.base_root = known->root;
      s.gap = known->gap;
      s.compare_content = known->content;
    }
    s.excludes = parts_.config.excludes;
    s.incomplete = [this] { return parts_.journal.flag_gap_of(target_); };
    s.dirty_since = [this](std::uint64_t epoch) -> Result<replicator::Changes> {
      auto dirty = parts_.journal.dirty_since(epoch, epoch_);
      replicator::Changes changes;
      changes.complete = dirty.has_value();
      changes.set = dirty ? std::move(*dirty) : parts_.journal.known_since(epoch, epoch_);
      return changes;
    };
    return s;
  }
  Status acknowledge(const Uuid& mirror, std::uint64_t epoch, const std::string& root) override {
    return parts_.journal.acknowledge(target_, mirror, epoch, epoch == epoch_ ? cut_ns_ : 0, root);
  }

 private:
  const Parts& parts_;
  const std::string target_;
  std::unique_ptr<Moment> moment_;
  std::unique_ptr<replicator::Tree> tree_;
  TargetLocks::Hold hold_;
  replicator::Source identity_;
  std::uint64_t epoch_ = 0;
  std::int64_t cut_ns_ = 0;
};

Replication::Replication(Parts parts) : parts_(std::move(parts)) {}
Replication::~Replication() { close(); }

Result<std::unique_ptr<replicator::Instant>> Replication::cut(const std::string& target) {
  return OneInstant::make(*this, target, ++cuts_);
}

replicator::Source Replication::identity() const {
  replicator::Source s;
  s.volume = parts_.journal.volume();
  s.generation = parts_.journal.generation();
  s.ancestors = parts_.journal.ancestors();
  return s;
}

std::uint64_t Replication::acknowledged(const std::string& target) const {
  const auto known = parts_.journal.target(target);
  return known ? known->acked_epoch : 0;
}

std::int64_t Replication::changed_since_ns(std::uint64_t epoch) const { return parts_.journal.changed_since_ns(epoch); }

Result<replicator::RelationSettings> Replication::settings_of(const Json& stored) const {
  replicator::RelationSettings s;
  s.target = stored.value("target", "");
  SOMFS_TRY_ASSIGN(s.mode, mode_of(stored.value("mode", "async")));
  s.sync_timeout_s = stored.value("sync_timeout", s.sync_timeout_s);
  if (!(s.sync_timeout_s >= 0.01 && s.sync_timeout_s <= 60))
    return fail(Exit::usage, "cannot replicate like that:", "an answer may wait for 0.01 to 60 seconds", {}, "see --sync-timeout");
  s.lag_bound_s = stored.value("lag_bound", s.lag_bound_s);
  if (!(s.lag_bound_s >= 0.1 && s.lag_bound_s <= 3600))
    return fail(Exit::usage, "cannot replicate like that:", "the lag may be bound to 0.1 to 3600 seconds", {}, "see --lag-bound");
  SOMFS_TRY_ASSIGN(const auto link, link_settings(parts_.config, stored.value("pipeline", ""), stored.value("compress", "")));
  SOMFS_TRY_ASSIGN(s.pace.pacing, pacing_of(stored.value("pacing", "bottleneck")));
  // Every group costs some flushes on both sides: more than thirty a second, or all of a disk's time, would be felt by the application.
  s.pace.min_s = 0.03;
  s.pace.max_s = 1;   // what a second of changes costs does not become less in five
  s.pace.share = stored.value("share", 0.5);
  s.pace.alpha = stored.value("alpha", s.pace.alpha);
  s.pace.beta = stored.value("beta", s.pace.beta);
  s.pace.first_s = stored.value("first", s.pace.first_s);
  s.pace.lanes = replicator::lanes_of(link.sending);
  s.pace.rpo_s = stored.value("rpo", 0.0);
  // Nobody is slowed down because groups were collected for longer than there was need.
  if (s.mode == replicator::Mode::semi) s.pace.rpo_s = s.pace.rpo_s == 0 ? s.lag_bound_s : std::min(s.pace.rpo_s, s.lag_bound_s);
  s.pace.first_s = std::min(s.pace.first_s, s.pace.upper_s());
  if (const std::string wrong = s.pace.problem(); !wrong.empty()) return fail(Exit::usage, "cannot replicate like that:", wrong);
  s.options.brake_share = parts_.config.brake;
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  s.options.host = host;
  return s;
}

Status Replication::start(const Json& stored, bool probe) {
  SOMFS_TRY_ASSIGN(auto settings, settings_of(stored));
  SOMFS_TRY_ASSIGN(Target target, parse_target(settings.target));
  // Once is enough; at a start the mount does not serve yet, and looking at it would wait for ever.
  if (probe) SOMFS_TRY(refuse_overlap(target, parts_.dir, parts_.mountpoint));
  settings.target = target.text;
  settings.options.volume_name = target.volume;
  settings.alive_s = target.volume.empty() ? 0 : kAliveEvery;
  std::shared_ptr<replicator::Relation> before;   // ends without the lock, which its end may wait for
  {
    Lock l(mutex_);
    if (auto at = relations_.find(target.text); at != relations_.end()) before = std::move(at->second.relation);
    else if (relations_.size() >= kMostRelations) return fail(Exit::usage, "too many relations", {}, {}, "stop one first");
  }
  if (before) before->end();
  SOMFS_TRY_ASSIGN(const auto link, link_settings(parts_.config, stored.value("pipeline", ""), stored.value("compress", "")));
  auto connector = std::make_unique<TargetConnector>(target, link);
  Status reached;
  if (probe) {
    {
      Lock l(mutex_);
      if (closed_) return fail(Exit::temporary, "the volume is being unmounted");
      probing_ = connector.get();
    }
    reached = replicator::Relation::probe(*connector, identity(), settings.options, kProbeSeconds);
    Lock l(mutex_);
    probing_ = nullptr;
  }
  connector->interrupt(false);
  Lock l(mutex_);
  auto at = relations_.find(target.text);
  if (!reached && at == relations_.end()) return reached;
  if (closed_) return fail(Exit::temporary, "the volume is being unmounted");
  Entry& entry = relations_[target.text];
  if (reached) {
    entry.stored = stored;
    entry.stored["target"] = target.text;
  } else {
    // What was there before goes on as it was.
    SOMFS_TRY_ASSIGN(settings, settings_of(entry.stored));
    settings.options.volume_name = target.volume;
    settings.alive_s = target.volume.empty() ? 0 : kAliveEvery;
  }
  settings.target = target.text;
  entry.relation = std::make_shared<replicator::Relation>(*this, std::move(connector), settings, entry.stored.value("paused", false), parts_.clock);
  entry.mode = settings.mode;
  note_modes();
  return reached;
}

std::vector<std::shared_ptr<replicator::Relation>> Replication::of_mode(replicator::Mode mode) const {
  std::vector<std::shared_ptr<replicator::Relation>> all;
  for (const auto& [target, entry] : relations_)
    if (entry.relation && entry.mode == mode) all.push_back(entry.relation);
  return all;
}

void Replication::note_modes() {
  attests_.store(!of_mode(replicator::Mode::sync).empty(), std::memory_order_relaxed);
  slows_.store(!of_mode(replicator::Mode::semi).empty(), std::memory_order_relaxed);
}

std::chrono::nanoseconds Replication::slowdown(std::uint64_t bytes) const noexcept {
  std::chrono::nanoseconds longest{0};
  if (!slows_.load(std::memory_order_relaxed)) return longest;
  Lock l(mutex_);
  for (const auto& [target, entry] : relations_)
    if (entry.relation && entry.mode == replicator::Mode::semi) longest = std::max(longest, entry.relation->slowdown(bytes));
  return longest;
}

Replication::Excuse Replication::excuse() {
  auto excused = std::make_shared<std::vector<std::shared_ptr<replicator::Relation>>>();
  {
    Lock l(mutex_);
    *excused = of_mode(replicator::Mode::sync);
  }
  for (const auto& relation : *excused) relation->excuse(true);
  return Excuse(excused.get(), [excused](void*) {
    for (const auto& relation : *excused) relation->excuse(false);
  });
}

void Replication::attest(std::function<void()> answer) noexcept {
  std::vector<std::shared_ptr<replicator::Relation>> all;
  {
    Lock l(mutex_);
    all = of_mode(replicator::Mode::sync);
  }
  if (all.size() == 1) return all.front()->attest(std::move(answer));
  // The last one answers.
  auto left = std::make_shared<std::atomic<std::size_t>>(all.size() + 1);
  auto one = [left, answer = std::move(answer)] {
    if (--*left == 0) answer();
  };
  for (const auto& relation : all) relation->attest(one);
  one();
}

Status Replication::store_all() {
  Json list = Json::array();
  {
    Lock l(mutex_);
    for (const auto& [target, entry] : relations_) list.push_back(entry.stored);
  }
  return replace_file(parts_.own_fd, "relations", Json{{"schema", 1}, {"relations", list}}.dump(2) + "\n");
}

Status Replication::open() {
  // What a process that was killed was reading nobody reads any more.
  for (const auto& s : parts_.store.list())
    if (s.for_migration && (s.name.starts_with(kReplicate) || s.name.starts_with(kLose))) (void)parts_.store.remove(s.name);
  auto text = read_file(parts_.own_fd, "relations", 1u << 20);
  if (!text) return text.error().sys == ENOENT ? Status() : pass_on(std::move(text).error());
  const Json stored = Json::parse(*text, nullptr, false);
  if (!stored.is_object() || !stored.contains("schema") || stored["schema"] != 1 || !stored.contains("relations") || !stored["relations"].is_array())
    return fail(Exit::configuration, "cannot read the relations of", printable(parts_.dir), "its file .somfs/relations is damaged", "remove it, and begin them anew with somfs-ctl replicate");
  for (const Json& one : stored["relations"]) try {
      if (Status s = start(one, false); !s) log::warning("{}", s.error().line());   // the volume is served all the same
    } catch (const std::exception& e) {
      log::warning("cannot read a relation of {}: {}", printable(parts_.dir), e.what());
    }
  return {};
}

void Replication::changed() noexcept {
  Lock l(mutex_);
  for (auto& [target, entry] : relations_)
    if (entry.relation) entry.relation->changed();
}

void Replication::close() {
  std::vector<std::shared_ptr<replicator::Relation>> ending;
  {
    Lock l(mutex_);
    closed_ = true;
    for (auto& [target, entry] : relations_)   // the entries stay: whoever stores them now stores all
      if (entry.relation) ending.push_back(std::move(entry.relation));
    if (probing_ != nullptr) probing_->interrupt(true);
  }
  for (const auto& relation : ending) relation->end(replicator::kUnmounted);
}

Result<std::map<std::string, std::shared_ptr<replicator::Relation>>> Replication::asked_for(const Json& request) const {
  const std::string target = request.value("target", "");
  std::map<std::string, std::shared_ptr<replicator::Relation>> out;
  Lock l(mutex_);
  for (const auto& [name, entry] : relations_)
    if (entry.relation && (target.empty() || target == name)) out.emplace(name, entry.relation);
  if (out.empty())
    return fail(Exit::usage, target.empty() ? "nothing is replicated from" : "not replicated to", printable(target.empty() ? parts_.dir : target), {},
                "begin with somfs-ctl replicate DIR TARGET");
  return out;
}

Result<Json> Replication::replicate(const Json& request) {
  Lock one(changing_);
  Json stored{{"target", request.value("target", "")}, {"mode", request.value("mode", "async")}, {"pipeline", request.value("pipeline", "")}, {"compress", request.value("compress", "")},
              {"pacing", request.value("pacing", "bottleneck")}, {"rpo", request.value("rpo", 0.0)}, {"paused", false}};
  for (const char* given : {"lag_bound", "sync_timeout", "share", "alpha", "beta", "first"})
    if (request.contains(given)) stored[given] = request[given];
  SOMFS_TRY(start(stored, true));
  SOMFS_TRY(store_all());
  return Json{{"schema", 1}, {"target", stored["target"]}, {"replicating", true}};
}

Result<Json> Replication::stop(const Json& request) {
  Lock one(changing_);
  SOMFS_TRY_ASSIGN(auto which, asked_for(request));
  if (which.size() > 1) return fail(Exit::usage, "several relations: which one?", {}, {}, "name its target");
  const std::string target = which.begin()->first;
  std::shared_ptr<replicator::Relation> ending;   // null: the volume is being unmounted, which ends it
  {
    Lock l(mutex_);
    ending = std::move(relations_[target].relation);
    relations_.erase(target);
    note_modes();
  }
  if (ending) ending->end(replicator::kStopped);
  SOMFS_TRY(store_all());
  return Json{{"schema", 1}, {"target", target}, {"replicating", false}};
}

Result<Json> Replication::pause(const Json& request, bool paused) {
  Lock one(changing_);
  SOMFS_TRY_ASSIGN(auto which, asked_for(request));
  Json targets = Json::array();
  for (const auto& [target, relation] : which) {
    relation->pause(paused);
    targets.push_back(target);
    Lock l(mutex_);
    if (auto at = relations_.find(target); at != relations_.end()) at->second.stored["paused"] = paused;
  }
  SOMFS_TRY(store_all());
  return Json{{"schema", 1}, {"paused", paused}, {"targets", targets}};
}

Result<Json> Replication::sync(const Json& request, const std::function<bool()>& gone) {
  SOMFS_TRY_ASSIGN(auto which, asked_for(request));
  const std::int64_t start = parts_.clock.mono_ns();
  const double timeout = request.value("timeout", 60.0);
  auto passed = [&] { return static_cast<double>(parts_.clock.mono_ns() - start) / 1e9; };
  // On this thread: a relation that waited for it could not attest what others wait for.
  if (!parts_.flush(timeout))
    return fail(Exit::lag, "not everything is at the mirror", printable(which.begin()->first), "flushing the files open for writing took too long", "give it longer with --timeout");
  Json targets = Json::array();
  for (const auto& [target, relation] : which) {
    SOMFS_TRY(relation->sync(timeout - passed(), gone));
    targets.push_back(target);
  }
  return Json{{"schema", 1}, {"synced", true}, {"targets", targets}, {"seconds", passed()}};
}

// What is counted is one instant: the difference between it and what the mirror holds.
Result<Json> Replication::lose(const Json& request) {
  std::vector<std::string> targets;
  if (request.value("target", "").empty()) {
    for (const auto& t : parts_.journal.targets()) targets.push_back(t.target);
  } else if (auto t = parts_.journal.target(request.value("target", "")); t) {
    targets.push_back(t->target);
  }
  if (targets.empty()) return fail(Exit::usage, "no mirror holds anything of", printable(parts_.dir), {}, "everything would be lost: somfs-ctl migrate or replicate first");
  SOMFS_TRY_ASSIGN(auto moment, Moment::cut(parts_, kLose, ++cuts_));
  snapshot::View& view = moment->view();
  Json list = Json::array();
  for (const std::string& target : targets) {
    SOMFS_TRY_ASSIGN(auto known, parts_.journal.target(target));
    auto dirty = parts_.journal.dirty_since(known.acked_epoch, moment->epoch());
    const bool unknown = known.gap || !dirty || dirty->volume_whole();
    snapshot::DirtySet set;
    if (dirty) set = std::move(*dirty);
    std::uint64_t files = 0, names = 0, bytes = 0;
    bool at_least = unknown;
    for (const auto& [id, object] : set.objects()) {
      ++files;
      at_least = at_least || object.subtree;
      std::uint64_t size = 0;
      if (view.has_handles()) {
        auto file = view.open({id, object.handle, Kind::none});
        if (file && *file && (*file)->attr().kind == Kind::file) size = (*file)->attr().size;
      } else {
        at_least = at_least || object.whole || object.born;
        for (const auto& [from, to] : object.extents.map())
          if (to == snapshot::ExtentSet::kToEnd) at_least = true;
          else size = std::max(size, to);
      }
      bytes += object.whole ? size : object.extents.bytes(size);
    }
    for (const auto& [dir, changed] : set.names()) names += changed.size();
    const std::int64_t since = parts_.journal.changed_since_ns(known.acked_epoch);
    list.push_back({{"target", target}, {"files", files}, {"names", names}, {"bytes", bytes}, {"at_least", at_least},
                    {"lag_s", files + names == 0 && !unknown ? Json(0.0) : since == 0 ? Json(nullptr) : Json(std::max(0.0, static_cast<double>(parts_.clock.wall_ns() - since) / 1e9))}});
  }
  return Json{{"schema", 1}, {"targets", list}};
}

Result<Json> Replication::serve(const std::string& verb, const Json& request, const std::function<bool()>& gone) {
  if (verb == "replicate") return replicate(request);
  if (verb == "replicate-stop") return stop(request);
  if (verb == "pause" || verb == "resume") return pause(request, verb == "pause");
  if (verb == "sync") return sync(request, gone);
  return lose(request);
}

std::map<std::string, Json> Replication::status() const {
  std::map<std::string, Json> out;
  std::map<std::string, Entry> all;
  {
    Lock l(mutex_);
    all = relations_;
  }
  for (const auto& [target, entry] : all) {
    if (!entry.relation) continue;
    const auto s = entry.relation->status();
    Json m{{"target", target}, {"state", s.state}, {"epoch", s.epoch}, {"acked_lag_s", s.lag_s < 0 ? Json(nullptr) : Json(s.lag_s)}};
    m["applied_lag_s"] = s.applied_lag_s < 0 ? Json(nullptr) : Json(s.applied_lag_s);
    m["backlog_bytes"] = s.backlog_bytes;
    m["in_flight"] = s.in_flight;
    m["reason"] = s.reason;
    if (s.percent >= 0) m["percent"] = s.percent;
    const auto link = link_settings(parts_.config, entry.stored.value("pipeline", ""), entry.stored.value("compress", ""));
    m["pipeline"] = pipeline_json(entry.stored, s, link.value_or(parts_.config.link));
    if (entry.mode == replicator::Mode::semi) m["slowdown_ms"] = s.slowdown_s * 1e3;
    if (entry.mode == replicator::Mode::sync) m["answers"] = {{"wait", s.holding}, {"waiting", s.waiting}};
    out.emplace(target, std::move(m));
  }
  return out;
}

Replication::Aside Replication::step_aside(const std::string& target) {
  std::shared_ptr<replicator::Relation> relation;
  {
    Lock l(mutex_);
    if (auto at = relations_.find(target); at != relations_.end()) relation = at->second.relation;
  }
  if (!relation) return nullptr;
  relation->step_aside(true);
  return Aside(relation.get(), [relation](void*) { relation->step_aside(false); });
}

}  // namespace somfs::cli
