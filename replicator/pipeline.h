// SPDX-License-Identifier: Apache-2.0
// How the stages of one site are spread over threads (ACP-12 to ACP-14), what they cost, and which arrangement suits. One mechanism
// (conveyor.h) serves all of them: an arrangement only says which stages run together, and how many threads a lane has.
//
//               source                                             mirror
//   serial      group compress encrypt send                        transfer decrypt decompress write
//   fine        group compress | encrypt send                      transfer decrypt decompress | write
//   threaded    group | (compress encrypt) × n | send              transfer | (decrypt decompress) × n | write
//   hybrid      group | compress × n | encrypt × n | send          transfer | decrypt × n | decompress × n | write
//
// Pure.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "replicator/stage.h"

namespace somfs::replicator {

enum class PipelineMode : std::uint8_t { automatic, serial, fine, threaded, hybrid };
const char* name_of(PipelineMode mode);                                  // "auto", "serial", ...
std::optional<PipelineMode> pipeline_mode(std::string_view name);

// What went through the stages, since the beginning or between two looks.
struct StageSums {
  StageTimes wall{}, cpu{};                                              // seconds, added up over threads
  std::array<std::uint64_t, kStages> bytes_in{}, bytes_out{};
  StageSums operator-(const StageSums& before) const;
  StageSums& operator+=(const StageSums& more);
};

enum class Site : std::uint8_t { source, mirror };

// The lanes of an arrangement, for the pace: those of both sites.
Lanes lanes_of(PipelineMode mode);

// The shortest time in which a site can pass what took these stage times, in an arrangement with so many threads a lane and so many
// cores: the slowest lane's, or that of all its work on all its cores. Seconds.
double least_time(const StageTimes& stages, Site site, PipelineMode mode, unsigned threads, unsigned cores);

// Which arrangement a site uses under `automatic`: of those that come within a twentieth of the shortest time, the simplest.
PipelineMode choose_mode(const StageTimes& stages, Site site, unsigned threads, unsigned cores);

}  // namespace somfs::replicator
