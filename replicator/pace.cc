// SPDX-License-Identifier: Apache-2.0
#include "replicator/pace.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

#include "replicator/pace_fit.h"

namespace somfs::replicator {
namespace {

constexpr double kMargin = 1.05;            // what the interval leaves free beside the slowest lane
constexpr double kStep = 0.1;               // farther than this from the target: straight to it
constexpr double kMostUp = 4, kMostDown = 2;
constexpr double kFull = 0.97;              // of a lane's time, with its margin: overload
constexpr int kPeriods = 3;                 // in a row, before an overload is believed
constexpr double kSure = 2;                 // standard deviations
constexpr double kRemember = 0.03;          // of the errors, for every period
constexpr double kQuiet = 0.03;             // scatter that does no harm
constexpr double kRateGain = 0.7;
constexpr double kLongest = 1e6;            // seconds; more is no measurement
constexpr double kLongestOpen = 3600;       // so for how long a group was collected: the clock jumped, or the machine slept
constexpr double kLeastGroup = 64 << 10;
constexpr double kMostBytes = 1e18;

double sane(double seconds) { return std::isfinite(seconds) && seconds > 0 ? std::min(seconds, kLongest) : 0; }
double between(double value, double low, double high, double otherwise) {
  return std::isfinite(value) ? std::clamp(value, low, high) : otherwise;
}
double between_ns(std::int64_t from, std::int64_t to) {
  return to > from ? static_cast<double>(static_cast<std::uint64_t>(to) - static_cast<std::uint64_t>(from)) * 1e-9 : 0;
}
bool of_mirror(std::size_t stage) { return stage >= kFirstOfBackup; }

// The settings as far as they make sense.
PaceSettings bounded(PaceSettings s) {
  const PaceSettings usual;
  s.alpha = between(s.alpha, 0.01, 1, usual.alpha);
  s.beta = between(s.beta, 0.01, 1, usual.beta);
  s.min_s = between(s.min_s, 1e-4, 3600, usual.min_s);
  s.max_s = between(s.max_s, 1e-4, 3600, usual.max_s);
  s.rpo_s = between(s.rpo_s, 0, kLongest, 0);
  s.first_s = between(s.first_s, s.lower_s(), s.upper_s(), usual.first_s);
  s.share = between(s.share, 0.01, 1, 1);
  s.overhead = between(s.overhead, 0.01, 0.5, usual.overhead);
  s.memory_bytes = std::clamp<std::uint64_t>(s.memory_bytes, 1 << 20, 1ull << 50);
  s.credits = std::clamp(s.credits, 1u, 4096u);
  s.backlog_s = between(s.backlog_s, 0.1, kLongest, usual.backlog_s);
  for (auto& lane : s.lanes) lane = std::min<std::uint8_t>(lane, kStages - 1);
  return s;
}

// What all three have in common: the bounds and the sleep.
class Base : public Pace {
 public:
  explicit Base(const PaceSettings& settings)
      : set_(bounded(settings)), low_(set_.lower_s()), high_(set_.upper_s()),
        memory_(static_cast<double>(set_.memory_bytes) / set_.credits) {
    move_to(set_.first_s);
    limit_to(memory_);
  }
  const Decision& decision() const override { return out_; }

 protected:
  void move_to(double interval) { out_.interval_s = between(interval, low_, high_, high_); }
  void limit_to(double bytes) {
    out_.threshold_bytes = static_cast<std::uint64_t>(std::clamp(bytes, std::min(kLeastGroup, memory_), memory_));
  }
  void sleep(const GroupDone& group) {
    closed_ns_ = group.closed_ns;
    collecting_ = true;
    sleep_from(group.now_ns);
  }
  void sleep_from(std::int64_t now_ns) {   // an acknowledgement may come during the sleep, and change it
    if (collecting_) out_.sleep_s = std::max(0.0, out_.interval_s - between_ns(closed_ns_, now_ns));
  }

  const PaceSettings set_;
  const double low_, high_, memory_;
  Decision out_;

 private:
  std::int64_t closed_ns_ = 0;
  bool collecting_ = false;
};

class BestEffort final : public Base {
 public:
  explicit BestEffort(const PaceSettings& settings) : Base(settings) {
    move_to(low_);
    out_.cut_when_full = true;
  }
  const Decision& group_done(const GroupDone&) override { return out_; }
  const Decision& acknowledged(const Acknowledged&) override { return out_; }
};

// Formulas (1) and (2) are applied for every lane of the site in turn (ACP-12); (3) gives the threshold.
class Paper final : public Base {
 public:
  explicit Paper(const PaceSettings& settings) : Base(settings) {}

