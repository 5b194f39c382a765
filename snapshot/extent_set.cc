// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "snapshot/dirty_set.h"

namespace somfs::snapshot {
namespace {

std::uint64_t end_of(std::uint64_t off, std::uint64_t len) {
  return len > ExtentSet::kToEnd - off ? ExtentSet::kToEnd : off + len;
}

}  // namespace

void ExtentSet::add(std::uint64_t off, std::uint64_t len) {
  if (len == 0 || off == kToEnd) return;
  std::uint64_t end = end_of(off, len);
  auto at = by_start_.upper_bound(off);
  if (at != by_start_.begin()) {
    auto before = std::prev(at);
    if (before->second >= end) return;
    if (before->second >= off) {
      off = before->first;
      at = before;
    }
  }
  while (at != by_start_.end() && at->first <= end) {
    end = std::max(end, at->second);
    if (at->first == off) {
      auto rest = std::next(at);
      while (rest != by_start_.end() && rest->first <= end) {
        end = std::max(end, rest->second);
        rest = by_start_.erase(rest);
      }
      at->second = end;
      return;
    }
    at = by_start_.erase(at);
  }
  by_start_.emplace_hint(at, off, end);
}

void ExtentSet::add(const ExtentSet& other) {
  for (const auto& [start, end] : other.by_start_) add(start, end - start);
}

bool ExtentSet::covers(std::uint64_t off, std::uint64_t len) const {
  if (len == 0 || off == kToEnd) return true;
  auto at = by_start_.upper_bound(off);
  return at != by_start_.begin() && std::prev(at)->second >= end_of(off, len);
}

std::uint64_t ExtentSet::bytes(std::uint64_t file_size) const {
  std::uint64_t sum = 0;
  for (const auto& [start, end] : by_start_) {
    if (start >= file_size) break;
    sum += std::min(end, file_size) - start;
  }
  return sum;
}

void ExtentSet::coarsen(std::uint64_t grain) {
  ExtentSet out;
  for (const auto& [start, end] : by_start_) {
    std::uint64_t from = start / grain * grain;
    std::uint64_t to = end == kToEnd || end > kToEnd - grain ? kToEnd : (end + grain - 1) / grain * grain;
    out.add(from, to - from);
  }
  by_start_ = std::move(out.by_start_);
}

}  // namespace somfs::snapshot
