// SPDX-License-Identifier: Apache-2.0
#include "replicator/relation.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <random>
#include <thread>

#include "common/log.h"
#include "common/printable.h"
#include "common/sync.h"
#include "replicator/held_answers.h"
#include "replicator/migration.h"

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
constexpr auto kLook = std::chrono::milliseconds(500);  // whether the conversation still stands, while there is nothing to say

std::chrono::steady_clock::time_point at(std::int64_t mono_ns) { return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(mono_ns)); }

std::string seconds(double s) {
  char b[32];
  std::snprintf(b, sizeof b, "%g s", s);
  return b;
}

const char* state_after(const Error& e) {
  return e.exit == Exit::person ? e.what.starts_with("held") ? "HELD" : "SPLIT" : "DEGRADED";
}

// One sender at a time, whoever sends.
class InTurn final : public Transport {
 public:
  explicit InTurn(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}
  Status send(Message message) override {
    Lock l(mutex_);
    return transport_->send(std::move(message));
  }
  Result<Message> receive() override { return transport_->receive(); }
  void close() noexcept override { transport_->close(); }
  std::uint64_t bytes_sent() const override { return transport_->bytes_sent(); }
  std::uint64_t bytes_received() const override { return transport_->bytes_received(); }
  StageSums stages() const override { return transport_->stages(); }

 private:
  const std::unique_ptr<Transport> transport_;
  Mutex mutex_;
};

// Tells the mirror every few seconds that the source lives, for as long as the conversation does. Made before whatever closes the transport.
class SignOfLife {
 public:
  explicit SignOfLife(Transport& transport) : transport_(transport) {}
  void begin(double every_s) {
    thread_ = std::jthread([this, every = std::chrono::duration<double>(every_s)](const std::stop_token& stop) {
      std::unique_lock l(mutex_);
      while (!over_.wait_for(l, stop, every, [&] { return stop.stop_requested(); }) && !stop.stop_requested())
        if (!transport_.send({MessageType::alive, {}})) return;
    });
  }

 private:
  Transport& transport_;
  std::mutex mutex_;
  std::condition_variable_any over_;
  std::jthread thread_;   // last: it uses everything above
};

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
  Status land(Session& session, Progress& progress);
  bool wait_while_paused();
  enum class Next { cut, leave, broken };
  Next wait_for_work(const Session& session, bool first);
  void back_off(const Error& error);
  void note_trouble(const Error& error);
  void measure(const MigrateReport& report, std::int64_t begun, std::int64_t own_ns);
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
  unsigned vetoes = 0;                                 // in a row
  std::minstd_rand random{std::random_device{}()};

  mutable Mutex mutex;
  CondVar wake;
  std::uint64_t landed GUARDED_BY(mutex) = 0;          // by this relation: the epoch whose end the mirror holds
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
  std::uint64_t came_at_cut GUARDED_BY(mutex) = 0, came_before_cut GUARDED_BY(mutex) = 0;   // ... at the last one, and the one before
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
  Session session(in_turn, talk);
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
  for (bool first = true;; first = false) {
    switch (wait_for_work(session, first)) {
      case Next::leave: return {};
      case Next::broken: return fail(Exit::link_down, "the mirror went away", printable(settings.target));
      case Next::cut: break;
    }
    SOMFS_TRY(land(session, talk));
  }
}

Relation::Impl::Next Relation::Impl::wait_for_work(const Session& session, bool first) {
  Lock l(mutex);
  for (;;) {
    if (leaving()) return Next::leave;
    if (first) return Next::cut;
    const std::int64_t now = clock.mono_ns();
    const bool asked = again || (sync_wanted > sync_done && waiting != 0) || (answers && answers->waiting() != 0);
    if (asked && (vetoes == 0 || now >= next_cut)) return Next::cut;
    if (dirty) {
      if (now >= next_cut) return Next::cut;
      wake.wait_until(mutex, at(next_cut));
    } else if (!wake.wait_until(mutex, std::chrono::steady_clock::now() + kLook) && session.broken()) {
      return Next::broken;
    }
  }
}

