// SPDX-License-Identifier: Apache-2.0
#include "replicator/forward.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <random>
#include <sstream>
#include <thread>
#include <utility>

#include "common/log.h"
#include "common/printable.h"
#include "common/sync.h"
#include "replicator/migration.h"
#include "replicator/sign_of_life.h"

namespace somfs::replicator {
namespace {

using std::chrono::steady_clock;

constexpr auto kLook = std::chrono::milliseconds(500);   // whether the conversation still stands, while there is nothing to say
constexpr double kLongestRest = 600;                     // seconds, between comparisons that fail
constexpr std::size_t kTouchedBytes = 256u << 20;        // memory for what is known to have been touched; beyond it all is compared by content

steady_clock::duration seconds(double s) { return std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(s)); }

const char* state_after(const Error& e) { return e.exit == Exit::person ? e.what.starts_with("held") ? "HELD" : "SPLIT" : "DEGRADED"; }

Source origin_of(const Standing& s) {
  Source source;
  source.volume = s.volume;
  source.generation = s.at.generation;
  source.ancestors = s.ancestors;
  std::istringstream lines(s.excludes);
  for (std::string line; std::getline(lines, line);) source.excludes.push_back(line);
  return source;
}

// What was said in the greeting still holds.
bool same_lineage(const Standing& a, const Standing& b) {
  return a.mirror == b.mirror && a.volume == b.volume && a.at.generation == b.at.generation && a.ancestors == b.ancestors;
}

bool has_something(const Standing& s) { return s.volume && s.at.epoch != 0 && !s.foreign; }

}  // namespace

struct Forward::Impl {
  Impl(std::shared_ptr<Forwarded> v, std::unique_ptr<Connector> c, ForwardSettings s)
      : volume(std::move(v)), connector(std::move(c)), settings(std::move(s)), spool(volume->spool()), reader(spool.enlist()) {}

  void run();
  std::optional<Standing> wait_for_something();
  Status follow(const Standing& as);
  Status converse(Session& session, const Standing& as, Progress& talk);
  Status send(Session& session, const Spool::Link& link);
  Status compare(Session& session, const Standing& as, Progress& talk);
  void look();
  void arrived(const Position& there);
  void back_off(const Error& error);
  bool refuses(const Error& error);
  MigrateOptions options(const Standing& as) const {
    MigrateOptions o;
    o.brake_share = settings.brake_share;
    o.host = settings.host.empty() || as.host.empty() ? as.host + settings.host : as.host + " by " + settings.host;
    o.volume_name = settings.volume_name;
    return o;
  }

  const std::shared_ptr<Forwarded> volume;
  const std::unique_ptr<Connector> connector;
  const ForwardSettings settings;
  Spool& spool;
  const int reader;

  // Of the thread alone.
  Distrust distrust = Distrust::nothing;
  double retry_s = 0, stood_still_s = 0;
  std::uint64_t seen = 0;                              // of the spool's news
  steady_clock::time_point next_look{};
  std::minstd_rand random{std::random_device{}()};

  std::atomic<bool> stop{false};
  mutable Mutex mutex;
  CondVar wake;
  Progress* progress GUARDED_BY(mutex) = nullptr;      // of the conversation
  bool comparing GUARDED_BY(mutex) = false;
  ForwardStatus now GUARDED_BY(mutex);
  std::jthread thread;                                 // last: it uses everything above
};

void Forward::Impl::run() {
  retry_s = settings.first_retry_s;
  while (!stop) {
    const auto standing = wait_for_something();
    if (!standing) return;
    connector->interrupt(false);
    if (stop) return;   // an end that came before this; a later one interrupts again
    Status s = follow(*standing);
    const Status far = connector->finish();
    if (stop) return;
    if (!s) back_off(s.error().exit == Exit::link_down && !far ? far.error() : s.error());
  }
}

void Forward::Impl::look() {
  const auto at = steady_clock::now();
  if (at < next_look) return;
  next_look = at + seconds(settings.look_s);
  if (Status s = volume->look(); !s && s.error().exit != Exit::locked && !spool.standing()) {
    Lock l(mutex);
    now.state = "DEGRADED";
    now.reason = s.error().line();
  }
}

