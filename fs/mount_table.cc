// SPDX-License-Identifier: Apache-2.0
#include "fs/mount_table.h"

#include <fstream>
#include <iterator>
#include <sstream>

namespace somfs::fs {
namespace {

// Space, tab, newline and backslash stand as three octal digits.
std::string unescape(const std::string& s) {
  std::string out;
  for (std::size_t i = 0; i < s.size(); ++i) {
    auto digit = [&](std::size_t at) { return at < s.size() && s[at] >= '0' && s[at] <= '7'; };
    if (s[i] == '\\' && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      out.push_back(static_cast<char>((s[i + 1] - '0') * 64 + (s[i + 2] - '0') * 8 + (s[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(s[i]);
    }
  }
  return out;
}

}  // namespace

std::vector<MountEntry> parse_mountinfo(std::string_view text) {
  std::vector<MountEntry> out;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::vector<std::string> f{std::istream_iterator<std::string>(words), {}};
    std::size_t dash = 6;
    while (dash < f.size() && f[dash] != "-") ++dash;
    if (dash + 2 >= f.size()) continue;
    out.push_back({unescape(f[4]), f[dash + 1], unescape(f[dash + 2]), f[2]});
  }
  return out;
}

std::vector<MountEntry> mount_table() {
  std::ifstream file("/proc/self/mountinfo");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  return parse_mountinfo(text);
}

bool beneath(std::string_view path, std::string_view dir) {
  if (dir == "/") return path.size() > 1 && path.front() == '/';
  return path.size() > dir.size() + 1 && path.starts_with(dir) && path[dir.size()] == '/';
}

}  // namespace somfs::fs
