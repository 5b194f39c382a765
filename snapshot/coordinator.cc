// SPDX-License-Identifier: Apache-2.0
#include "snapshot/coordinator.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <utility>

#include "common/sync.h"

namespace somfs::snapshot {
namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kGrace = 250 * kMs;        // past its deadline, so that a writer's own reason is heard
constexpr std::int64_t kLeastRelease = 5000 * kMs;  // for releasing, however little of the time-out is left

double ms_between(std::int64_t from, std::int64_t to) { return static_cast<double>(to - from) / kMs; }

std::string reason_of(std::exception_ptr e) {
  try {
    std::rethrow_exception(e);
  } catch (const std::exception& x) {
    return x.what();
  } catch (...) {
    return "an unknown exception";
  }
}

const char* word(WriterReport::Answer a) {
  switch (a) {
    case WriterReport::Answer::ready: return "is ready";
    case WriterReport::Answer::veto: return "vetoed the snapshot";
    case WriterReport::Answer::timeout: return "was not ready in time";
    case WriterReport::Answer::failed: return "failed";
    case WriterReport::Answer::skipped: break;
  }
  return "was not asked";
}

// Runs `call` on a thread of its own and waits for it until `by`. False: it is still running and abandoned; `late` runs on that thread
// when it comes back. Both own all they use and do not throw.
bool within(std::int64_t by, const Clock& clock, std::function<void()> call, std::function<void()> late) {
  struct Shared {
    Mutex mutex;
    CondVar changed;
    bool done GUARDED_BY(mutex) = false;
    bool abandoned GUARDED_BY(mutex) = false;
  };
  auto shared = std::make_shared<Shared>();
  std::thread thread([shared, call = std::move(call), late = std::move(late)] {
    call();
    bool too_late;
    {
      Lock l(shared->mutex);
      shared->done = true;
      too_late = shared->abandoned;
      shared->changed.notify_all();
    }
    if (too_late) late();
  });
  bool done;
  {
    Lock l(shared->mutex);
    while (!shared->done) {
      const std::int64_t left = by - clock.mono_ns();
      if (left <= 0) break;
      shared->changed.wait_until(shared->mutex, std::chrono::steady_clock::now() + std::chrono::nanoseconds(left));
    }
    done = shared->done;
    shared->abandoned = !done;
  }
  if (done)
    thread.join();
  else
    thread.detach();
  return done;
}

// A writer, and whether it was asked and not yet released; an abandoned call keeps it busy until it comes back.
struct Slot {
  std::shared_ptr<Writer> writer;
  std::atomic<bool> busy{false};
};
using Slots = std::vector<std::shared_ptr<Slot>>;

// `to_release`: it came back, whatever it answered, and has to be released; it is `busy` until then.
WriterReport ask(const std::shared_ptr<Slot>& slot, const CutRequest& request, std::int64_t deadline, const Clock& clock,
                 bool* to_release) {
  WriterReport report;
  report.name = slot->writer->name();
  *to_release = false;
  if (slot->busy.exchange(true)) {
    report.answer = WriterReport::Answer::failed;
    report.reason = "still busy with an earlier snapshot";
    return report;
  }
  auto answer = std::make_shared<WriterReport>(report);
  const std::int64_t start = clock.mono_ns();
  bool in_time = within(
      deadline + kGrace, clock,
      [slot, request, deadline, answer] {
        try {
          slot->writer->announce(request);
          *answer = slot->writer->prepare(deadline);
        } catch (...) {
          answer->answer = WriterReport::Answer::failed;
          answer->reason = reason_of(std::current_exception());
        }
      },
      [slot, &clock] {
        slot->writer->release(false, clock.mono_ns() + kLeastRelease);
        slot->busy = false;
      });
  if (in_time) {
    *to_release = true;
    answer->name = report.name;
    report = *answer;
  } else {
    report.answer = WriterReport::Answer::timeout;
    report.reason = "it does not answer";
  }
  report.prepare_ms = ms_between(start, clock.mono_ns());
  return report;
}

tl::unexpected<Error> not_held(const CutRequest& request, Held::Why why) {
  const auto veto = [&](std::string reason) {
    return fail(Exit::veto, "cannot take snapshot", request.name, std::move(reason), "try again when the volume is less busy");
  };
  switch (why) {
    case Held::in_flight: return veto("operations in progress did not end within " + std::to_string(request.drain_ms) + " ms");
    case Held::too_long: return veto("it was not complete when operations had waited for " + std::to_string(request.hold_ms) + " ms");
    case Held::too_many: return veto("it was not complete when too many operations waited");
    case Held::ending: return fail(Exit::temporary, "cannot take snapshot", request.name, "the mount is ending", "mount the volume and run it again");
    case Held::held:
    case Held::other: break;
  }
  return veto("operations are held for another one");
}

}  // namespace

