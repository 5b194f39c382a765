// SPDX-License-Identifier: Apache-2.0
// The mirror's site of a measurement, in a process of its own: serves one source over a stream, and tells at the end what its stages took.
#pragma once

#include <string>

#include "bench/pipeline_run.h"

namespace somfs::bench {

// What the process tells the one that began it, as the bytes of a pipe.
struct MirrorSums {
  replicator::StageTimes cpu{}, wall{};
  double process_cpu = 0;
  bool failed = false;
};

// Serves until the source says bye, or something fails: the source is told, as far as it listens.
MirrorSums serve_site(const RunSettings& settings, std::unique_ptr<replicator::Transport> stream);

// Where the mirror keeps the file that is written.
std::string mirrored_file(const RunSettings& settings);

}  // namespace somfs::bench
