// SPDX-License-Identifier: Apache-2.0
#include "replicator/pace_fit.h"

#include <algorithm>
#include <cmath>

namespace somfs::replicator {
namespace {

// Variances are kept as multiples of the noise's: when the noise turns out to be larger, everything learned becomes less sure with it.
constexpr double kWander = 0.03;            // how far a and b may drift from one group to the next, as a multiple of the noise
constexpr double kFirstNoise = 0.005, kLeastNoise = 0.001, kMostNoise = 0.5;
constexpr double kLearnNoise = 0.15;
constexpr double kAnything = 1e4;           // nothing is known: a hundred times the noise
constexpr double kFar = 9, kFarthest = 25;  // three and five standard deviations, squared
constexpr double kTimer = 1e-6;             // what a timer cannot tell apart, seconds

double square(double x) { return x * x; }

}  // namespace

double LaneFit::doubt_at(double bytes) const { return noise() * std::sqrt(std::max(0.0, aa_ + 2 * bytes * ab_ + square(bytes) * bb_)); }
double LaneFit::doubt_fixed() const { return noise() * std::sqrt(std::max(0.0, aa_)); }
double LaneFit::doubt_per_byte() const { return noise() * std::sqrt(std::max(0.0, bb_)); }
double LaneFit::noise() const { return std::sqrt(noise2_); }

void LaneFit::add(double bytes, double seconds) {
  const double n = std::max(bytes, 1.0);
  if (samples_ == 0) {   // one point: all of it may be fixed, or nothing
    a_ = seconds / 2;
    b_ = seconds / 2 / n;
    aa_ = kAnything * square(seconds);
    bb_ = kAnything * square(seconds / n);
    noise2_ = square(kFirstNoise);
  }
  aa_ += square(kWander * std::max(a_, 0.1 * seconds));
  bb_ += square(kWander * std::max(b_, 0.1 * seconds / n));

  const double error = seconds - at(n);
  const auto spread = [&] { return aa_ + 2 * n * ab_ + n * n * bb_ + square(std::max(at(n), seconds / 4) + kTimer); };
  if (samples_ >= 2) {
    const double seen = square(error) / spread();
    const bool far = seen > kFar * noise2_;
    if (!far) astonished_ = 0;
    else astonished_ = error > 0 ? std::max(astonished_, 0) + 1 : std::min(astonished_, 0) - 1;
    noise2_ += kLearnNoise * (std::min(seen, kFarthest * noise2_) - noise2_);
    if (std::abs(astonished_) == 2) {   // not an outlier: the link or the disk has another rate now; fixed costs rarely change
      aa_ += kAnything * square(a_ / 4);
      bb_ += kAnything * square(std::max(b_, seconds / n));
      astonished_ = 0;
    }
    noise2_ = std::clamp(noise2_, square(kLeastNoise), square(kMostNoise));
  }
  const double across_a = aa_ + n * ab_, across_b = ab_ + n * bb_;
  const double gain_a = across_a / spread(), gain_b = across_b / spread();   // before anything moves
  a_ += gain_a * error;
  b_ += gain_b * error;
  aa_ = std::max(0.0, aa_ - gain_a * across_a);
  ab_ -= gain_a * across_b;
  bb_ = std::max(0.0, bb_ - gain_b * across_b);
  // Neither is negative. What one of them gives up, the other takes over as far as they depend on each other.
  if (a_ < 0) {
    if (aa_ > 0) b_ -= ab_ / aa_ * a_;
    a_ = 0;
  }
  if (b_ < 0) {
    if (bb_ > 0) a_ = std::max(0.0, a_ - ab_ / bb_ * b_);
    b_ = 0;
  }
  ++samples_;
}

}  // namespace somfs::replicator
