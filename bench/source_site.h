// SPDX-License-Identifier: Apache-2.0
// The source's site of a measurement: a thread that writes, the caller's that takes group after group through the stages, and one that
// receives the answers. The pace decides how long a group is collected and how large it may become.
#pragma once

#include <memory>

#include "bench/pipeline_run.h"

namespace somfs::bench {

// What the source's side saw; the mirror's sums are not in it yet.
Result<Measured> run_site(const RunSettings& settings, std::unique_ptr<replicator::Transport> stream);
// The writer alone.
Result<Measured> run_writer(const RunSettings& settings);

std::string written_file(const RunSettings& settings);

}  // namespace somfs::bench
