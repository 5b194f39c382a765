// SPDX-License-Identifier: Apache-2.0
#include "replicator/relation.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <random>
#include <thread>

#include "common/log.h"
#include "common/printable.h"
#include "common/sync.h"
#include "replicator/held_answers.h"
#include "replicator/migration.h"
#include "replicator/plan.h"
#include "replicator/sign_of_life.h"
#include "replicator/wants.h"

namespace somfs::replicator {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kLong = 2 * kSecond;           // an epoch under way for longer: CATCHING-UP
constexpr std::int64_t kCutRetry = kSecond / 20;      // somebody else was cutting
constexpr std::int64_t kLongestCutRetry = 5 * kSecond;
constexpr unsigned kManyVetoes = 5;
constexpr std::chrono::seconds kGoodbye{2};           // how long an end waits for the mirror to hear of it
constexpr std::int64_t kLagLook = kSecond / 500;      // mode semi: the lag is looked at so often
constexpr std::int64_t kStalled = 5 * kSecond;        // mode semi: a mirror that takes nothing for so long does not work
constexpr auto kLook = std::chrono::milliseconds(500);  // nobody need say so, but one looks whether there is something to do
constexpr std::size_t kLeastWindow = 2, kMostWindow = 16;   // groups sent and not acknowledged

std::chrono::steady_clock::time_point at(std::int64_t mono_ns) { return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(mono_ns)); }

std::string seconds(double s) {
  char b[32];
  std::snprintf(b, sizeof b, "%g s", s);
  return b;
}

// A copy or a comparison of the whole tree takes what the tree takes: it says nothing about the changes of an interval.
bool tells(const MigrateReport& report) { return report.strategy == name_of(Strategy::differential); }

// Every sync() cuts an epoch, and there may be nothing in it: what the stages took for that tells nobody anything.
bool carried_something(const MigrateReport& report) { return report.bytes[static_cast<std::size_t>(Stage::group)] > 0; }

const char* state_after(const Error& e) {
  return e.exit == Exit::person ? e.what.starts_with("held") ? "HELD" : "SPLIT" : "DEGRADED";
}

}  // namespace

const char* name_of(Mode mode) {
  switch (mode) {
    case Mode::async: return "async";
    case Mode::semi: return "semi";
    case Mode::sync: break;
  }
  return "sync";
}

std::chrono::nanoseconds slowdown_at(double lag_s, double bound_s) {
  constexpr double kMost = 1e8;
  return std::chrono::nanoseconds(static_cast<std::int64_t>(kMost * std::clamp((lag_s - bound_s) / bound_s, 0.0, 1.0)));
}

struct Relation::Impl {
  Impl(Replicated& v, std::unique_ptr<Connector> c, RelationSettings s, bool p, const Clock& k)
      : volume(v), connector(std::move(c)), settings(std::move(s)), clock(k), pace(make_pace(settings.pace)), paused(p),
        decision(pace->decision()) {
    if (settings.mode == Mode::sync) answers = std::make_unique<HeldAnswers>(settings.sync_timeout_s, clock, [this] { look(); }, [this] { too_late(); });
  }

  void run();
  Status follow();
  Status converse(Session& session, Progress& talk);
  void hang_up(const char* how);
  Status send(Session& session, Progress& progress);
  bool wait_while_paused();
  // A group that was sent, until the mirror's tree shows it.
  struct Sent {
    std::unique_ptr<Instant> instant;                  // released
    std::uint64_t holds = 0;                           // of the volume: the mirror, once it has the group, holds what there was at the end of this epoch
    std::uint64_t wanted = 0, newest = 0;              // sync() and answers that it covers
    std::int64_t begun = 0, own_ns = 0;
    std::uint64_t came = 0;                            // mode semi: at the cut
    bool alone = false;                                // nothing was before it
    bool committed = false;
    MigrateReport report;
  };
  enum class Next { cut, verdict, leave, broken };
  Next wait_for_work(const Session& session, bool first);
  bool room() const;
  Status take_verdict(Session& session);
  Status committed(Sent& group);
  void shown(std::uint64_t epoch, std::uint64_t wanted);
  void measure_acknowledged(const MigrateReport& report);
  std::size_t unanswered() const;
  void count_flying() REQUIRES(mutex);
  void back_off(const Error& error);
  void note_trouble(const Error& error);
  void measure_sent(const MigrateReport& report, std::int64_t begun, std::int64_t own_ns);
  // An answer waits.
  void look() {
    Lock l(mutex);
    wake.notify_all();
  }
  void too_late();
  std::chrono::nanoseconds find_slowdown(std::int64_t now);
  void learn_rate(double bytes, double took_s) REQUIRES(mutex);
  // What waits for the mirror is answered without it. Not under the lock.
  void let_go() {
    if (answers) answers->let_go();
  }
  bool leaving() REQUIRES(mutex) { return stop || paused || aside != 0; }
  void cancel() REQUIRES(mutex) {
    if (progress != nullptr) progress->cancelled = true;
    wake.notify_all();
  }

