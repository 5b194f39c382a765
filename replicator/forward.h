// SPDX-License-Identifier: Apache-2.0
// A mirror as the source of the next one (SOM-1): a thread brings what was committed here there, one epoch after the other, as the origin sent them
// and under its lineage. Where the spool does not hold what the next mirror lacks, that one is compared with this mirror's tree instead, which stands
// still for as long.
//
//   CATCHING-UP <--> SYNCED       what has been committed here is not there yet; is there
//       |  ^
//       v  |
//   DEGRADED: link, peer, disk or the tree here; tries again, less and less often.  HELD, SPLIT: a person must decide there; asked now and then
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/result.h"
#include "replicator/mirror.h"
#include "replicator/relation.h"
#include "replicator/spool.h"

namespace somfs::replicator {

// This mirror, for one who needs it to stand still. Nothing is committed to it while this lives.
class StandStill {
 public:
  virtual ~StandStill() = default;
  virtual Mirror& mirror() = 0;
};

// The mirror as its forwards see it. Thread-safe.
class Forwarded {
 public:
  virtual ~Forwarded() = default;
  virtual Spool& spool() = 0;
  // Waits for whoever has it. Exit::interrupted when `give_up` says so.
  virtual Result<std::unique_ptr<StandStill>> stand_still(const std::function<bool()>& give_up) = 0;
  // Opens it for a moment, where nobody has it, so that the spool knows what is there: after a start, and as somebody else may have had it.
  virtual Status look() = 0;
};

struct ForwardSettings {
  std::string target;
  std::string volume_name;                                  // at a daemon: which of its mirrors
  std::string host;                                         // of this mirror, for messages there
  double brake_share = 0.5;                                 // of comparisons; an epoch brings its own
  double first_retry_s = 0.2, last_retry_s = 30;            // after a failure; doubling in between, and scattered
  double decision_s = 5;                                    // HELD, SPLIT
  double look_s = 10;                                       // how often it is looked at whether somebody else committed something here
  double alive_s = 2;
};

struct ForwardStatus {
  const char* state = "CATCHING-UP";                        // SYNCED, CATCHING-UP, DEGRADED, SPLIT, HELD
  std::string reason;
  std::uint64_t epoch = 0;                                  // the next mirror is known to hold; 0: not known
  std::uint64_t committed = 0;                              // here
  std::uint64_t epochs = 0, comparisons = 0;                // that were sent from the spool; that landed: since the start of this process
  std::uint64_t failures = 0;
  bool standing_still = false;                              // this mirror, for it
  double percent = -1;                                      // of a comparison; -1: not known
};

class Forward {
 public:
  // The thread starts at once.
  Forward(std::shared_ptr<Forwarded> volume, std::unique_ptr<Connector> connector, ForwardSettings settings);
  ~Forward();
  Forward(const Forward&) = delete;
  Forward& operator=(const Forward&) = delete;

  ForwardStatus status() const;
  void end();                                               // whatever is under way; the next mirror keeps what it has committed

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace somfs::replicator
