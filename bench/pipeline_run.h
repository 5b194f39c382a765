// SPDX-License-Identifier: Apache-2.0
// One measurement of the replication pipeline (the paper's section 4): a writer, the source's site in this process, the mirror's site in a
// process of its own, a TCP connection over loopback between them. What is measured is the project's own: group records, framing and
// sealing, the conveyor in its arrangements, the pace, the mirror with its redo list and catalog. What is the benchmark's is the loop that
// collects one group while the ones before it pass the stages, as the paper has it (ACP-8): it keeps the bytes as they are written and makes the
// writer wait at the threshold, where a relation reads them again from the volume and lets nobody wait.
//
// Not a test: nothing is asserted but, on request, that both sides hold the same bytes at the end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"
#include "replicator/pace.h"
#include "replicator/pipeline.h"
#include "replicator/wire.h"

namespace somfs::bench {

struct RunSettings {
  std::string volume, mirror;                       // directories: where the writer writes, where the mirror lies. Both exist
  bool only_writes = false;                         // the writer alone: nothing is collected, there is no mirror
  // The writer: as fast as it can, or `rate` bytes a second; it waits while the open group is full.
  std::size_t request = 64 << 10;
  bool random = false;
  bool direct = false;                              // O_DIRECT, past the page cache
  std::uint64_t file = 256 << 20;                   // the file that is written over and over
  double compressible = 1;                          // part of each page that is text (bench/requests.h), the rest is noise
  std::uint64_t rate = 0;
  double seconds = 3;                               // whichever comes first; 0: no bound
  std::uint64_t bytes = 0;
  unsigned periods = 0;                             // groups
  // The pipeline.
  replicator::Codec codec = replicator::Codec::snappy;
  bool sealed = true;                               // AES-256-GCM; else plain frames with CRC-32C, as over ssh
  replicator::PipelineMode mode = replicator::PipelineMode::fine;
  unsigned threads = 2;                             // of a lane, at each site
  std::size_t frame = 768 << 10;                    // a group is a row of frames of so much
  std::uint64_t group = 16 << 20;                   // the most a group may have
  std::uint64_t link = 0;                           // bytes a second; 0: as fast as loopback is
  replicator::Pacing pacing = replicator::Pacing::bottleneck;
  double first_s = 0.030;
  // On: the mirror as it is, redo list, sync, catalog, apply. Off: records are written to one file as they come, and nothing is synced.
  bool journal = true;
  bool own_cores = true;                            // half of the cores for each site, where there are two
  bool check = false;                               // both files are compared at the end

  std::string problem() const;                      // as one clause; empty: none
};

struct Period {
  double interval_s = 0;                            // in force when the group was cut
  double open_s = 0;                                // how long it was collected
  std::uint64_t bytes = 0;
  double source_s = 0, mirror_s = 0;                // T_pri, T_back
};

struct Measured {
  std::uint64_t bytes = 0, requests = 0, groups = 0, wire = 0;
  double seconds = 0;                               // first request to last acknowledgement
  replicator::StageTimes cpu{}, wall{};             // of all groups; apply's processor time is part of acknowledge's
  double writer_cpu = 0;                            // of the requests themselves, without their copy into the group
  double source_cpu = 0, mirror_cpu = 0;            // of the whole processes
  unsigned cores_source = 0, cores_mirror = 0;
  bool cores_shared = false;
  std::vector<Period> periods;
  bool checked = false, equal = false;

  double mb_s() const { return seconds > 0 ? static_cast<double>(bytes) / 1e6 / seconds : 0; }
  double cpu_use() const;                           // of all cores that were given
  // What the stages' processor times allow: the slowest lane, or all work on all cores, whichever is less. MB/s; 0: not known.
  double bound_mb_s(replicator::PipelineMode mode, unsigned threads) const;
  std::string json(const RunSettings& settings) const;
};

// Forks: the process has no other threads when it is called.
Result<Measured> run(const RunSettings& settings);

}  // namespace somfs::bench
