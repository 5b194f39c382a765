// SPDX-License-Identifier: Apache-2.0
// /proc/self/mountinfo: what is mounted where. Source: proc(5).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace somfs::fs {

struct MountEntry {
  std::string where;    // the mount point, unescaped
  std::string type;     // "ext4", "fuse.somfs"
  std::string source;
  std::string device;   // "MAJOR:MINOR"
};

// One line per entry, lines that cannot be read left out.
std::vector<MountEntry> parse_mountinfo(std::string_view text);
std::vector<MountEntry> mount_table();

// Whether `path` lies beneath `dir` (not `dir` itself). Both absolute.
bool beneath(std::string_view path, std::string_view dir);

}  // namespace somfs::fs
