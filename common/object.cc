// SPDX-License-Identifier: Apache-2.0
#include "common/object.h"

namespace somfs {

bool valid_name(std::string_view name) {
  if (name.empty() || name.size() > kMaxName || name == "." || name == "..") return false;
  return name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

}  // namespace somfs
