// SPDX-License-Identifier: Apache-2.0
// Reproducible trees: the same seed, number and profile give trees that compare_trees() finds equal.
#pragma once

#include <cstdint>
#include <string>

#include "common/result.h"

namespace somfs::tools {

enum class Profile {
  mixed,   // mostly small files, some of megabytes, symbolic and hard links, xattrs
  small,   // 1 to 8 KiB
  big,     // 4 to 32 MiB
  odd,     // everything a file system can hold, and then small files: see make_odd()
  sparse,  // up to 1 GiB apparent, a few blocks real
};

// Into a directory that is empty or holds none of the names. As another user than root, owners, device nodes and trusted.* are left out.
Status make_tree(const std::string& dir, std::uint64_t seed, std::uint64_t files, Profile profile);

}  // namespace somfs::tools
