// SPDX-License-Identifier: Apache-2.0
// The ordered-writer oracle: does a tree exist at one instant of a run of several writers?
//
// A token goes round the writers; whoever holds it makes the next numbered mutation (oracle_plan.h) and passes on only after the
// system call returned. So whoever sees mutation n must see all before it. Beside it every process has chatter of its own: counter i
// is written to a ring of records, then to `x`, then to `y`, never waiting for the others.
#pragma once

#include <cstdint>
#include <string>

#include "common/result.h"

namespace somfs::tools {

struct OracleRun {
  std::string dir;            // empty at the start
  std::uint64_t seed = 1;
  unsigned processes = 4;
  double seconds = 10;        // ends then,
  std::uint64_t count = 0;    // or after this many mutations, unless 0
  bool sync = false;          // fsync the file and its directory before the token goes on
  std::string progress;       // a file elsewhere that holds the number of the last mutation that returned; empty: none
};

// Forks the writers, waits for them, returns the number of the last mutation. Fails when any system call of a writer failed; none
// of them is left then. SIGTERM ends it in this way, too; when it is killed they are, but may be about for a moment longer.
Result<std::uint64_t> oracle_write(const OracleRun& run);

struct OracleVerdict {
  bool one_instant = false;
  std::uint64_t number = 0;  // the mutations that are there: 1 .. number; of a violation the greatest that can be seen
  std::string violation;     // one line, empty when one_instant
};

// Only reads; names at the top that are not the oracle's are left alone. Fails when the tree is not one of oracle_write.
Result<OracleVerdict> oracle_check(const std::string& dir);

}  // namespace somfs::tools