  Replicated& volume;
  const std::unique_ptr<Connector> connector;
  const RelationSettings settings;
  const Clock& clock;

  // Of the relation's thread alone.
  std::unique_ptr<Pace> pace;
  Distrust distrust = Distrust::nothing;
  double retry_s = 0;
  std::int64_t last_cut = 0, next_cut = 0;
  std::int64_t last_landed = 0;
  unsigned vetoes = 0;                                 // in a row
  std::deque<Sent> flying;                             // oldest first; at most the first one is committed
  bool lone = false;                                   // the last one was no difference from the one before, or not complete: what follows waits for its verdicts
  double way_s = 0;                                    // there and back, without work and queues; 0: not known
  std::uint64_t sync_covered = 0, newest_covered = 0;  // by what is flying or has landed in this conversation
  std::minstd_rand random{std::random_device{}()};

  mutable Mutex mutex;
  CondVar wake;
  std::uint64_t landed GUARDED_BY(mutex) = 0;          // by this relation: the epoch whose end the mirror holds
  std::uint64_t applied GUARDED_BY(mutex) = 0;         // ... and whose end its tree shows
  std::size_t in_flight GUARDED_BY(mutex) = 0;
  std::uint64_t backlog GUARDED_BY(mutex) = 0;         // bytes in them, and in the one that is committed and not applied
  bool stop GUARDED_BY(mutex) = false, paused GUARDED_BY(mutex);
  unsigned aside GUARDED_BY(mutex) = 0;
  bool talking GUARDED_BY(mutex) = false;
  bool greeted GUARDED_BY(mutex) = false;              // ... and the mirror would hear a goodbye
  const char* goodbye GUARDED_BY(mutex) = "";
  bool dirty GUARDED_BY(mutex) = true;                 // something may have changed since the last cut
  bool again GUARDED_BY(mutex) = false;                // an epoch is wanted, whatever has changed
  bool fresh GUARDED_BY(mutex) = false;                // something has landed
  bool connected GUARDED_BY(mutex) = false;            // ... in this conversation
  std::uint64_t sync_wanted GUARDED_BY(mutex) = 0, sync_done GUARDED_BY(mutex) = 0;
  unsigned waiting GUARDED_BY(mutex) = 0;              // callers of sync()
  std::int64_t under_way GUARDED_BY(mutex) = 0;        // since when; 0: nothing is
  Progress* progress GUARDED_BY(mutex) = nullptr;      // of the conversation
  const char* trouble GUARDED_BY(mutex) = nullptr;     // a state
  std::string reason GUARDED_BY(mutex);
  Exit trouble_exit GUARDED_BY(mutex) = Exit::lag;
  RelationStatus counts GUARDED_BY(mutex);
  Decision decision GUARDED_BY(mutex);

  unsigned excused GUARDED_BY(mutex) = 0;
  std::uint64_t taken GUARDED_BY(mutex) = 0;           // mode semi: what the mirror had been sent when it was last seen to take something
  std::int64_t taken_at GUARDED_BY(mutex) = 0;
  std::atomic<std::uint64_t> came{0};                  // mode semi: bytes
  std::uint64_t came_at_cut GUARDED_BY(mutex) = 0, came_landed GUARDED_BY(mutex) = 0;   // ... at the last one, and at the last that has landed
  std::uint64_t cut_epoch GUARDED_BY(mutex) = 0;       // of the last one
  double fixed_s GUARDED_BY(mutex) = 1e9;              // mode semi: of the shortest epoch
  double rate GUARDED_BY(mutex) = 0;                   // mode semi: bytes that came, in epochs that landed, by the second; 0: not known
  std::atomic<std::int64_t> slowdown_ns{0}, slowdown_due{0};   // mode semi: as last found, and when to look again

  std::unique_ptr<HeldAnswers> answers;                // mode sync. Its lock comes after `mutex`; begin() only while not leaving() or excused
  std::jthread thread;                                 // last: ends first
};

bool Relation::Impl::wait_while_paused() {
  Lock l(mutex);
  while ((paused || aside != 0) && !stop) wake.wait(mutex);
  talking = !stop;
  return !stop;
}

