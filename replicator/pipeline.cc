// SPDX-License-Identifier: Apache-2.0
#include "replicator/pipeline.h"

#include <algorithm>

namespace somfs::replicator {
namespace {

constexpr std::array kModes{PipelineMode::automatic, PipelineMode::serial, PipelineMode::fine, PipelineMode::threaded, PipelineMode::hybrid};
constexpr double kAsGood = 1.05;

double at(const StageTimes& times, Stage stage) { return times[static_cast<std::size_t>(stage)]; }

}  // namespace

const char* name_of(PipelineMode mode) {
  switch (mode) {
    case PipelineMode::serial: return "serial";
    case PipelineMode::fine: return "fine";
    case PipelineMode::threaded: return "threaded";
    case PipelineMode::hybrid: return "hybrid";
    case PipelineMode::automatic: break;
  }
  return "auto";
}

std::optional<PipelineMode> pipeline_mode(std::string_view name) {
  for (PipelineMode mode : kModes)
    if (name == name_of(mode)) return mode;
  return std::nullopt;
}

StageSums StageSums::operator-(const StageSums& before) const {
  StageSums d;
  for (std::size_t i = 0; i < kStages; ++i) {
    d.wall[i] = wall[i] - before.wall[i];
    d.cpu[i] = cpu[i] - before.cpu[i];
    d.bytes_in[i] = bytes_in[i] - before.bytes_in[i];
    d.bytes_out[i] = bytes_out[i] - before.bytes_out[i];
  }
  return d;
}

StageSums& StageSums::operator+=(const StageSums& more) {
  for (std::size_t i = 0; i < kStages; ++i) {
    wall[i] += more.wall[i];
    cpu[i] += more.cpu[i];
    bytes_in[i] += more.bytes_in[i];
    bytes_out[i] += more.bytes_out[i];
  }
  return *this;
}

Lanes lanes_of(PipelineMode mode) {
  switch (mode) {
    case PipelineMode::fine: return kFineLanes;
    case PipelineMode::threaded: return {0, 1, 1, 2, 3, 4, 4, 5, 5, 6};
    case PipelineMode::hybrid: return {0, 1, 2, 3, 4, 5, 6, 7, 7, 8};
    case PipelineMode::serial:
    case PipelineMode::automatic: break;
  }
  return kSerialLanes;
}

double least_time(const StageTimes& stages, Site site, PipelineMode mode, unsigned threads, unsigned cores) {
  const bool source = site == Site::source;
  // Both sites have one stage at either end that is done by one thread, and two between them.
  const double first = at(stages, source ? Stage::group : Stage::transfer);
  const double second = at(stages, source ? Stage::compress : Stage::decrypt);
  const double third = at(stages, source ? Stage::encrypt : Stage::decompress);
  const double last = source ? at(stages, Stage::send) : at(stages, Stage::write) + at(stages, Stage::acknowledge);
  const double all = first + second + third + last, n = std::max(1u, threads);
  double slowest = all;
  switch (mode) {
    case PipelineMode::fine: slowest = source ? std::max(first + second, third + last) : std::max(first + second + third, last); break;
    case PipelineMode::threaded: slowest = std::max({first, (second + third) / n, last}); break;
    case PipelineMode::hybrid: slowest = std::max({first, second / n, third / n, last}); break;
    case PipelineMode::serial:
    case PipelineMode::automatic: break;
  }
  return std::max(slowest, all / std::max(1u, cores));
}

PipelineMode choose_mode(const StageTimes& stages, Site site, unsigned threads, unsigned cores) {
  double best = least_time(stages, site, PipelineMode::serial, threads, cores);
  for (PipelineMode mode : kModes) best = std::min(best, least_time(stages, site, mode, threads, cores));
  for (PipelineMode mode : {PipelineMode::serial, PipelineMode::fine, PipelineMode::threaded})
    if (least_time(stages, site, mode, threads, cores) <= best * kAsGood) return mode;
  return PipelineMode::hybrid;
}

}  // namespace somfs::replicator