  const Decision& group_done(const GroupDone& group) override {
    const double open = between_ns(group.opened_ns, group.closed_ns);
    total_bytes_ += static_cast<double>(group.bytes);
    total_s_ += open > 0 && open < kLongestOpen ? open : out_.interval_s;
    follow(group.times, 0, kFirstOfBackup, set_.alpha);
    sleep(group);
    return out_;
  }
  const Decision& acknowledged(const Acknowledged& group) override {
    const double before = out_.interval_s;
    follow(group.times, kFirstOfBackup, static_cast<std::size_t>(Stage::apply), set_.beta);
    out_.mirror_idle_s = std::max(0.0, before - longest_);
    sleep_from(group.now_ns);
    return out_;
  }

 private:
  void follow(const StageTimes& times, std::size_t from, std::size_t to, double weight) {
    std::array<double, kStages> lane{};
    for (std::size_t i = from; i < to; ++i) lane[set_.lanes[i]] += sane(times[i]);
    longest_ = 0;
    for (std::size_t i = from; i < to; ++i) {
      if (i > from && set_.lanes[i] == set_.lanes[i - 1]) continue;
      move_to(out_.interval_s + weight * (lane[set_.lanes[i]] - out_.interval_s));
      longest_ = std::max(longest_, lane[set_.lanes[i]]);
    }
    if (total_bytes_ > 0) limit_to(set_.share * total_bytes_ / total_s_ * out_.interval_s);
  }

  double total_bytes_ = 0, total_s_ = 0;
  double longest_ = 0;
};

class Bottleneck final : public Base {
 public:
  explicit Bottleneck(const PaceSettings& settings) : Base(settings) { out_.cut_when_full = set_.share >= 1; }

  const Decision& group_done(const GroupDone& group) override {
    const double bytes = std::min(static_cast<double>(group.bytes), kMostBytes);
    see(bytes, group.times, 0, kFirstOfBackup);
    const double open = between_ns(group.opened_ns, group.closed_ns);
    if (open > 0 && open < kLongestOpen) {
      const double rate = std::min(static_cast<double>(group.arrived != 0 ? group.arrived : group.bytes), kMostBytes) / open;
      out_.rate = rated_ ? out_.rate + kRateGain * (rate - out_.rate) : rate;
      rated_ = true;
    }
    adjust();
    look_for_overload(group.credits_in_use >= set_.credits);
    sleep(group);
    return out_;
  }

  const Decision& acknowledged(const Acknowledged& group) override {
    see(std::min(static_cast<double>(group.bytes), kMostBytes), group.times, kFirstOfBackup, static_cast<std::size_t>(Stage::apply));
    if (group.applied_groups > 0) {   // applied in batches: the mean of a group
      StageTimes mean{};
      mean.back() = sane(group.times.back()) / group.applied_groups;
      see(std::min(static_cast<double>(group.applied_bytes), kMostBytes) / group.applied_groups, mean,
          static_cast<std::size_t>(Stage::apply), kStages);
    }
    answered_ = true;
    backlog_s_ = sane(group.backlog_s);
    // Half of the window may be on the way, or it would be full of a long line alone.
    floor_ = between(2 * sane(group.round_trip_s) / set_.credits, low_, high_, low_);
    sleep_from(group.now_ns);
    return out_;
  }

 private:
  struct Lane {
    LaneFit fit;
    double bytes = 0, seconds = 0;   // of the last group
    bool fresh = false;              // not acted on yet
    StageTimes usual{};              // of its stages, smoothed: which of them is the longest
  };

  void see(double bytes, const StageTimes& times, std::size_t from, std::size_t to) {
    StageTimes sum{};
    for (std::size_t i = from; i < to; ++i) {
      sum[set_.lanes[i]] += sane(times[i]);
      double& usual = lanes_[set_.lanes[i]].usual[i];
      usual += 0.2 * (sane(times[i]) - usual);
    }
    for (std::size_t i = 0; i < kStages; ++i) {
      if (sum[i] == 0) continue;     // not measured
      Lane& lane = lanes_[i];
      lane.fit.add(bytes, sum[i]);
      lane.bytes = bytes;
      lane.seconds = sum[i];
      lane.fresh = true;
    }
  }

  static double sure_slope(const Lane& lane) { return std::max(0.0, lane.fit.per_byte() - kSure * lane.fit.doubt_per_byte()); }

  // What a lane would take now for the group of one interval: its last time, carried to that size. An acknowledgement is some
  // intervals old; a need that it states for a size of then would undo every step until it has caught up.
  double carried(const Lane& lane, double bytes) const {
    return std::max(0.0, lane.seconds + sure_slope(lane) * (bytes - lane.bytes)) / set_.share;
  }
  // A lane's load when its slope is `per_byte`: 1 is where a T + margin no longer closes.
  double load_at(double per_byte) const { return kMargin * per_byte * out_.rate / set_.share; }
  // The fixed point of one lane. It is where T = need, also when groups no longer grow: step and law must aim at one point.
  double fixed_point(const Lane& lane, double limit) const {
    const double load = load_at(lane.fit.per_byte());
    const double free = load < 1 ? kMargin * lane.fit.fixed() / set_.share / (1 - load) : std::numeric_limits<double>::infinity();
    return std::min(free, kMargin * lane.fit.at(limit) / set_.share);
  }

