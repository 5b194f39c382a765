// SPDX-License-Identifier: Apache-2.0
// What /proc tells of other processes, as far as this user may look. Source: proc(5).
#pragma once

#include <dirent.h>
#include <unistd.h>

#include <climits>
#include <fstream>
#include <memory>
#include <string>

namespace somfs::fs {

// Empty where there is none to be seen.
inline std::string read_link(const std::string& path) {
  char target[PATH_MAX];
  ssize_t n = ::readlink(path.c_str(), target, sizeof target);
  return n > 0 ? std::string(target, static_cast<std::size_t>(n)) : std::string();
}

inline std::string command_of(const std::string& process) {   // "/proc/123"
  std::ifstream comm(process + "/comm");
  std::string command;
  std::getline(comm, command);
  return command;
}

// The entries of /proc that are processes, or those of a process's fd/.
template <typename F>
void each_number_in(const std::string& path, F take) {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(path.c_str()), &::closedir);
  if (!dir) return;
  while (dirent* e = ::readdir(dir.get()))
    if (e->d_name[0] >= '0' && e->d_name[0] <= '9') take(std::string(e->d_name));
}

}  // namespace somfs::fs
