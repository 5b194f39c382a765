// SPDX-License-Identifier: Apache-2.0
// The relations of a volume: stored with it (`relations` in its own directory), started with its mount, and told what to do over the
// control socket. Each keeps one mirror in step (replicator/relation.h); the slower never holds up the other.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cli/config.h"
#include "cli/control.h"
#include "cli/lease.h"
#include "common/change.h"
#include "common/clock.h"
#include "common/result.h"
#include "common/sync.h"
#include "replicator/relation.h"
#include "snapshot/coordinator.h"
#include "snapshot/journal.h"
#include "snapshot/store.h"

namespace somfs::cli {

// Witness of the mount: what it is asked to attest is with every mirror that keeps up and is replicated to in mode sync.
class Replication final : public replicator::Replicated, public Witness {
 public:
  struct Parts {
    std::string dir, mountpoint;
    const Config& config;
    const Clock& clock;
    int own_fd, root_fd, store_fd;
    snapshot::Journal& journal;
    snapshot::Store& store;
    TargetLocks& locks;
    // One cut, as a snapshot of that name.
    std::function<Result<snapshot::CutReport>(snapshot::SnapshotInfo info)> cut;
    // Has the kernel write back what is dirty in its caches; false: not within so many seconds.
    std::function<bool(double seconds)> flush;
  };
  explicit Replication(Parts parts);
  ~Replication() override;

  Status open();                           // starts what is stored; what cannot be read is Exit::configuration
  void changed() noexcept;                 // an epoch has its first change: from the data path
  void close();                            // ends all; what is stored stays

  bool wanted() const noexcept override { return attests_.load(std::memory_order_relaxed); }
  void attest(std::function<void()> answer) noexcept override EXCLUDES(mutex_);

  // How much later what changes something starts now, for the sake of the mirrors in mode semi; `bytes` came so far.
  std::chrono::nanoseconds slowdown(std::uint64_t bytes) const noexcept EXCLUDES(mutex_);
  // While held, nothing waits to be attested: what a cut prepares makes things durable, and no mirror gets further before that cut.
  using Excuse = std::shared_ptr<void>;
  Excuse excuse() EXCLUDES(mutex_);

  // "replicate", "replicate-stop", "pause", "resume", "sync", "lose". `gone`: the client is.
  Result<Json> serve(const std::string& verb, const Json& request, const std::function<bool()>& gone);
  // One entry of the status's "mirrors" for each relation, by target.
  std::map<std::string, Json> status() const;

  // While held, the target's relation has no conversation with the mirror: somebody else has.
  using Aside = std::shared_ptr<void>;
  Aside step_aside(const std::string& target);   // null: no relation

  // For its relations.
  Result<std::unique_ptr<replicator::Instant>> cut(const std::string& target) override;
  replicator::Source identity() const override;
  std::uint64_t acknowledged(const std::string& target) const override;
  std::int64_t changed_since_ns(std::uint64_t epoch) const override;

 private:
  struct Entry {
    Json stored;                           // as in the file
    std::shared_ptr<replicator::Relation> relation;
    replicator::Mode mode = replicator::Mode::async;
  };
  class OneInstant;

  Result<replicator::RelationSettings> settings_of(const Json& stored) const;
  Status start(const Json& stored, bool probe) EXCLUDES(mutex_);
  void note_modes() REQUIRES(mutex_);
  std::vector<std::shared_ptr<replicator::Relation>> of_mode(replicator::Mode mode) const REQUIRES(mutex_);
  Status store_all() REQUIRES(changing_) EXCLUDES(mutex_);
  // Of the request's target, or of all where it names none.
  Result<std::map<std::string, std::shared_ptr<replicator::Relation>>> asked_for(const Json& request) const EXCLUDES(mutex_);
  Result<Json> replicate(const Json& request) EXCLUDES(mutex_);
  Result<Json> stop(const Json& request) EXCLUDES(mutex_);
  Result<Json> pause(const Json& request, bool paused) EXCLUDES(mutex_);
  Result<Json> sync(const Json& request, const std::function<bool()>& gone) EXCLUDES(mutex_);
  Result<Json> lose(const Json& request) EXCLUDES(mutex_);

  const Parts parts_;
  std::atomic<std::uint64_t> cuts_{0};
  std::atomic<bool> attests_{false}, slows_{false};   // a relation has the mode sync, semi
  Mutex changing_;                         // one change of the relations at a time; before mutex_
  mutable Mutex mutex_;
  std::map<std::string, Entry> relations_ GUARDED_BY(mutex_);
  bool closed_ GUARDED_BY(mutex_) = false;
  replicator::Connector* probing_ GUARDED_BY(mutex_) = nullptr;
};

}  // namespace somfs::cli