std::optional<Standing> Forward::Impl::wait_for_something() {
  while (!stop) {
    const auto standing = spool.standing();
    if (standing && has_something(*standing)) return standing;
    if (standing) {
      Lock l(mutex);
      now.state = "CATCHING-UP";
      now.reason = standing->volume ? "the catalog here was built anew: nothing is forwarded before the next epoch" : "nothing has been committed here so far";
    }
    look();
    spool.wait(&seen, steady_clock::now() + kLook);
  }
  return std::nullopt;
}

Status Forward::Impl::follow(const Standing& as) {
  SOMFS_TRY_ASSIGN(auto transport, connector->connect());
  Progress talk;
  talk.totals = true;
  {
    Lock l(mutex);
    progress = &talk;
    if (stop) talk.cancelled = true;
  }
  struct Forget {
    Impl& impl;
    ~Forget() {
      Lock l(impl.mutex);
      impl.progress = nullptr;
    }
  } forget{*this};
  InTurn in_turn(std::move(transport));
  SignOfLife life(in_turn);
  Session session(in_turn, talk);
  SOMFS_TRY(session.greet(origin_of(as), options(as), kReplicate));
  if (session.welcome().mirror == as.mirror) return fail(Exit::configuration, "cannot forward to", printable(settings.target), "it is this very mirror");
  if (settings.alive_s > 0) life.begin(settings.alive_s);
  const Status done = converse(session, as, talk);
  if (done) session.bye();
  return done;
}

Status Forward::Impl::converse(Session& session, const Standing& as, Progress& talk) {
  const Welcome& welcome = session.welcome();
  arrived({welcome.epoch, welcome.generation});
  if (session.held()) return fail(Exit::person, "held at the mirror", printable(settings.target), "an epoch waits for a decision");
  while (!stop) {
    const auto here = spool.standing();
    if (!here || !has_something(*here) || !same_lineage(*here, as)) return {};
    const Position there{welcome.epoch, welcome.generation};
    if (session.broken()) return fail(Exit::link_down, "the mirror went away", printable(settings.target));
    const bool synced = there == here->at && !welcome.foreign_tree;
    {
      Lock l(mutex);
      now.state = synced ? "SYNCED" : "CATCHING-UP";
      now.reason.clear();
      now.committed = here->at.epoch;
    }
    if (synced) {
      retry_s = settings.first_retry_s;
      look();
      spool.wait(&seen, steady_clock::now() + kLook);
      continue;
    }
    const auto link = spool.after(there);
    if (link && spool.whole_from(there) && distrust == Distrust::nothing && !welcome.foreign_tree) {
      SOMFS_TRY(send(session, *link));
    } else if (there.generation == here->at.generation && there.epoch > here->at.epoch) {
      return fail(Exit::temporary, "the next mirror is ahead of this one", printable(settings.target),
                  "it holds epoch " + std::to_string(there.epoch) + ", this one " + std::to_string(here->at.epoch));
    } else {
      SOMFS_TRY(compare(session, as, talk));
    }
  }
  return {};
}

// What it does not know it may take when less is believed to be common ground.
bool Forward::Impl::refuses(const Error& error) {
  if (error.exit != Exit::temporary || distrust == Distrust::ids) return false;
  distrust = static_cast<Distrust>(static_cast<int>(distrust) + 1);
  return true;
}

Status Forward::Impl::send(Session& session, const Spool::Link& link) {
  auto epoch = spool.open(link);
  if (!epoch) {   // thinned meanwhile, or damaged
    spool.damaged(link);
    return {};
  }
  bool broken = false;
  auto report = session.relay(epoch->head().begin, [&]() -> Result<std::optional<std::string>> {
    auto batch = epoch->next();
    broken = !batch;
    return batch;
  });
  if (broken) spool.damaged(link);
  else if (!report) (void)refuses(report.error());
  SOMFS_TRY(report);
  if (report->held) return fail(Exit::person, "held at the mirror", printable(settings.target), report->held_reason);
  {
    Lock l(mutex);
    ++now.epochs;
  }
  retry_s = settings.first_retry_s;
  arrived(link.to);
  return {};
}