void Relation::Impl::run() {
  retry_s = settings.first_retry_s;
  while (wait_while_paused()) {
    connector->interrupt(false);
    // A pause that came in between interrupted before this: it is seen in follow(), a later one interrupts again.
    Status s = follow();
    let_go();
    const Status far = connector->finish();
    {
      Lock l(mutex);
      connected = talking = false;
      under_way = 0;
      wake.notify_all();
      if (leaving()) continue;
    }
    if (!s && s.error().exit == Exit::interrupted) continue;   // a pause that is over already
    if (!s) back_off(s.error().exit == Exit::link_down && !far ? far.error() : s.error());
  }
}

Status Relation::Impl::follow() {
  {
    Lock l(mutex);
    if (leaving()) return {};
  }
  SOMFS_TRY_ASSIGN(auto transport, connector->connect());
  Progress talk;
  talk.totals = true;
  {
    Lock l(mutex);
    progress = &talk;
    if (leaving()) talk.cancelled = true;
  }
  struct Forget {
    Impl& impl;
    ~Forget() {
      Lock l(impl.mutex);
      impl.progress = nullptr;
      impl.greeted = false;
      impl.wake.notify_all();
    }
  } forget{*this};
  InTurn in_turn(std::move(transport));
  SignOfLife life(in_turn);
  Session session(in_turn, talk, [this] { look(); });
  SOMFS_TRY(session.greet(volume.identity(), settings.options, kReplicate));
  if (settings.alive_s > 0) life.begin(settings.alive_s);
  {
    Lock l(mutex);
    greeted = true;
  }
  const Status done = converse(session, talk);
  const char* how = "";
  {
    Lock l(mutex);
    how = goodbye;
  }
  if (*how != '\0') session.part(how, kGoodbye);
  else if (done) session.bye();
  return done;
}

Status Relation::Impl::converse(Session& session, Progress& talk) {
  if (session.held()) return fail(Exit::person, "held at the mirror", printable(settings.target), "an epoch waits for a decision");
  struct Landed {                                      // what has no verdict by the end gets none: the journal still has it
    Impl& impl;
    ~Landed() {
      impl.flying.clear();
      Lock l(impl.mutex);
      impl.count_flying();
    }
  } landed_or_not{*this};
  lone = false;
  newest_covered = 0;
  {
    Lock l(mutex);
    sync_covered = sync_done;
  }
  Status s;
  for (bool first = true; s; first = false) {
    switch (wait_for_work(session, first)) {
      case Next::leave: return {};
      case Next::broken: return fail(Exit::link_down, "the mirror went away", printable(settings.target));
      case Next::verdict: s = take_verdict(session); break;
      case Next::cut: s = send(session, talk); break;
    }
  }
  // The mirror refused what it does not know. With less trust in what both sides seem to have in common it may work.
  if (s.error().exit == Exit::temporary && distrust != Distrust::ids) distrust = static_cast<Distrust>(static_cast<int>(distrust) + 1);
  return s;
}

std::size_t Relation::Impl::unanswered() const { return flying.size() - (!flying.empty() && flying.front().committed ? 1 : 0); }

void Relation::Impl::count_flying() {
  in_flight = unanswered();
  backlog = 0;
  for (const Sent& group : flying) backlog += group.report.bytes_source;
}

// One group is at work at the mirror and the next one waits there: more only let the changes grow old that would share an epoch here. A long
// way has room for those that are on it.
bool Relation::Impl::room() const {
  if (lone && !flying.empty()) return false;
  // While a group is sent nobody looks at what the mirror says: where somebody waits for that (sync), or what it takes in a second is learned from
  // when it says it (semi), the answer comes first.
  if (settings.mode != Mode::async) return unanswered() == 0;
  const double on_the_way = way_s / std::max(pace->decision().interval_s, 1e-3);
  const std::size_t most = std::min<std::size_t>(settings.pace.credits, kMostWindow);
  return unanswered() < std::min(most, kLeastWindow + static_cast<std::size_t>(std::min(on_the_way, 1e3)));
}

