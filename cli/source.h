// SPDX-License-Identifier: Apache-2.0
// The client's hold on a mounted volume: a snapshot made for it, and the descriptors to read it with. The connection behind it is
// the lease: when this object or its process goes, the daemon removes the snapshot and unlocks the target.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/control.h"
#include "common/fd.h"
#include "common/result.h"
#include "common/uuid.h"
#include "replicator/sender.h"
#include "snapshot/view.h"

namespace somfs::cli {

class SourceLease {
 public:
  struct Wish {
    std::string purpose;          // "migrate", "verify", "diff"
    std::string target;           // normalised; migrate: locked against a second run (Exit::locked)
    std::string snapshot;         // "": make one; "none": only the descriptors
    bool crash_consistent = false;
    double timeout_s = 30;
  };
  static Result<SourceLease> open(const std::string& dir, const Wish& wish);

  int root_fd() const { return root_.get(); }
  int store_fd() const { return store_.get(); }
  const std::string& snapshot() const { return snapshot_; }
  const Json& answer() const { return answer_; }   // what the daemon said: freeze_ms, writers, excludes …

  // Exit::temporary when the mount ended, and the snapshot with it: then whatever failed while reading it failed for that, and
  // what was read proves nothing.
  Status still_held() const;
  // The source as the sender wants it, reading from `view`, with what changed since the target's last epoch.
  Result<replicator::Source> source(snapshot::View& view);
  Status acknowledge(const Uuid& mirror, std::uint64_t epoch, const std::string& root);   // as Instant's

 private:
  // An answer of the daemon; Exit::temporary when the volume was unmounted before it.
  Result<Json> ask(const Json& request, std::vector<Fd>* fds = nullptr);
  Result<replicator::Changes> dirty_since(std::uint64_t epoch);
  Connection connection_;
  Fd root_, store_;
  std::string snapshot_, target_;
  Json answer_;
};

}  // namespace somfs::cli
