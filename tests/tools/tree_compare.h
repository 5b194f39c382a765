// SPDX-License-Identifier: Apache-2.0
// Exact comparison of two trees: names, kinds, modes, owners, device numbers, link targets, sizes, contents (holes read as zeroes),
// mtimes to the nanosecond, extended attributes with ACLs, and which names are hard links to one another. Not compared: ctime,
// atime, birth time, inode numbers, link counts (names outside the tree count there), the size of directories.
// Never follows a symbolic link, needs no path shorter than PATH_MAX, and keeps two descriptors however deep the tree is.
// Both trees must stand still.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "common/result.h"

namespace somfs::tools {

struct CompareOptions {
  std::set<std::string> skip;    // names in the top directory, ".somfs" say
  std::set<std::string> ignore;  // of: mtime, dir-mtime, owner, mode, xattrs, links, content
  std::size_t most = 100;        // differences, then it ends
};

struct Difference {
  std::string path;  // bytes as they are, relative to the top; "." is the top
  std::string what;  // printable: "mode 644 / 600"
};

Result<std::vector<Difference>> compare_trees(const std::string& a, const std::string& b, const CompareOptions& options = {});
// "PATH: WHAT" with the name made printable; long paths shortened in the middle.
std::string line(const Difference& difference);

}  // namespace somfs::tools