struct Coordinator::Impl {
  Impl(Freezer& f, CutActions a, const Clock& c) : freezer(f), actions(std::move(a)), clock(c) {}

  Freezer& freezer;
  const CutActions actions;
  const Clock& clock;

  mutable Mutex mutex;
  bool running GUARDED_BY(mutex) = false;
  const char* state GUARDED_BY(mutex) = "idle";
  Slots slots GUARDED_BY(mutex);
  std::vector<WriterReport> last GUARDED_BY(mutex);
  Histogram freezes GUARDED_BY(mutex);

  void enter(const char* next) {
    Lock l(mutex);
    state = next;
  }
  Result<CutReport> run(const CutRequest& request, const Slots& writers);
  Status ask_all(const CutRequest& request, const Slots& writers, std::int64_t by, CutReport& report, Slots& asked);
  Status flush(const CutRequest& request, std::int64_t by, CutReport& report);
  Status make_cut(const CutRequest& request, CutReport& report);
  Result<bool> cut_while_quiet(const CutRequest& request, CutReport& report);
  void release_all(const Slots& asked, bool took_place, std::int64_t by, CutReport& report);
};

Coordinator::Coordinator(Freezer& freezer, CutActions actions, const Clock& clock)
    : impl_(std::make_unique<Impl>(freezer, std::move(actions), clock)) {}

Coordinator::~Coordinator() = default;

void Coordinator::set_writers(std::vector<std::shared_ptr<Writer>> writers) {
  Slots slots;
  for (auto& w : writers) {
    slots.push_back(std::make_shared<Slot>());
    slots.back()->writer = std::move(w);
  }
  Lock l(impl_->mutex);
  impl_->slots = std::move(slots);
}

Result<CutReport> Coordinator::cut(const CutRequest& request) {
  Slots writers;
  {
    Lock l(impl_->mutex);
    if (impl_->running) return fail(Exit::locked, "cannot take snapshot", request.name, "another one is being taken", "try again");
    impl_->running = true;
    writers = impl_->slots;
  }
  Result<CutReport> result = impl_->run(request, writers);
  Lock l(impl_->mutex);
  impl_->running = false;
  impl_->state = "idle";
  return result;
}

Histogram Coordinator::freezes() const {
  Lock l(impl_->mutex);
  return impl_->freezes;
}

std::string Coordinator::state() const {
  Lock l(impl_->mutex);
  return impl_->state;
}

std::vector<WriterReport> Coordinator::last_writers() const {
  Lock l(impl_->mutex);
  return impl_->last;
}

Result<CutReport> Coordinator::Impl::run(const CutRequest& request, const Slots& writers) {
  const std::int64_t start = clock.mono_ns();
  const auto allowed = static_cast<std::int64_t>(std::clamp(request.timeout_s, 0.0, 86400.0) * 1e9);
  CutReport report;
  report.consistency = !request.writers || writers.empty() ? "crash" : "application";
  Slots asked;
  bool prepared = false;

  // The store comes first: a name that cannot be used disturbs no application.
  enter("preparing");
  Status done;
  try {
    done = actions.prepare_store(request);
    prepared = done.has_value();
    if (done) done = ask_all(request, writers, start + allowed / 2, report, asked);
    if (done) done = flush(request, start + allowed / 4 * 3, report);
    if (done && clock.mono_ns() >= start + allowed)
      done = fail(Exit::veto, "gave up snapshot", request.name, "preparing it took longer than its time-out");
    if (done) done = make_cut(request, report);
  } catch (...) {
    done = fail(Exit::temporary, "cannot take snapshot", request.name, reason_of(std::current_exception()));
  }
  enter("releasing");
  if (!done && prepared) {
    try {
      actions.cancel(request.name);
    } catch (...) {
      done = fail(Exit::temporary, "cannot cancel snapshot", request.name, reason_of(std::current_exception()));
    }
  }
  release_all(asked, done.has_value(), std::max(start + allowed, clock.mono_ns() + kLeastRelease), report);
  if (request.writers) {
    Lock l(mutex);
    last = report.writers;
  }
  if (!done) return pass_on(std::move(done).error());
  report.total_ms = ms_between(start, clock.mono_ns());
  return report;
}