Status Forward::Impl::compare(Session& session, const Standing& as, Progress& talk) {
  struct StandingStill {
    Impl& impl;
    steady_clock::time_point since = steady_clock::now();
    explicit StandingStill(Impl& i) : impl(i) { tell(true); }
    ~StandingStill() {
      tell(false);
      impl.stood_still_s = std::chrono::duration<double>(steady_clock::now() - since).count();
    }
    void tell(bool on) {
      Lock l(impl.mutex);
      impl.comparing = impl.now.standing_still = on;
      if (on) impl.now.reason = "it is compared with this mirror, which stands still for as long";
    }
  };
  auto stands = volume->stand_still([this, &session] { return stop.load() || session.broken(); });
  if (!stands && stands.error().exit == Exit::interrupted && session.broken()) return fail(Exit::link_down, "the mirror went away", printable(settings.target));
  SOMFS_TRY_ASSIGN(auto still, std::move(stands));
  const StandingStill quiet(*this);
  const Standing here = still->mirror().standing();
  const Position there{session.welcome().epoch, session.welcome().generation};
  if (!has_something(here) || !same_lineage(here, as) || (here.at == there && !session.welcome().foreign_tree)) return {};
  Source source = origin_of(here);
  source.base_epoch = std::min(there.epoch, here.at.epoch);
  source.epoch = here.at.epoch;
  source.gap = true;
  // Times prove little here: what was changed within a tick of a cut has the same ones before and after it. So either it is known what was touched,
  // or everything is read.
  snapshot::DirtySet touched(snapshot::DirtySet::Bounds{.bytes = kTouchedBytes});
  if (there.generation == here.at.generation && spool.touched(there, &touched)) source.dirty = std::move(touched);
  else source.compare_content = true;
  const auto tree = still->mirror().tree();
  auto report = session.land(*tree, source, options(here), distrust);
  talk.phase = "";
  if (!report) {
    (void)refuses(report.error());
    return pass_on(std::move(report).error());
  }
  if (report->held) return fail(Exit::person, "held at the mirror", printable(settings.target), report->held_reason);
  distrust = Distrust::nothing;
  retry_s = settings.first_retry_s;
  {
    Lock l(mutex);
    ++now.comparisons;
  }
  arrived(here.at);
  return {};
}

void Forward::Impl::arrived(const Position& there) {
  spool.stands(reader, there);
  Lock l(mutex);
  now.epoch = there.epoch;
}

void Forward::Impl::back_off(const Error& error) {
  bool news = false;
  {
    Lock l(mutex);
    news = now.reason != error.line();
    now.state = state_after(error);
    now.reason = error.line();
    ++now.failures;
  }
  if (news) log::warning("forwarding to {}: {}", printable(settings.target), error.line());
  const bool person = error.exit == Exit::person;
  double wait_s = (person ? settings.decision_s : retry_s) * std::uniform_real_distribution<double>(0.75, 1.25)(random);
  // Whoever writes to this mirror gets as much of it as the attempt took.
  wait_s = std::max(wait_s, std::min(std::exchange(stood_still_s, 0), kLongestRest));
  if (!person) retry_s = std::min(retry_s * 2, settings.last_retry_s);
  const auto until = steady_clock::now() + seconds(wait_s);
  Lock l(mutex);
  while (!stop && steady_clock::now() < until) wake.wait_until(mutex, until);
}

Forward::Forward(std::shared_ptr<Forwarded> volume, std::unique_ptr<Connector> connector, ForwardSettings settings)
    : impl_(std::make_unique<Impl>(std::move(volume), std::move(connector), std::move(settings))) {
  impl_->thread = std::jthread([impl = impl_.get()] { impl->run(); });
}

Forward::~Forward() { end(); }

void Forward::end() {
  {
    Lock l(impl_->mutex);
    impl_->stop = true;
    if (impl_->progress != nullptr) impl_->progress->cancelled = true;
    impl_->wake.notify_all();
  }
  impl_->connector->interrupt(true);
  impl_->spool.wake();
  if (impl_->thread.joinable()) impl_->thread.join();
}

ForwardStatus Forward::status() const {
  const auto here = impl_->spool.standing();
  Lock l(impl_->mutex);
  ForwardStatus s = impl_->now;
  if (here) s.committed = here->at.epoch;
  if (impl_->comparing && impl_->progress != nullptr) {
    const std::uint64_t total = impl_->progress->bytes_total != 0 ? impl_->progress->bytes_total.load() : impl_->progress->files_total.load();
    const std::uint64_t done = impl_->progress->bytes_total != 0 ? impl_->progress->bytes.load() : impl_->progress->files.load();
    if (total != 0) s.percent = 100.0 * static_cast<double>(std::min(done, total)) / static_cast<double>(total);
  }
  return s;
}

}  // namespace somfs::replicator
