// SPDX-License-Identifier: Apache-2.0
#include "fs/insiders.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>

#include "common/printable.h"
#include "fs/excludes.h"
#include "fs/mount_table.h"
#include "fs/proc_files.h"

namespace somfs::fs {
namespace {

bool is_excluded(const std::string& path, const Protected& where) {
  if (path == where.dir) return false;
  std::vector<std::string> names;
  std::istringstream rest(path.substr(where.dir == "/" ? 1 : where.dir.size() + 1));
  for (std::string name; std::getline(rest, name, '/');) names.push_back(name);
  return names.front() == ".somfs" || Excludes(where.excludes).covers(names);
}

// Whether what a link of /proc leads to is a directory in there that is not removed.
bool stands_in(const std::string& link, const Protected& where) {
  const std::string path = read_link(link);
  if ((path != where.dir && !beneath(path, where.dir)) || is_excluded(path, where)) return false;
  // From what the kernel has in memory: in the mount this must not become a request.
  struct statx x{};
  if (::statx(AT_FDCWD, link.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &x) != 0 || !S_ISDIR(x.stx_mode) ||
      makedev(x.stx_dev_major, x.stx_dev_minor) != where.device)
    return false;
  struct stat st{};
  return ::stat(link.c_str(), &st) == 0 && st.st_nlink > 0;
}

std::optional<Insider::By> stands_by(const std::string& process, const Protected& where) {
  if (stands_in(process + "/cwd", where)) return Insider::By::working_directory;
  if (stands_in(process + "/root", where)) return Insider::By::root;
  if (std::atoi(process.c_str() + 6) == ::getpid()) return {};   // what we hold is how we reach the directory
  bool holds = false;
  each_number_in(process + "/fd", [&](const std::string& n) { holds = holds || stands_in(process + "/fd/" + n, where); });
  if (holds) return Insider::By::descriptor;
  return {};
}

int parent_of(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  int parent = 0;
  const std::size_t after = text.rfind(')');   // the command may hold anything
  return after != std::string::npos && std::sscanf(text.c_str() + after + 1, " %*c %d", &parent) == 1 ? parent : 0;
}

std::set<int> ending_with_the_call() {
  std::set<int> ending, above;
  int pid = ::getppid();
  if (command_of("/proc/" + std::to_string(pid)) == command_of("/proc/self")) ending.insert(pid);
  for (int steps = 0; pid > 1 && steps < 32; ++steps, pid = parent_of(pid)) {
    above.insert(pid);
    if (command_of("/proc/" + std::to_string(pid)) == "mount") ending.insert(above.begin(), above.end());
  }
  return ending;
}

}  // namespace

std::vector<Insider> insiders(const Protected& where) {
  std::vector<Insider> out;
  const std::set<int> ending = ending_with_the_call();
  each_number_in("/proc", [&](const std::string& number) {
    const int pid = std::atoi(number.c_str());
    if (ending.contains(pid)) return;
    if (auto by = stands_by("/proc/" + number, where)) out.push_back({pid, command_of("/proc/" + number), *by});
  });
  return out;
}

std::vector<Insider> still_inside(const std::vector<Insider>& known, const Protected& where) {
  std::vector<Insider> out;
  for (const Insider& i : known)
    if (auto by = stands_by("/proc/" + std::to_string(i.pid), where)) out.push_back({i.pid, i.command, *by});
  return out;
}

std::vector<std::string> warnings_of(const std::vector<Insider>& inside, const Protected& where) {
  constexpr std::size_t kMost = 5;
  std::vector<std::string> lines;
  const std::string there = printable(where.dir), anew = where.mountpoint == where.dir ? "" : " at " + printable(where.mountpoint);
  for (const Insider& i : inside) {
    if (lines.size() == kMost) break;
    std::string line = printable(i.command) + " (pid " + std::to_string(i.pid) + ") has ";
    switch (i.by) {
      case Insider::By::working_directory:
        line += "its working directory in " + there + ": what it creates there by relative names is not seen until it has gone in again" + anew;
        break;
      case Insider::By::root:
        line += "its root directory in " + there + ": what it changes there is not seen until it is started again" + anew;
        break;
      case Insider::By::descriptor:
        line += "a directory of " + there + " open: what it creates there by relative names is not seen until it has opened it again" + anew;
        break;
    }
    lines.push_back(std::move(line));
  }
  if (inside.size() > kMost) lines.push_back("and " + std::to_string(inside.size() - kMost) + " more processes in " + there + " like these");
  return lines;
}

}  // namespace somfs::fs
