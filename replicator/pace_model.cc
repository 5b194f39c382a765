// SPDX-License-Identifier: Apache-2.0
#include "replicator/pace_model.h"

#include <algorithm>
#include <limits>

namespace somfs::replicator {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

}  // namespace

PaceModel::PaceModel(const PaceSettings& settings, const ModelSites& sites, std::uint64_t seed)
    : settings_(settings), sites_(sites), pace_(make_pace(settings)), random_(seed) {}

std::vector<ModelPeriod> PaceModel::run(int periods) {
  std::vector<ModelPeriod> all;
  for (int i = 0; i < periods; ++i) all.push_back(period());
  return all;
}

StageTimes PaceModel::times_of(double bytes) {
  std::array<double, kStages> factor{};
  for (double& f : factor) f = std::max(0.05, 1 + sites_.noise * std::normal_distribution<double>()(random_));
  StageTimes times{};
  for (std::size_t i = 0; i < kStages; ++i) {
    const bool line = i == static_cast<std::size_t>(Stage::send) || i == static_cast<std::size_t>(Stage::transfer);
    const ModelStage& stage = sites_.stages[i];
    times[i] = (stage.fixed_s + stage.per_byte_s * bytes / (line ? sites_.link : 1)) * factor[settings_.lanes[i]];
  }
  return times;
}

ModelPeriod PaceModel::period() {
  double& first_lane = free_at_[settings_.lanes[0]];
  double cut = 0, at_least = opened_;
  for (;;) {   // what happens before the open group is cut may move the cut
    const Decision& now = pace_->decision();
    const double limit = static_cast<double>(now.threshold_bytes);
    double due = opened_ + now.interval_s;
    if (now.cut_when_full && sites_.rate > 0) due = std::min(due, opened_ + std::max(0.0, limit - pending_) / sites_.rate);
    const bool window_full = flights_.size() >= settings_.credits;
    cut = window_full ? kNever : std::max({due, first_lane, at_least});
    // In a full window nothing is cut, so that no interval passes: the acknowledgement is not delayed further.
    const bool old_enough = !flights_.empty() && (window_full || flights_.front().intervals >= sites_.ack_delay);
    const double answer = old_enough ? std::max(opened_, flights_.front().ready) : kNever;
    const double done = done_.empty() ? kNever : std::max(opened_, done_.front().at);
    if (std::min(answer, done) > cut) break;
    at_least = std::max(at_least, std::min(answer, done));
    if (done <= answer) {
      done_.front().group.now_ns = ns(done);
      done_.front().group.credits_in_use = static_cast<unsigned>(flights_.size());
      pace_->group_done(done_.front().group);
      done_.pop_front();
    } else {
      flights_.front().ack.now_ns = ns(answer);
      pace_->acknowledged(flights_.front().ack);
      flights_.pop_front();
    }
  }

  ModelPeriod seen;
  seen.decision = pace_->decision();
  seen.seconds = cut - opened_;
  const double room = static_cast<double>(settings_.memory_bytes);   // beyond it the writers wait
  const double total = std::min(pending_ + sites_.rate * seen.seconds, std::max(room, pending_));
  seen.bytes = std::min(total, static_cast<double>(seen.decision.threshold_bytes));
  Done done;
  done.group = {static_cast<std::uint64_t>(seen.bytes), static_cast<std::uint64_t>(total - pending_), ns(opened_), ns(cut), 0, {}, 0};
  seen.pending = pending_ = total - seen.bytes;

  const StageTimes times = times_of(seen.bytes);
  StageTimes lane{};
  for (std::size_t i = 0; i < kStages; ++i) lane[settings_.lanes[i]] += times[i];
  double at = cut, durable = cut;
  for (std::size_t i = 0; i < kStages; ++i) {   // each lane takes the groups in order
    const auto here = settings_.lanes[i];
    if (i == 0 || here != settings_.lanes[i - 1]) free_at_[here] = at = std::max(at, free_at_[here]) + lane[here];
    if (i == static_cast<std::size_t>(Stage::send)) done.at = at;
    if (i == static_cast<std::size_t>(Stage::acknowledge)) durable = at;
  }
  done.group.times = times;
  done_.push_back(done);
  for (Flight& flight : flights_) flight.intervals += flight.ready <= cut ? 1 : 0;
  Flight flight;
  flight.ack.bytes = flight.ack.applied_bytes = static_cast<std::uint64_t>(seen.bytes);
  flight.ack.times = times;
  flight.ack.applied_groups = times.back() > 0 ? 1 : 0;
  flight.ack.backlog_s = at - durable;
  flight.opened = opened_;
  flight.ready = durable + sites_.ack_delay_s;
  flights_.push_back(flight);
  seen.in_flight = static_cast<unsigned>(flights_.size());
  seen.lag_s = cut - flights_.front().opened;
  opened_ = cut;
  return seen;
}

}  // namespace somfs::replicator
