// SPDX-License-Identifier: Apache-2.0
// The time of a lane as a + b·n, learned from what passes (a Kalman filter of two numbers that may wander). It knows how sure it is: a
// pace must not act on a slope read out of noise.
#pragma once

namespace somfs::replicator {

class LaneFit {
 public:
  void add(double bytes, double seconds);   // finite, not negative

  bool known() const { return samples_ > 0; }
  double fixed() const { return a_; }
  double per_byte() const { return b_; }
  double at(double bytes) const { return a_ + b_ * bytes; }
  double doubt_at(double bytes) const;      // standard deviation of at()
  double doubt_fixed() const;
  double doubt_per_byte() const;
  double noise() const;                     // relative standard deviation of the samples

 private:
  int samples_ = 0;
  double a_ = 0, b_ = 0;
  double aa_ = 0, ab_ = 0, bb_ = 0;         // covariance
  double noise2_ = 0;                       // relative variance
  int astonished_ = 0;                      // samples in a row that lay far above (positive) or below what was expected
};

}  // namespace somfs::replicator
