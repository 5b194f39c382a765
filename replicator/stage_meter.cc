// SPDX-License-Identifier: Apache-2.0
#include "replicator/stage_meter.h"

#include <time.h>

namespace somfs::replicator {
namespace {

std::int64_t now_ns(clockid_t clock) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return t.tv_sec * 1'000'000'000ll + t.tv_nsec;
}

}  // namespace

StageMeter::Run::Run(StageMeter& meter, Stage stage, std::uint64_t bytes_in)
    : meter_(meter), stage_(stage), bytes_in_(bytes_in), bytes_out_(bytes_in), wall_(now_ns(CLOCK_MONOTONIC)), cpu_(now_ns(CLOCK_THREAD_CPUTIME_ID)) {}

StageMeter::Run::~Run() {
  meter_.add(stage_, now_ns(CLOCK_MONOTONIC) - wall_, now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_, bytes_in_, bytes_out_);
}

void StageMeter::add(Stage stage, std::int64_t wall_ns, std::int64_t cpu_ns, std::uint64_t bytes_in, std::uint64_t bytes_out) {
  Cell& c = cells_[static_cast<std::size_t>(stage)];
  c.wall += wall_ns;
  c.cpu += cpu_ns;
  c.in += bytes_in;
  c.out += bytes_out;
}

StageSums StageMeter::sums() const {
  StageSums s;
  for (std::size_t i = 0; i < kStages; ++i) {
    const Cell& c = cells_[i];
    s.wall[i] = static_cast<double>(c.wall.load()) / 1e9;
    s.cpu[i] = static_cast<double>(c.cpu.load()) / 1e9;
    s.bytes_in[i] = c.in;
    s.bytes_out[i] = c.out;
  }
  return s;
}

}  // namespace somfs::replicator