// `asked` grows with the report, one for one; null where there is nothing to release.
Status Coordinator::Impl::ask_all(const CutRequest& request, const Slots& writers, std::int64_t by, CutReport& report,
                                  Slots& asked) {
  if (!request.writers) return {};
  Status verdict;
  for (const auto& slot : writers) {
    WriterReport answer;
    answer.name = slot->writer->name();
    bool to_release = false;
    const bool wanted = verdict.has_value() || request.crash_consistent;
    if (wanted) answer = ask(slot, request, by, clock, &to_release);
    asked.push_back(to_release ? slot : nullptr);
    if (wanted && answer.answer != WriterReport::Answer::ready) {
      report.consistency = "crash";
      if (verdict)
        verdict = fail(Exit::veto, "no snapshot: writer", answer.name, word(answer.answer) + (": " + answer.reason),
                       "or take it with --crash-consistent");
    }
    report.writers.push_back(std::move(answer));
  }
  if (request.crash_consistent) return {};
  return verdict;
}

Status Coordinator::Impl::flush(const CutRequest& request, std::int64_t by, CutReport& report) {
  if (!actions.barrier || !request.flush) return {};
  enter("flushing");
  Status flushed = actions.barrier(by);
  if (flushed || !request.crash_consistent) return flushed;
  report.consistency = "crash";
  return {};
}

// A cut without closing anything, for a volume where nothing happens. False: something did happen, nothing was taken.
Result<bool> Coordinator::Impl::cut_while_quiet(const CutRequest& request, CutReport& report) {
  if (!actions.quiet || !actions.quiet()) return false;
  report.epoch = actions.rotate();
  SOMFS_TRY(actions.take(request.name, report.epoch));
  if (actions.quiet()) return true;
  actions.cancel(request.name);
  SOMFS_TRY(actions.prepare_store(request));
  return false;
}

Status Coordinator::Impl::make_cut(const CutRequest& request, CutReport& report) {
  SOMFS_TRY_ASSIGN(const bool taken, cut_while_quiet(request, report));
  report.frozen = !taken;
  if (taken) return {};

  enter("frozen");
  const std::int64_t closed = clock.mono_ns();
  if (const Held frozen = freezer.freeze(request.drain_ms, request.hold_ms); !frozen) return not_held(request, frozen.why);
  Status done;
  try {
    report.epoch = actions.rotate();
    done = actions.take(request.name, report.epoch);
  } catch (...) {
    done = fail(Exit::temporary, "cannot take snapshot", request.name, reason_of(std::current_exception()));
  }
  const Held held = freezer.thaw();
  report.freeze_ms = ms_between(closed, clock.mono_ns());
  {
    Lock l(mutex);
    freezes.add(report.freeze_ms);
  }
  if (done && !held) return not_held(request, held.why);
  return done;
}

void Coordinator::Impl::release_all(const Slots& asked, bool took_place, std::int64_t by, CutReport& report) {
  for (std::size_t i = asked.size(); i-- > 0;) {
    const std::shared_ptr<Slot>& slot = asked[i];
    if (!slot) continue;
    const std::int64_t start = clock.mono_ns();
    bool in_time = within(by + kGrace, clock, [slot, took_place, by] { slot->writer->release(took_place, by); },
                          [slot] { slot->busy = false; });
    if (in_time) slot->busy = false;
    report.writers[i].release_ms = ms_between(start, clock.mono_ns());
  }
}

}  // namespace somfs::snapshot
