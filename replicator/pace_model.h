// SPDX-License-Identifier: Apache-2.0
// Two sites and a link on paper: stages of a + b·n seconds with noise, acknowledgements that come some intervals late, and a pace
// that decides. For tests, and for the traces that the benchmark draws under every law. Pure, its clock is its own.
#pragma once

#include <deque>
#include <random>
#include <vector>

#include "replicator/pace.h"

namespace somfs::replicator {

struct ModelStage {
  double fixed_s = 0;
  double per_byte_s = 0;
};

struct ModelSites {
  std::array<ModelStage, kStages> stages{};
  double rate = 0;              // bytes written per second
  double link = 1;              // of its full rate: slows send and transfer
  double noise = 0;             // relative standard deviation of every lane's time
  int ack_delay = 0;            // intervals
  double ack_delay_s = 0;       // and seconds, after the mirror's last stage
};

// What one interval looked like.
struct ModelPeriod {
  Decision decision;            // in force when the group was cut
  double seconds = 0;           // how long it really was: at least as long as the first lane is busy
  double bytes = 0;             // in the group
  double pending = 0;           // written, and not in a group yet
  unsigned in_flight = 0;       // groups
  double lag_s = 0;             // age of what the mirror does not hold durably
};

class PaceModel {
 public:
  PaceModel(const PaceSettings& settings, const ModelSites& sites, std::uint64_t seed = 1);

  ModelSites& sites() { return sites_; }     // may change between two periods
  Pace& pace() { return *pace_; }
  ModelPeriod period();
  std::vector<ModelPeriod> run(int periods);

 private:
  struct Done {
    GroupDone group;
    double at = 0;                           // the source's side is through with it
  };
  struct Flight {
    Acknowledged ack;
    double opened = 0, ready = 0;            // ready: acknowledged by the mirror, and the way back is behind it
    int intervals = 0;                       // that passed since
  };
  StageTimes times_of(double bytes);
  static std::int64_t ns(double seconds) { return static_cast<std::int64_t>(seconds * 1e9); }

  const PaceSettings settings_;
  ModelSites sites_;
  std::unique_ptr<Pace> pace_;
  std::mt19937_64 random_;
  double opened_ = 0;                        // the open group
  double pending_ = 0;
  std::array<double, kStages> free_at_{};    // of every lane
  std::deque<Flight> flights_;
  std::deque<Done> done_;                    // not told yet
};

}  // namespace somfs::replicator
