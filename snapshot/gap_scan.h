// SPDX-License-Identifier: Apache-2.0
// The gap scan: walks the backing directory for objects that may have changed while the journal did not look, and gives them to it as
// suspects. It knows them by ctime, which no application can set; what a suspect directory lost or gained it cannot know, so a
// directory is `whole`: its listing is to be compared with the mirror's catalog.
// Skipped: somfs's own directory, excluded paths, other mounts. Descriptors are bounded however deep the tree is.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "common/fd.h"
#include "common/result.h"
#include "common/sync.h"
#include "snapshot/journal.h"

namespace somfs::snapshot {

struct WalkEntry {
  int dir_fd;                // of the directory that holds it; for the root, of the root, and `name` is "."
  const std::string& name;
  const Inode& inode;
};

struct WalkLimits {
  std::set<std::string> excluded;  // paths relative to the root, without a leading slash
  std::size_t open_dirs = 32;      // descriptors kept while deeper directories are walked
};

// Calls `visit` for the root and everything beneath it, a directory before its entries, until it returns false. `path` tells where
// the walk is. What vanishes meanwhile is passed over; a directory that was moved away half walked is given to `moved`.
class TreeWalk {
 public:
  using Visit = std::function<bool(const WalkEntry&)>;
  using Moved = std::function<void(const ObjectId&)>;
  TreeWalk(int root_fd, WalkLimits limits, Visit visit, Moved moved);
  Status run();
  std::string path_of(const WalkEntry& entry) const;  // relative to the root, as bytes: see printable()

 private:
  struct Level {
    Fd fd;                         // closed while the walk is much deeper
    ObjectId id;
    std::string name;              // in the level above
    std::vector<std::string> dirs; // still to be walked
  };
  Status list(Level& level);
  Result<Fd> reopen(std::size_t depth) const;
  std::string path(std::size_t depth) const;
  const int root_fd_;
  const WalkLimits limits_;
  const Visit visit_;
  const Moved moved_;
  std::uint64_t dev_ = 0;
  bool going_ = true;
  std::vector<Level> levels_;
};

struct GapScanOptions {
  std::int64_t trusted_until_ns = 0;       // Journal::trusted_until_ns() at open
  std::int64_t margin_ns = 2'000'000'000;  // an object changed this much before is a suspect as well
  WalkLimits limits;
};

// A change that the journal does not explain: snapshots that were kept over it show a past that never was. Its path, or nothing.
// To be asked before the tree is served: a change made through the mount hides an earlier one beneath it.
Result<std::optional<std::string>> first_change_beneath(int root_fd, const Journal& journal, const GapScanOptions& options);

// Runs in a thread of its own at the lowest priority, from construction; ends by itself, by cancel() or with the object. When it came
// through, Journal::finish_gap_scan() was called; when it failed or was cancelled, the next start scans again.
class GapScan {
 public:
  enum class State { running, done, failed, cancelled };
  struct Progress {
    State state = State::running;
    std::uint64_t directories = 0, objects = 0, suspects = 0;
    std::string reason;                    // why it failed
  };
  GapScan(int root_fd, Journal& journal, GapScanOptions options);  // root_fd: duplicated
  ~GapScan();
  Progress progress() const;
  void cancel() { thread_.request_stop(); }
  Progress wait();                         // until it ended

 private:
  void run(const std::stop_token& stop);
  const Fd root_;
  Journal& journal_;
  const GapScanOptions options_;
  mutable Mutex mu_;
  CondVar ended_;
  Progress progress_ GUARDED_BY(mu_);
  std::jthread thread_;                    // last: ends first
};

const char* name_of(GapScan::State state);

}  // namespace somfs::snapshot