Status Relation::Impl::land(Session& session, Progress& talk) {
  std::uint64_t wanted = 0, newest = 0;
  const std::int64_t begun = clock.mono_ns();
  {
    Lock l(mutex);
    wanted = sync_wanted;
    newest = answers ? answers->newest() : 0;          // before the cut: what waits later may not be covered
    again = false;
    dirty = false;                                     // before the cut: what comes after it says so again
    under_way = begun;
  }
  const std::uint64_t came_now = came.load(std::memory_order_relaxed);
  talk.phase = "snapshot";
  auto instant = volume.cut(settings.target);
  const std::int64_t cut_done = clock.mono_ns();
  if (!instant) {
    if (instant.error().exit == Exit::veto && vetoes + 1 >= kManyVetoes) let_go();
    Lock l(mutex);
    dirty = true;
    under_way = 0;
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
  {
    Lock l(mutex);
    cut_epoch = (*instant)->epoch();
    came_before_cut = std::exchange(came_at_cut, came_now);
  }
  SOMFS_TRY_ASSIGN(Source source, (*instant)->source());
  auto report = session.land((*instant)->tree(), source, settings.options, distrust);
  if (!report) {
    // The mirror refused what it does not know. With less trust in what both sides seem to have in common it may work.
    if (report.error().exit == Exit::temporary && distrust != Distrust::ids) distrust = static_cast<Distrust>(static_cast<int>(distrust) + 1);
    return pass_on(std::move(report).error());
  }
  if (report->held) return fail(Exit::person, "held at the mirror", printable(settings.target), report->held_reason);
  const std::int64_t landed_at = clock.mono_ns();
  SOMFS_TRY((*instant)->acknowledge(report->mirror, report->epoch));
  distrust = Distrust::nothing;
  retry_s = settings.first_retry_s;
  const std::int64_t now = clock.mono_ns();
  measure(*report, begun, cut_done - begun + now - landed_at);

  const std::uint64_t epoch = (*instant)->epoch();
  const bool partial = !report->unreadable.empty();
  // Who had to wait for too long waits again once the mirror keeps up: it holds everything, or the next answers would be in time.
  const bool keeps_up = answers && !partial && (volume.changed_since_ns(epoch) == 0 || static_cast<double>(now - begun) < settings.sync_timeout_s * 1e9 / 2);
  {
    Lock l(mutex);
    if (settings.mode == Mode::semi && fresh) learn_rate(static_cast<double>(came_at_cut - came_before_cut), static_cast<double>(now - begun) / 1e9);
    landed = epoch;
    fresh = connected = true;
    under_way = 0;
    decision = pace->decision();
    next_cut = begun + static_cast<std::int64_t>(decision.interval_s * 1e9);
    sync_done = std::max(sync_done, wanted);
    trouble = nullptr;
    reason.clear();
    if (partial) {
      trouble = "DEGRADED";
      trouble_exit = Exit::partial;
      reason = std::to_string(report->unreadable.size()) + " files could not be read: " + report->unreadable.front();
      next_cut = now + static_cast<std::int64_t>(settings.unreadable_s * 1e9);
      dirty = true;
    }
    ++counts.groups;
    counts.bytes += report->bytes_source;
    counts.bytes_wire += report->bytes_wire;
    counts.times = report->times;
    counts.times[static_cast<std::size_t>(Stage::group)] += static_cast<double>(cut_done - begun + now - landed_at) / 1e9;
    counts.sent_s = report->sent_s;
    counts.committed_s = report->committed_s;
    if (keeps_up && !leaving() && excused == 0) answers->begin();
    wake.notify_all();
  }
  if (answers) answers->landed(newest);
  if (partial) let_go();
  return {};
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
void Relation::Impl::measure(const MigrateReport& report, std::int64_t begun, std::int64_t own_ns) {
  GroupDone done;
  done.bytes = report.bytes_source;
  done.opened_ns = last_cut != 0 ? last_cut : begun;
  done.closed_ns = last_cut = begun;
  done.now_ns = clock.mono_ns();
  std::copy_n(report.times.begin(), kFirstOfBackup, done.times.begin());
  done.times[static_cast<std::size_t>(Stage::group)] += static_cast<double>(own_ns) / 1e9;
  done.credits_in_use = 1;
  (void)pace->group_done(done);
  Acknowledged acknowledged;
  acknowledged.bytes = report.bytes_source;
  acknowledged.now_ns = done.now_ns;
  std::copy(report.times.begin() + kFirstOfBackup, report.times.end(), acknowledged.times.begin() + kFirstOfBackup);
  // The mirror applies before it answers: to the pace that is one lane.
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
    s = session.greet(identity, options);
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
      if (under_way != 0) to_send_s += std::max(0.0, static_cast<double>(came_at_cut - came_before_cut) / rate - static_cast<double>(now - under_way) / 1e9);
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
  std::uint64_t landed = 0;
  bool fresh = false, partial = false;
  {
    Lock l(impl_->mutex);
    partial = impl_->trouble != nullptr && impl_->trouble_exit == Exit::partial;
    s = impl_->counts;
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
    if (const Progress* p = impl_->progress; p != nullptr && impl_->under_way != 0 && p->bytes_total != 0)
      s.percent = std::min(100.0, 100.0 * static_cast<double>(p->bytes) / static_cast<double>(p->bytes_total));
  }
  s.slowdown_s = static_cast<double>(impl_->settings.mode == Mode::semi ? impl_->find_slowdown(impl_->clock.mono_ns()).count() : 0) / 1e9;
  // Somebody else may have brought it further while this stepped aside.
  s.epoch = landed = std::max(landed, impl_->volume.acknowledged(impl_->settings.target));
  if (fresh && !partial) {
    const std::int64_t since = impl_->volume.changed_since_ns(landed);
    s.lag_s = since == 0 ? 0 : std::max(0.0, static_cast<double>(impl_->clock.wall_ns() - since) / 1e9);
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