Relation::Impl::Next Relation::Impl::wait_for_work(const Session& session, bool first) {
  Lock l(mutex);
  for (;;) {
    if (leaving()) return Next::leave;
    if (session.has_verdict()) return Next::verdict;
    if (session.broken()) return flying.empty() ? Next::broken : Next::verdict;   // which says why
    if (first) return Next::cut;
    const auto look_again = std::chrono::steady_clock::now() + kLook;
    if (!room()) {
      wake.wait_until(mutex, look_again);
      continue;
    }
    const std::int64_t now = clock.mono_ns();
    const bool asked = again || (sync_wanted > sync_covered && waiting != 0) || (answers && answers->waiting() != 0 && answers->newest() > newest_covered);
    if (asked && (vetoes == 0 || now >= next_cut)) return Next::cut;
    if (dirty && now >= next_cut) return Next::cut;
    wake.wait_until(mutex, dirty || asked ? std::min(at(next_cut), look_again) : look_again);
  }
}

Status Relation::Impl::send(Session& session, Progress& talk) {
  Sent group;
  group.begun = clock.mono_ns();
  group.alone = flying.empty();
  {
    Lock l(mutex);
    group.wanted = sync_wanted;
    group.newest = answers ? answers->newest() : 0;    // before the cut: what waits later may not be covered
    again = false;
    dirty = false;                                     // before the cut: what comes after it says so again
    if (under_way == 0) under_way = group.begun;
  }
  group.came = came.load(std::memory_order_relaxed);
  talk.phase = "snapshot";
  auto instant = volume.cut(settings.target);
  const std::int64_t cut_done = clock.mono_ns();
  if (!instant) {
    if (instant.error().exit == Exit::veto && vetoes + 1 >= kManyVetoes) let_go();
    Lock l(mutex);
    dirty = true;
    if (unanswered() == 0) under_way = 0;
    if (instant.error().exit != Exit::locked && instant.error().exit != Exit::veto) return pass_on(std::move(instant).error());
    // Another cut, a migration, or operations that did not end in time: nothing is wrong with the mirror. A freeze that fails has held
    // up the application: it is not tried again and again.
    next_cut = cut_done + kCutRetry;
    if (instant.error().exit == Exit::veto) {
      next_cut = cut_done + std::min(kCutRetry << std::min(vetoes, 10u), kLongestCutRetry);
      if (++vetoes >= kManyVetoes) {
        trouble = "DEGRADED";
        trouble_exit = Exit::veto;
        reason = instant.error().line();
      }
    }
    const auto until = at(next_cut);
    while (!leaving() && wake.wait_until(mutex, until)) {}
    return {};
  }
  vetoes = 0;
  group.instant = std::move(*instant);
  group.holds = group.instant->epoch();
  {
    Lock l(mutex);
    cut_epoch = group.holds;
    came_at_cut = group.came;
  }
  SOMFS_TRY_ASSIGN(Source source, group.instant->source());
  SOMFS_TRY_ASSIGN(Session::Sent sent, session.send(group.instant->tree(), source, settings.options, distrust));
  group.report = std::move(sent.report);
  if (group.report.held) return fail(Exit::person, "held at the mirror", printable(settings.target), group.report.held_reason);
  const std::int64_t sent_at = clock.mono_ns();
  group.instant->release();
  group.own_ns = cut_done - group.begun + clock.mono_ns() - sent_at;
  sync_covered = group.wanted;
  newest_covered = group.newest;
  measure_sent(group.report, group.begun, group.own_ns);
  {
    Lock l(mutex);
    decision = pace->decision();
    next_cut = group.begun + static_cast<std::int64_t>(decision.interval_s * 1e9);
  }
  if (sent.asked) {
    lone = !tells(group.report) || !group.report.unreadable.empty();
    flying.push_back(std::move(group));
    Lock l(mutex);
    count_flying();
    return {};
  }
  // The mirror has it all already, or what it lacks is on its way.
  if (!flying.empty()) {
    Sent& last = flying.back();
    last.holds = group.holds;
    last.wanted = group.wanted;
    last.newest = group.newest;
    if (!last.committed) return {};
    Lock l(mutex);
    landed = last.holds;
    under_way = 0;
  } else {
    SOMFS_TRY(committed(group));
    measure_acknowledged(group.report);
    shown(group.holds, group.wanted);
  }
  if (answers) answers->landed(group.newest);
  return {};
}

