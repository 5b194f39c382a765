// SPDX-License-Identifier: Apache-2.0
// The coordinator (SOM-14): requester → writers prepare → flush → freeze → snapshot → thaw → writers release.
// A state machine with time-outs, veto and abort; whatever happens, what was prepared is released and what was frozen is thawed.
// Portable core: the C++ standard library alone; the parts it drives are interfaces.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/change.h"
#include "common/clock.h"
#include "common/result.h"

namespace somfs::snapshot {

struct WriterReport {
  std::string name;
  enum class Answer { ready, veto, timeout, failed, skipped } answer = Answer::skipped;
  std::string reason;       // in words, for the person at the terminal
  double prepare_ms = 0, release_ms = 0;
};

struct CutRequest {
  std::string name;
  bool crash_consistent = false;   // go on without writers that veto, time out or fail
  bool writers = true;             // false: none is asked
  bool flush = true;               // false: what applications have not handed over yet (dirty mappings) is not part of it
  double timeout_s = 30;           // the whole procedure
  unsigned drain_ms = 500, hold_ms = 1000;
  int requester_pid = 0;           // who asked, where it is a process: never frozen by a writer
};

// Makes one application consistent. Every call is bounded by its deadline; a writer that hangs is killed, never waited for.
class Writer {
 public:
  virtual ~Writer() = default;
  virtual std::string name() const = 0;
  // What the next prepare() is for.
  virtual void announce(const CutRequest& request) { (void)request; }
  // Before the gate closes. `ready`: the application's files are consistent, or become so by the barrier below.
  virtual WriterReport prepare(std::int64_t deadline_mono_ns) = 0;
  // After the gate opened again (or instead of it: `took_place` false). Called for every writer that was asked, whatever it
  // answered. Idempotent.
  virtual void release(bool took_place, std::int64_t deadline_mono_ns) noexcept = 0;
};

struct FreezeResult {
  bool took_place = false;
  double freeze_ms = 0;     // gate closed to gate opened
};

struct CutReport {
  std::uint64_t epoch = 0;
  double freeze_ms = 0, total_ms = 0;
  std::vector<WriterReport> writers;
  bool frozen = true;              // false: nothing had changed since the last cut, no freeze was needed
  std::string consistency;         // "application": there are writers, all were ready and the flush was complete; else "crash"
};

// What the coordinator does at the cut; all are injected.
struct CutActions {
  std::function<Status(const CutRequest&)> prepare_store;              // Store::prepare
  std::function<Status(std::int64_t deadline_mono_ns)> barrier;        // flush files open for writing, in a child that can be killed
  // Nothing changed since the last cut and no mutation is running or parked (Gate::idle). Asked before and after a cut without a
  // freeze: when both answers are yes, nothing ran in between.
  std::function<bool()> quiet;
  std::function<std::uint64_t()> rotate;                               // Journal::rotate
  std::function<Status(const std::string&, std::uint64_t)> take;       // Store::take
  std::function<void(const std::string&)> cancel;                      // Store::cancel
};

// Freeze durations, in milliseconds: count, min, max, mean, p50, p99 over fixed log-scaled buckets (SOM-15).
class Histogram {
 public:
  void add(double ms);
  std::uint64_t count() const { return count_; }
  double min() const, max() const, mean() const;
  double percentile(int percent) const;  // upper edge of the bucket that holds it; of 0 to 100
  double percentile(double) const = delete;   // whoever means a share of 1 is told at once
 private:
  std::uint64_t count_ = 0;
  double sum_ = 0, min_ = 0, max_ = 0;
  std::uint64_t buckets_[64] = {};
};

// Writers are asked in the given order and released in reverse, each call on a thread of its own: one that does not come back by
// its deadline is abandoned, and released when it does come back. `clock` therefore outlives the process's writers.
// Thread-safe.
class Coordinator {
 public:
  Coordinator(Freezer& freezer, CutActions actions, const Clock& clock);
  ~Coordinator();
  void set_writers(std::vector<std::shared_ptr<Writer>> writers);
  // One at a time: a second caller gets Exit::locked. Veto or time-out: Exit::veto, with the writers' reasons.
  Result<CutReport> cut(const CutRequest& request);
  Histogram freezes() const;
  std::string state() const;             // "idle", "preparing", "flushing", "frozen", "releasing"
  std::vector<WriterReport> last_writers() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace somfs::snapshot
