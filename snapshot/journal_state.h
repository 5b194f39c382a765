// SPDX-License-Identifier: Apache-2.0
// The journal's state file (docs/formats/journal.md, "State"), replaced atomically.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/uuid.h"
#include "snapshot/journal.h"

namespace somfs::snapshot {

struct KnownTarget {
  TargetState state;
  std::uint64_t gap_epoch = 0;     // the epoch in which the gap was flagged: a comparison at a cut before its end does not close it
};

struct JournalState {
  Uuid volume, generation, boot;
  std::vector<Uuid> ancestors;     // of the generation, oldest first; the last kMostAncestors are kept
  std::string fs_id;
  bool clean = false;
  bool scan_pending = false;       // a gap scan was wanted and has not finished
  std::int64_t wall_ns = 0;        // when this was written
  std::int64_t trusted_until_ns = 0;
  std::int64_t log_wall_ns = 0;    // when the segment log_from was begun: all before is in pieces
  std::uint64_t epoch = 1;         // the running one
  std::uint64_t seq = 0;
  std::uint64_t dropped_up_to = 0; // epochs up to this one were dropped
  std::uint64_t log_from = 1;      // segments before this one are compacted; a later one may not exist yet
  std::uint64_t next_piece = 1;
  std::map<std::string, KnownTarget> targets;

  static constexpr std::size_t kMostAncestors = 64, kMostTargets = 1024, kMostName = 4096;
  static constexpr std::size_t kMostBytes = 8u << 20, kRoot = 32;

  std::string encode() const;
  static bool decode(std::string_view bytes, JournalState* out);  // false: corrupt
  void renew_generation();         // this side starts a new history
};

}  // namespace somfs::snapshot