Status Relation::Impl::take_verdict(Session& session) {
  SOMFS_TRY_ASSIGN(Session::Verdict verdict, session.verdict());
  if (flying.empty()) return fail(Exit::peer_version, "cannot talk to the mirror", printable(settings.target), "it speaks of an epoch that it was not sent");
  Sent& group = flying.front();
  group.report = std::move(verdict.report);
  if (verdict.applied) {
    const Sent landed_group = std::move(group);
    flying.pop_front();
    measure_acknowledged(landed_group.report);
    {
      Lock l(mutex);                                   // before whoever waits for it in sync() hears of it, and looks
      if (carried_something(landed_group.report)) counts.times[static_cast<std::size_t>(Stage::apply)] = landed_group.report.times[static_cast<std::size_t>(Stage::apply)];
      count_flying();
    }
    shown(landed_group.holds, landed_group.wanted);
    return {};
  }
  if (group.report.held) return fail(Exit::person, "held at the mirror", printable(settings.target), group.report.held_reason);
  group.committed = true;
  if (group.alone) {
    const double way = group.report.committed_s - group.report.times[static_cast<std::size_t>(Stage::acknowledge)];
    if (way > 0) way_s = way_s == 0 ? way : std::min(way_s, way);
  }
  SOMFS_TRY(committed(group));
  if (answers) answers->landed(group.newest);
  if (!group.report.unreadable.empty()) let_go();
  return {};
}

// The mirror holds the group durably.
Status Relation::Impl::committed(Sent& group) {
  const std::int64_t answered_at = clock.mono_ns();
  const MigrateReport& report = group.report;
  SOMFS_TRY(group.instant->acknowledge(report.mirror, report.epoch, report.root));
  if (report.history_differs) log::warning("replication to {}: {}", printable(settings.target), report.notes.front());
  distrust = Distrust::nothing;
  retry_s = settings.first_retry_s;
  const std::int64_t now = clock.mono_ns();
  group.own_ns += now - answered_at;
  const bool partial = !report.unreadable.empty();
  // Who had to wait for too long waits again once the mirror keeps up: it holds everything, or the next answers would be in time.
  const bool keeps_up = answers && !partial && (volume.changed_since_ns(group.holds) == 0 || static_cast<double>(now - group.begun) < settings.sync_timeout_s * 1e9 / 2);
  Lock l(mutex);
  if (settings.mode == Mode::semi && fresh)
    learn_rate(static_cast<double>(group.came - came_landed), static_cast<double>(now - std::max(group.begun, last_landed)) / 1e9);
  last_landed = now;
  came_landed = group.came;
  landed = group.holds;
  fresh = connected = true;
  under_way = flying.size() < 2 ? 0 : flying[1].begun;
  count_flying();
  trouble = nullptr;
  reason.clear();
  if (partial) {
    trouble = "DEGRADED";
    trouble_exit = Exit::partial;
    reason = std::to_string(report.unreadable.size()) + " files could not be read: " + report.unreadable.front();
    next_cut = now + static_cast<std::int64_t>(settings.unreadable_s * 1e9);
    dirty = true;
  }
  ++counts.groups;
  counts.bytes += report.bytes_source;
  counts.bytes_wire += report.bytes_wire;
  if (carried_something(report)) {
    const double apply_s = counts.times[static_cast<std::size_t>(Stage::apply)];   // of the one before, until this one's is known
    counts.times = report.times;
    counts.bytes_of = report.bytes;
    counts.how = report.how;
    counts.times[static_cast<std::size_t>(Stage::group)] += static_cast<double>(group.own_ns) / 1e9;
    counts.times[static_cast<std::size_t>(Stage::apply)] = apply_s;
  }
  counts.sent_s = report.sent_s;
  counts.committed_s = report.committed_s;
  if (keeps_up && !leaving() && excused == 0) answers->begin();
  wake.notify_all();
  return {};
}

// Its tree shows what there was at the end of that epoch.
void Relation::Impl::shown(std::uint64_t epoch, std::uint64_t wanted) {
  Lock l(mutex);
  applied = epoch;
  decision = pace->decision();
  if (trouble == nullptr) next_cut = last_cut + static_cast<std::int64_t>(decision.interval_s * 1e9);
  sync_done = std::max(sync_done, wanted);
  wake.notify_all();
}

// What has its price whatever is in an epoch says nothing about bytes, and small ones little.
void Relation::Impl::learn_rate(double bytes, double took_s) {
  constexpr double kTelling = 256 << 10;
  fixed_s = std::min(fixed_s, took_s);
  if (bytes < kTelling) return;
  const double seen = bytes / std::max(took_s - fixed_s, took_s / 10);
  rate = rate == 0 ? seen : (rate + seen) / 2;
}

void Relation::Impl::too_late() {
  {
    Lock l(mutex);
    again = true;                                      // the next epoch tells whether it has caught up
    wake.notify_all();
  }
  log::warning("replication to {}: an answer waited for {}; until the mirror has caught up, none waits", printable(settings.target), seconds(settings.sync_timeout_s));
}

