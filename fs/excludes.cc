// SPDX-License-Identifier: Apache-2.0
#include "fs/excludes.h"

#include <algorithm>

namespace somfs::fs {

Excludes::Excludes(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    std::vector<std::string> names;
    for (std::size_t at = 0; at < path.size();) {
      std::size_t slash = std::min(path.find('/', at), path.size());
      if (slash > at && path.substr(at, slash - at) != ".") names.push_back(path.substr(at, slash - at));
      at = slash + 1;
    }
    if (!names.empty()) paths_.push_back(std::move(names));
  }
}

bool Excludes::covers(const std::vector<std::string>& names) const {
  return std::any_of(paths_.begin(), paths_.end(), [&](const std::vector<std::string>& p) {
    return p.size() <= names.size() && std::equal(p.begin(), p.end(), names.begin());
  });
}

}  // namespace somfs::fs