  void adjust() {
    out_.stepped = false;
    const double now = out_.interval_s;
    const double limit = static_cast<double>(out_.threshold_bytes);
    Lane* slowest = nullptr;
    double longest = 0, target = 0;
    for (Lane& lane : lanes_) {
      if (!lane.fit.known()) continue;
      target = std::max(target, fixed_point(lane, limit));
      const double time = carried(lane, std::min(out_.rate * now, limit));
      if (slowest && time <= longest) continue;
      slowest = &lane;
      longest = time;
    }
    if (!slowest) return;
    explain(*slowest, longest);
    out_.target_s = between(target, floor(), high_, high_);
    const double step = std::clamp(out_.target_s, now / kMostDown, now * kMostUp);
    if (!answered_ && out_.need_s <= now) {
      // What the mirror needs is not known yet.
    } else if (std::abs(step - now) > kStep * now && sure_beyond(now, step, limit)) {
      out_.stepped = true;
      move_to(step);
      drift_ = scatter_ = 0;
    } else if (std::exchange(slowest->fresh, false)) {   // every measurement moves the interval once
      const double gain = (out_.need_s > now ? set_.beta : set_.alpha) * agreement((out_.need_s - now) / now, out_.noise);
      // One group that took long need not be one of many: it does not take the interval further than a step would.
      move_to(std::max(floor(), std::min(now + gain * (out_.need_s - now), kMostUp * now)));
    }
    // A stall or two look like a lane that has become slow for every byte, and the interval like one for groups that would take seconds. The first
    // group that does not take them shows it: what is collected for much longer than any lane was busy waits for nothing.
    double busy = 0;
    for (const Lane& lane : lanes_) busy = std::max(busy, lane.seconds);
    if (answered_) move_to(std::min(out_.interval_s, std::max(floor(), kMostUp * kMargin * busy / set_.share)));
    size(*slowest);
  }

  double floor() const { return std::max(low_, floor_); }

  // Whether even half the way is on this side of the fixed point, beyond the doubt about the fits.
  bool sure_beyond(double now, double step, double limit) const {
    const double half = (now + step) / 2;
    const double bytes = std::min(out_.rate * half, limit);
    if (step < now && half <= floor()) return true;
    bool all_shorter = true, one_longer = false;
    for (const Lane& lane : lanes_) {
      if (!lane.fit.known()) continue;
      const double need = kMargin * lane.fit.at(bytes) / set_.share;
      const double doubt = kSure * kMargin * lane.fit.doubt_at(bytes) / set_.share;
      all_shorter = all_shorter && need + doubt <= half;
      one_longer = one_longer || need - doubt >= half;
    }
    return step > now ? one_longer : all_shorter;
  }

  // Near its target the interval would follow the noise, and far: a weak pull 1 − L amplifies it by 1 / √(1 − L). So where there is
  // noise the gain counts as far as the errors of the last periods agree: all of one sign, wholly; as many up as down, hardly.
  double agreement(double error, double noise) {
    drift_ += kRemember * (error - drift_);
    scatter_ += kRemember * (std::abs(error) - scatter_);
    const double signal = scatter_ > 0 ? drift_ / scatter_ : 1, quiet = noise / kQuiet;
    return std::max(signal * signal, 1 / (1 + quiet * quiet));
  }

  void size(const Lane& slowest) {
    const double a = slowest.fit.fixed() + 2 * slowest.fit.doubt_fixed();   // in doubt the larger group
    const double b = std::max(0.0, slowest.fit.per_byte() - 2 * slowest.fit.doubt_per_byte());
    double most = b > 0 ? a * (1 - set_.overhead) / (set_.overhead * b) : memory_;
    if (set_.rpo_s > 0 && b > 0) most = std::min(most, (high_ * set_.share / kMargin - slowest.fit.fixed()) / b);
    limit_to(most);
  }

  void explain(const Lane& slowest, double longest) {
    const auto stage = std::max_element(slowest.usual.begin(), slowest.usual.end()) - slowest.usual.begin();
    out_.bottleneck = static_cast<Stage>(stage);
    out_.need_s = kMargin * longest;
    out_.load = load_at(slowest.fit.per_byte());
    out_.noise = slowest.fit.noise();
    double mirror = 0;
    for (std::size_t i = kFirstOfBackup; i < kStages; ++i) mirror = std::max(mirror, lanes_[set_.lanes[i]].seconds);
    out_.mirror_idle_s = std::max(0.0, out_.interval_s - mirror);
  }