// What the pace is told. What this side does around an epoch, cutting and noting the acknowledgement, is part of its grouping.
void Relation::Impl::measure_sent(const MigrateReport& report, std::int64_t begun, std::int64_t own_ns) {
  if (!tells(report)) {
    last_cut = begun;
    return;
  }
  GroupDone done;
  done.bytes = report.bytes_source;
  done.opened_ns = last_cut != 0 ? last_cut : begun;
  done.closed_ns = last_cut = begun;
  done.now_ns = clock.mono_ns();
  std::copy_n(report.times.begin(), kFirstOfBackup, done.times.begin());
  done.times[static_cast<std::size_t>(Stage::group)] += static_cast<double>(own_ns) / 1e9;
  done.credits_in_use = static_cast<unsigned>(unanswered()) + 1;
  (void)pace->group_done(done);
}

void Relation::Impl::measure_acknowledged(const MigrateReport& report) {
  if (!tells(report)) return;
  Acknowledged acknowledged;
  acknowledged.bytes = report.bytes_source;
  acknowledged.now_ns = clock.mono_ns();
  acknowledged.round_trip_s = way_s;
  std::copy(report.times.begin() + kFirstOfBackup, report.times.end(), acknowledged.times.begin() + kFirstOfBackup);
  // The thread that makes an epoch durable applies it too before it looks at the next one: to the pace that is one lane.
  acknowledged.times[static_cast<std::size_t>(Stage::acknowledge)] += std::exchange(acknowledged.times[static_cast<std::size_t>(Stage::apply)], 0);
  (void)pace->acknowledged(acknowledged);
}

void Relation::Impl::note_trouble(const Error& error) {
  bool news = false;
  {
    Lock l(mutex);
    news = trouble == nullptr || reason != error.line();
    trouble = state_after(error);
    trouble_exit = error.exit;
    reason = error.line();
    ++counts.failures;
    wake.notify_all();
  }
  // Not under the lock, which the data path takes: the log may lie in the volume.
  if (news) log::warning("replication to {}: {}", printable(settings.target), error.line());
}

void Relation::Impl::back_off(const Error& error) {
  note_trouble(error);
  const bool person = error.exit == Exit::person;
  const double scatter = std::uniform_real_distribution<double>(0.75, 1.25)(random);
  const double wait_s = (person ? settings.decision_s : retry_s) * scatter;
  if (!person) retry_s = std::min(retry_s * 2, settings.last_retry_s);
  const auto until = std::chrono::steady_clock::now() + std::chrono::nanoseconds(static_cast<std::int64_t>(wait_s * 1e9));
  Lock l(mutex);
  const std::uint64_t wanted = sync_wanted;
  // Whoever asks for a sync now wants to know now.
  while (!leaving() && sync_wanted == wanted && std::chrono::steady_clock::now() < until) wake.wait_until(mutex, until);
}

Relation::Relation(Replicated& volume, std::unique_ptr<Connector> connector, RelationSettings settings, bool paused, const Clock& clock)
    : impl_(std::make_unique<Impl>(volume, std::move(connector), std::move(settings), paused, clock)) {
  impl_->thread = std::jthread([impl = impl_.get()] { impl->run(); });
}

Relation::~Relation() { end(); }

// Of a conversation that was cancelled.
void Relation::Impl::hang_up(const char* how) {
  if (*how != '\0') {
    const auto until = std::chrono::steady_clock::now() + kGoodbye;
    Lock l(mutex);
    while (greeted && wake.wait_until(mutex, until)) {}
  }
  connector->interrupt(true);
}

void Relation::end(const char* how) {
  {
    Lock l(impl_->mutex);
    impl_->stop = true;
    impl_->goodbye = how;
    impl_->cancel();
  }
  impl_->let_go();
  impl_->hang_up(how);
  if (impl_->thread.joinable()) impl_->thread.join();
}

void Relation::step_aside(bool aside) {
  if (aside) {
    {
      Lock l(impl_->mutex);
      ++impl_->aside;
      impl_->cancel();
    }
    impl_->let_go();
    impl_->connector->interrupt(true);
    Lock l(impl_->mutex);
    while (impl_->talking) impl_->wake.wait(impl_->mutex);
    return;
  }
  Lock l(impl_->mutex);
  --impl_->aside;
  impl_->wake.notify_all();
}

