// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <iterator>

#include "snapshot/coordinator.h"

namespace somfs::snapshot {
namespace {

// Bucket i holds durations up to 0.01 ms · 10^(i/8): eight per decade, from 10 µs to over ten minutes.
double upper_edge(std::size_t i) { return 0.01 * std::pow(10.0, static_cast<double>(i) / 8); }

}  // namespace

void Histogram::add(double ms) {
  min_ = count_ == 0 ? ms : std::min(min_, ms);
  max_ = count_ == 0 ? ms : std::max(max_, ms);
  sum_ += ms;
  ++count_;
  std::size_t i = 0;
  while (i + 1 < std::size(buckets_) && ms > upper_edge(i)) ++i;
  ++buckets_[i];
}

double Histogram::min() const { return min_; }
double Histogram::max() const { return max_; }
double Histogram::mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }

double Histogram::percentile(int percent) const {
  const double wanted = percent / 100.0 * static_cast<double>(count_);
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i + 1 < std::size(buckets_); ++i) {  // the last bucket has no edge
    seen += buckets_[i];
    if (seen > 0 && static_cast<double>(seen) >= wanted) return std::min(upper_edge(i), max_);
  }
  return max_;
}

}  // namespace somfs::snapshot
