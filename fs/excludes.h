// SPDX-License-Identifier: Apache-2.0
// The excluded parts of a volume: paths relative to its root. What lies at or beneath one is not captured.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace somfs::fs {

class Excludes {
 public:
  Excludes() = default;
  explicit Excludes(const std::vector<std::string>& paths);

  bool empty() const { return paths_.empty(); }
  // Whether the path whose components are `names` lies at or beneath an excluded one.
  bool covers(const std::vector<std::string>& names) const;

 private:
  std::vector<std::vector<std::string>> paths_;
};

}  // namespace somfs::fs