Status Relation::probe(Connector& connector, const Source& identity, const MigrateOptions& options, double seconds) {
  std::mutex m;
  std::condition_variable_any over;
  std::jthread patience([&](const std::stop_token& stop) {
    std::unique_lock l(m);
    if (!over.wait_for(l, stop, std::chrono::duration<double>(seconds), [&] { return stop.stop_requested(); })) connector.interrupt(true);
  });
  Status s;
  {
    SOMFS_TRY_ASSIGN(auto transport, connector.connect());
    Progress progress;
    Session session(*transport, progress);
    s = session.greet(identity, options, kProbe);
    if (s) session.bye();
  }
  const Status far = connector.finish();
  return !s && s.error().exit == Exit::link_down && !far ? far : s;
}

void Relation::changed() noexcept {
  Lock l(impl_->mutex);
  if (std::exchange(impl_->dirty, true)) return;
  impl_->wake.notify_all();
}

void Relation::pause(bool paused) {
  {
    Lock l(impl_->mutex);
    impl_->paused = paused;
    impl_->goodbye = paused ? kPaused : "";
    if (paused) impl_->cancel();
    impl_->trouble = nullptr;
    impl_->reason.clear();
    impl_->wake.notify_all();
  }
  if (!paused) return;
  impl_->let_go();
  impl_->hang_up(kPaused);
}

void Relation::excuse(bool on) {
  {
    Lock l(impl_->mutex);
    if (on) {
      ++impl_->excused;
    } else {
      --impl_->excused;
      impl_->again = true;   // answers wait again once an epoch has landed
      impl_->wake.notify_all();
    }
  }
  if (on) impl_->let_go();
}

std::chrono::nanoseconds Relation::slowdown(std::uint64_t bytes) const noexcept {
  Impl& i = *impl_;
  if (i.settings.mode != Mode::semi) return std::chrono::nanoseconds(0);
  // Of several at once the last one counts, which may not be the latest: it differs by what is under way.
  i.came.store(bytes, std::memory_order_relaxed);
  const std::int64_t now = i.clock.mono_ns();
  std::int64_t due = i.slowdown_due.load(std::memory_order_relaxed);
  if (now >= due && i.slowdown_due.compare_exchange_strong(due, now + kLagLook)) i.slowdown_ns.store(i.find_slowdown(now).count(), std::memory_order_relaxed);
  return std::chrono::nanoseconds(i.slowdown_ns.load(std::memory_order_relaxed));
}

std::chrono::nanoseconds Relation::Impl::find_slowdown(std::int64_t now) {
  std::uint64_t holds = 0, cut = 0;
  double to_send_s = 0;                                // until what has come up to now has landed
  {
    Lock l(mutex);
    if (leaving() || trouble != nullptr || !connected || !fresh) return std::chrono::nanoseconds(0);
    const std::uint64_t sent = counts.groups + (progress != nullptr ? progress->bytes + progress->files : 0);
    if (under_way == 0 || sent != taken) {
      taken = sent;
      taken_at = now;
    }
    if (now - taken_at > kStalled) return std::chrono::nanoseconds(0);
    holds = landed;
    cut = cut_epoch;
    if (rate > 0) {
      to_send_s = static_cast<double>(came.load(std::memory_order_relaxed) - came_at_cut) / rate;
      if (under_way != 0) to_send_s += std::max(0.0, static_cast<double>(came_at_cut - came_landed) / rate - static_cast<double>(now - under_way) / 1e9);
    }
  }
  auto age_s = [&](std::int64_t since) { return since == 0 ? 0 : static_cast<double>(clock.wall_ns() - since) / 1e9; };
  const double lag_s = age_s(volume.changed_since_ns(holds)), expected_s = age_s(volume.changed_since_ns(std::max(cut, holds))) + to_send_s;
  return slowdown_at(std::max(lag_s, expected_s), settings.lag_bound_s);
}

void Relation::attest(std::function<void()> answer) noexcept {
  if (impl_->answers && impl_->answers->holding()) {
    std::uint64_t landed = 0;
    {
      Lock l(impl_->mutex);
      landed = impl_->landed;
    }
    if (impl_->volume.changed_since_ns(landed) != 0 && impl_->answers->hold(answer)) return;
  }
  answer();
}

