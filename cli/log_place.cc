// SPDX-License-Identifier: Apache-2.0
#include "cli/log_place.h"

#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <memory>

#include "cli/control.h"
#include "common/printable.h"
#include "fs/mount_table.h"

namespace somfs::cli {
namespace {

std::string followed(const std::string& path) {
  std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr), &std::free);
  return real ? std::string(real.get()) : std::string();
}

// With links followed. A log is made with the directories above it, and through a link that leads nowhere yet.
std::string where_it_would_be(std::string path) {
  for (int links = 0; links < 40; ++links) {
    std::size_t end = path.size();
    std::string there = followed(path);
    while (there.empty() && end > 1) {
      end = path.rfind('/', end - 1);
      there = followed(end == 0 ? "/" : path.substr(0, end));
    }
    const std::string above = there == "/" ? "" : there, rest = path.substr(end);
    if (rest.empty()) return there;
    const std::size_t next = rest.find('/', 1);
    char target[PATH_MAX];
    const ssize_t n = ::readlink((above + rest.substr(0, next)).c_str(), target, sizeof target);
    if (n <= 0) return above + rest;
    const std::string to(target, static_cast<std::size_t>(n));
    path = (to.front() == '/' ? to : above + "/" + to) + (next == std::string::npos ? "" : rest.substr(next));
  }
  return path;
}

}  // namespace

Result<std::string> log_place(const std::string& file, const std::string& dir, const std::string& mountpoint) {
  SOMFS_TRY_ASSIGN(const std::string spelled, absolute_path(file));
  SOMFS_TRY_ASSIGN(const std::string place, absolute_path(where_it_would_be(spelled)));
  for (const std::string& named : {dir, mountpoint}) {
    const std::string real = followed(named);   // none while a dead mount stands there
    if (!fs::beneath(place, named) && (real.empty() || !fs::beneath(place, real))) continue;
    return fail(Exit::configuration, "refusing the log", printable(file), "it would lie in " + printable(named) + ", which is being mounted over",
                "name a file outside of it");
  }
  return place;
}

}  // namespace somfs::cli
