// SPDX-License-Identifier: Apache-2.0
// A relation: one volume kept in step with one mirror for as long as it lasts. A thread of its own cuts one instant of the volume after
// the other and lands each as one epoch: cut → what changed since the epoch sent before → send → committed there → acknowledge here. Some may
// be on their way at once: the next is cut while the mirror works on the one before.
// While the mirror is away nothing is lost and nobody waits: the volume's journal keeps what changed (invariant 2), and the next epoch
// brings all of it. How often it cuts is for the pace to say (pace.h); but when an answer waits (mode sync) it cuts at once.
//
//   CATCHING-UP <--> SYNCED       the first epoch of a conversation, and any that takes long, is CATCHING-UP
//       |  ^           |
//       v  |           v
//   DEGRADED: link, peer or disk; tries again, less and less often.  HELD, SPLIT: a person must decide; the mirror is asked now and then
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/result.h"
#include "common/uuid.h"
#include "replicator/pace.h"
#include "replicator/sender.h"
#include "replicator/tree.h"

namespace somfs::replicator {

// One instant of the volume, to be read from. What makes it readable goes with the object.
class Instant {
 public:
  virtual ~Instant() = default;
  virtual Tree& tree() = 0;
  virtual Result<Source> source() = 0;                      // its hooks live as long as this object
  virtual std::uint64_t epoch() const = 0;
  // It was read: what made it readable goes. What is left can be acknowledged, and others may cut for the same target.
  virtual void release() = 0;
  // With the root of the mirror's history up to there, to be kept; empty: not known.
  virtual Status acknowledge(const Uuid& mirror, std::uint64_t epoch, const std::string& root) = 0;
};

// The volume as its relations see it. Thread-safe.
class Replicated {
 public:
  virtual ~Replicated() = default;
  virtual Result<std::unique_ptr<Instant>> cut(const std::string& target) = 0;
  virtual Source identity() const = 0;                      // volume, generation, ancestors
  virtual std::uint64_t acknowledged(const std::string& target) const = 0;   // the epoch whose end the mirror is known to hold; 0: none
  // Wall clock of the first change after the end of `epoch`; 0: nothing has changed since.
  virtual std::int64_t changed_since_ns(std::uint64_t epoch) const = 0;
};

// Begins conversations with the mirror, one after the other.
class Connector {
 public:
  virtual ~Connector() = default;
  virtual Result<std::unique_ptr<Transport>> connect() = 0;
  virtual Status finish() = 0;                              // of one whose transport is gone: how its far side ended, as far as known
  virtual void interrupt(bool on) = 0;                      // from any thread: ends the one under way; while on, none begins
};

enum class Mode : std::uint8_t {
  async,  // the application never waits
  semi,   // above a bound of the lag what changes something is slowed down
  sync,   // what is answered as durable is so at the mirror, as long as that keeps up
};
const char* name_of(Mode mode);

// Mode semi: how much later an operation starts at this lag: nothing up to the bound, then ever more, at twice the bound a tenth of a second.
std::chrono::nanoseconds slowdown_at(double lag_s, double bound_s);

struct RelationSettings {
  std::string target;
  Mode mode = Mode::async;
  double lag_bound_s = 1;                                   // semi
  double sync_timeout_s = 2;                                // sync: an answer waits no longer; the state is DEGRADED then
  PaceSettings pace;
  MigrateOptions options;
  double first_retry_s = 0.2, last_retry_s = 30;            // after a failure; doubling in between, and scattered
  double decision_s = 5;                                    // HELD, SPLIT: the mirror is asked again so often
  double unreadable_s = 60;                                 // between comparisons while files cannot be read
  double silence_s = 10;                                    // a mirror that says nothing for longer while it has an epoch is named as such
  double alive_s = 0;                                       // how often a mirror that watches its sources is told that this one lives; 0: never
};

struct RelationStatus {
  const char* state = "CATCHING-UP";                        // SYNCED, CATCHING-UP, DEGRADED, PAUSED, SPLIT, HELD
  std::string reason;                                       // why it is not SYNCED; empty: it is, or it is on the way
  double percent = -1;                                      // CATCHING-UP: of the epoch under way; -1: not known
  std::uint64_t epoch = 0;                                  // of the volume, whose end the mirror holds
  // Age of the oldest change the mirror does not hold (SOM-7, V). -1: not known, nothing has landed since this process began.
  double lag_s = -1;
  double applied_lag_s = -1;                                // ... of the oldest change that its tree does not show
  std::uint64_t applied = 0;                                // the epoch whose end its tree shows; 0: not known
  std::size_t in_flight = 0;                                // groups sent and not acknowledged
  std::uint64_t backlog_bytes = 0;                          // in groups that were sent and that the tree does not show yet
  std::uint64_t groups = 0, bytes = 0, bytes_wire = 0;      // landed since the start of this process
  std::uint64_t failures = 0;
  bool holding = false;                                     // sync: answers wait for the mirror
  std::size_t waiting = 0;                                  // ... and so many do
  double slowdown_s = 0;                                    // semi: of each operation, now
  double sent_s = 0, committed_s = 0;                       // of the last one
  StageBytes bytes_of{};                                    // of the last group that carried anything, as its times
  StageTimes times{};
  HowSent how;                                              // ... and how that was sent
  Decision decision;
};

class Relation {
 public:
  // The thread starts at once, paused or not.
  Relation(Replicated& volume, std::unique_ptr<Connector> connector, RelationSettings settings, bool paused, const Clock& clock);
  ~Relation();
  Relation(const Relation&) = delete;
  Relation& operator=(const Relation&) = delete;

  void changed() noexcept;                                  // something changed in the volume: from the data path, never waits long
  // Mode sync, as Witness::attest(): runs the answer at once, or when the mirror holds what it covers, or does not keep up.
  void attest(std::function<void()> answer) noexcept;
  // While on, no answer waits: what applications make durable now is for a cut of somebody else's, which this one's would wait for.
  // Every true is followed by a false.
  void excuse(bool on);
  // Mode semi: by how much operations are to be slowed down now, `bytes` having come so far (at the start: 0); nothing unless the mirror is
  // there and works. From the data path. It looks ahead: the lag it acts on is the greater of what is and what is to be expected when the
  // changes that come now land, by what the mirror took in a second so far.
  std::chrono::nanoseconds slowdown(std::uint64_t bytes) const noexcept;
  void pause(bool paused);                                  // the mirror is told, where a conversation is under way
  // While somebody else talks to the mirror. Returns when the conversation is over. Every true is followed by a false.
  void step_aside(bool aside);
  // Ends what is under way; the mirror keeps its last epoch, and is told how it ends (kStopped, kUnmounted) where it listens.
  void end(const char* how = "");
  // Whether the mirror can be reached and takes this volume. After so many seconds the connector is interrupted.
  static Status probe(Connector& connector, const Source& identity, const MigrateOptions& options, double seconds);
  RelationStatus status() const;
  // Returns when the mirror holds, and shows, everything that had been captured when it was called. `give_up` is asked now and then.
  // Paused, or not there in time: Exit::lag, or the exit that says why, with the state.
  Status sync(double timeout_s, const std::function<bool()>& give_up);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace somfs::replicator