RelationStatus Relation::status() const {
  RelationStatus s;
  std::uint64_t landed = 0, applied = 0;
  bool fresh = false, partial = false;
  {
    Lock l(impl_->mutex);
    applied = impl_->applied;
    partial = impl_->trouble != nullptr && impl_->trouble_exit == Exit::partial;
    s = impl_->counts;
    s.in_flight = impl_->in_flight;
    s.backlog_bytes = impl_->backlog;
    s.decision = impl_->decision;
    s.reason = impl_->reason;
    landed = impl_->landed;
    fresh = impl_->fresh;
    const bool slow = impl_->under_way != 0 && impl_->clock.mono_ns() - impl_->under_way > kLong;
    if (impl_->paused) s.state = "PAUSED";
    else if (impl_->trouble != nullptr) s.state = impl_->trouble;
    else if (impl_->answers && impl_->answers->late()) {
      s.state = "DEGRADED";
      s.reason = "an answer waited for " + seconds(impl_->settings.sync_timeout_s) + ": until the mirror has caught up, none waits";
    } else if (!impl_->connected || slow || (impl_->answers && !impl_->answers->holding())) s.state = "CATCHING-UP";
    else s.state = "SYNCED";
    if (impl_->excused != 0 && impl_->answers && s.reason.empty()) s.reason = "a snapshot is being taken: until it is, no answer waits";
    if (impl_->answers) {
      s.holding = impl_->answers->holding();
      s.waiting = impl_->answers->waiting();
    }
    if (!impl_->connected && s.reason.empty()) s.reason = impl_->paused ? "" : impl_->progress == nullptr ? "connecting" : "comparing with the mirror";
    if (const Progress* p = impl_->progress; p != nullptr && impl_->under_way != 0 && s.reason.empty()) {
      const double silent_s = static_cast<double>(impl_->clock.mono_ns() - std::max(impl_->under_way, p->heard_ns.load())) / 1e9;
      if (silent_s > impl_->settings.silence_s) s.reason = "the mirror has said nothing for " + seconds(std::floor(silent_s)) + ": it is busy, or it hangs";
    }
    if (const Progress* p = impl_->progress; p != nullptr && impl_->under_way != 0 && p->bytes_total != 0)
      s.percent = std::min(100.0, 100.0 * static_cast<double>(p->bytes) / static_cast<double>(p->bytes_total));
  }
  s.slowdown_s = static_cast<double>(impl_->settings.mode == Mode::semi ? impl_->find_slowdown(impl_->clock.mono_ns()).count() : 0) / 1e9;
  // Somebody else may have brought it further while this stepped aside.
  s.epoch = std::max(landed, impl_->volume.acknowledged(impl_->settings.target));
  // Whoever else brought it further waited for its tree. The last of ours may be acknowledged and not applied.
  s.applied = applied == landed ? s.epoch : applied;
  auto age_s = [&](std::uint64_t epoch) {
    const std::int64_t since = impl_->volume.changed_since_ns(epoch);
    return since == 0 ? 0 : std::max(0.0, static_cast<double>(impl_->clock.wall_ns() - since) / 1e9);
  };
  if (fresh && !partial) {
    s.lag_s = age_s(s.epoch);
    s.applied_lag_s = std::max(s.lag_s, age_s(s.applied));
  }
  return s;
}

Status Relation::sync(double timeout_s, const std::function<bool()>& give_up) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::nanoseconds(static_cast<std::int64_t>(std::clamp(timeout_s, 0.0, 1e9) * 1e9));
  auto failed = [&](Exit exit, std::string why, std::string to_do) {
    return fail(exit, "not everything is at the mirror", printable(impl_->settings.target), std::move(why), std::move(to_do));
  };
  Lock l(impl_->mutex);
  const std::uint64_t ticket = ++impl_->sync_wanted, failures = impl_->counts.failures;
  impl_->wake.notify_all();
  ++impl_->waiting;
  struct Waited {
    unsigned& waiting;
    ~Waited() { --waiting; }
  } waited{impl_->waiting};
  while (impl_->sync_done < ticket) {
    if (impl_->stop) return fail(Exit::temporary, "the volume is being unmounted");
    if (impl_->paused) return failed(Exit::lag, "replication is paused", "somfs-ctl resume DIR");
    // What was held a moment ago may have been decided: it is asked again first.
    if (impl_->trouble != nullptr && impl_->trouble_exit == Exit::person && impl_->counts.failures != failures) return failed(Exit::person, impl_->reason, "decide it first");
    const auto now = std::chrono::steady_clock::now();
    if (now >= until)
      return impl_->trouble != nullptr ? failed(impl_->trouble_exit == Exit::link_down ? Exit::link_down : Exit::lag, impl_->reason, {})
                                       : failed(Exit::lag, "it did not get there in time", "give it longer with --timeout");
    impl_->wake.wait_until(impl_->mutex, std::min(until, now + std::chrono::milliseconds(200)));
    if (give_up && give_up()) return fail(Exit::interrupted, "interrupted");
  }
  if (impl_->trouble != nullptr && impl_->trouble_exit == Exit::partial) return failed(Exit::partial, impl_->reason, {});
  return {};
}

}  // namespace somfs::replicator