  void look_for_overload(bool window_full) {
    bool loaded = false, late = false;
    const double limit = static_cast<double>(out_.threshold_bytes);
    for (const Lane& lane : lanes_) {
      if (!lane.fit.known()) continue;
      // With groups as large as they may become, not even without the margin.
      const double largest = out_.rate * std::max(0.0, lane.fit.at(limit) - kSure * lane.fit.doubt_at(limit)) / limit / set_.share;
      loaded = loaded || load_at(sure_slope(lane)) >= kFull || largest >= 1;
    }
    late = out_.target_s >= high_ && out_.need_s > high_;
    const auto count = [](int& periods, bool now) { return (periods = now ? std::min(periods + 1, kPeriods) : 0) == kPeriods; };
    const bool load = count(loaded_, loaded), window = count(window_, window_full), backlog = count(behind_, backlog_s_ > set_.backlog_s);
    out_.rpo_missed = count(late_, late);
    out_.overload = load ? Overload::load : window ? Overload::window : backlog ? Overload::backlog : Overload::none;
  }

  std::array<Lane, kStages> lanes_;
  bool rated_ = false;
  bool answered_ = false;                   // by the mirror, ever
  double backlog_s_ = 0, floor_ = 0;
  double drift_ = 0, scatter_ = 0;          // mean and mean size of the relative errors
  int loaded_ = 0, window_ = 0, behind_ = 0, late_ = 0;   // periods in a row
};

std::string clause(bool wrong, const char* what) { return wrong ? what : ""; }

}  // namespace

const char* name_of(Pacing pacing) {
  switch (pacing) {
    case Pacing::bottleneck: return "bottleneck";
    case Pacing::paper: return "paper";
    case Pacing::none: return "none";
  }
  return "?";
}

const char* name_of(Overload overload) {
  switch (overload) {
    case Overload::none: return "none";
    case Overload::load: return "load";
    case Overload::window: return "window";
    case Overload::backlog: return "backlog";
  }
  return "?";
}

double PaceSettings::upper_s() const { return rpo_s > 0 ? std::min(max_s, rpo_s / 3) : max_s; }
double PaceSettings::lower_s() const { return std::min(min_s, upper_s()); }

std::string PaceSettings::problem() const {
  const auto outside = [](double value, double low, double high) { return !(value >= low && value <= high); };
  std::string first;
  const auto say = [&](bool wrong, const char* what) { if (first.empty()) first = clause(wrong, what); };
  say(outside(alpha, 0.01, 1), "alpha must lie between 0.01 and 1");
  say(outside(beta, 0.01, 1), "beta must lie between 0.01 and 1");
  say(outside(min_s, 1e-4, 3600), "the shortest interval must lie between 0.1 ms and an hour");
  say(outside(max_s, min_s, 3600), "the longest interval must lie between the shortest and an hour");
  say(rpo_s != 0 && outside(rpo_s, 3 * min_s, kLongest), "rpo must be at least three times the shortest interval, or 0 for none");
  say(outside(first_s, min_s, upper_s()), "the first interval must lie between the shortest and the longest (a third of rpo at most)");
  say(outside(share, 0.01, 1), "share must lie between 0.01 and 1");
  say(outside(overhead, 0.01, 0.5), "overhead must lie between 0.01 and 0.5");
  say(memory_bytes < (1 << 20) || memory_bytes > (1ull << 50), "memory must be at least 1 MiB");
  say(credits < 1 || credits > 4096, "credits must lie between 1 and 4096");
  say(outside(backlog_s, 0.1, kLongest), "backlog must be at least 0.1 s");
  return first;
}

std::string Decision::reason() const {
  char text[256];
  if (need_s <= 0) {
    std::snprintf(text, sizeof text, "interval %.1f ms, nothing measured yet", interval_s * 1e3);
    return text;
  }
  std::snprintf(text, sizeof text, "interval %.1f ms: %s at the %s needs %.1f ms for a group, load %.2f at %.1f MB/s", interval_s * 1e3,
                name_of(bottleneck), of_mirror(static_cast<std::size_t>(bottleneck)) ? "mirror" : "source", need_s * 1e3, load, rate / 1e6);
  std::string line = text;
  if (overload == Overload::load) line += "; overloaded: it cannot keep up";
  if (overload == Overload::window) line += "; overloaded: all groups in flight are unanswered";
  if (overload == Overload::backlog) line += "; overloaded: the mirror applies too slowly";
  if (rpo_missed) line += "; too long for the RPO";
  return line;
}

std::unique_ptr<Pace> make_pace(const PaceSettings& settings) {
  if (settings.pacing == Pacing::none) return std::make_unique<BestEffort>(settings);
  if (settings.pacing == Pacing::paper) return std::make_unique<Paper>(settings);
  return std::make_unique<Bottleneck>(settings);
}

}  // namespace somfs::replicator
