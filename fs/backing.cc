// SPDX-License-Identifier: Apache-2.0
#include "fs/backing.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <spawn.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "common/named_directory.h"
#include "common/printable.h"
#include "fs/excludes.h"
#include "fs/mount_table.h"
#include "fs/proc_files.h"

extern char** environ;

namespace somfs::fs {
namespace {

constexpr const char* kType = "fuse.somfs";

// The topmost mount at `where` is a somfs mount.
bool somfs_is_mounted_at(const std::string& where) {
  std::vector<MountEntry> all = mount_table();
  auto top = std::find_if(all.rbegin(), all.rend(), [&](const MountEntry& m) { return m.where == where; });
  return top != all.rend() && top->type == kType;
}

// Only a real access tells: a dead mount still stands in the table.
bool is_dead(const std::string& where) {
  DIR* dir = ::opendir(where.c_str());
  if (dir == nullptr) return errno == ENOTCONN || errno == ECONNABORTED;
  errno = 0;
  bool dead = ::readdir(dir) == nullptr && (errno == ENOTCONN || errno == ECONNABORTED);
  ::closedir(dir);
  return dead;
}

bool detach(const std::string& where) {
  if (::umount2(where.c_str(), MNT_DETACH) == 0) return true;
  const char* args[] = {"fusermount3", "-u", "-z", "--", where.c_str(), nullptr};
  pid_t pid = 0;
  int status = 0;
  return ::posix_spawnp(&pid, args[0], nullptr, nullptr, const_cast<char**>(args), environ) == 0 &&
         ::waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// The absolute path, as far as it can be told while a dead mount may stand there. `purpose`: "cannot protect".
Result<std::string> absolute(const std::string& path, const char* purpose) {
  std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr), &std::free);
  if (real) return std::string(real.get());
  if (errno != ENOTCONN && errno != ECONNABORTED) return fail_named_directory(purpose, printable(path));
  std::string bare = path;
  while (bare.size() > 1 && bare.back() == '/') bare.pop_back();
  std::size_t slash = bare.rfind('/');
  std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : bare.substr(0, slash);
  std::unique_ptr<char, decltype(&std::free)> above(::realpath(parent.c_str(), nullptr), &std::free);
  if (!above) return fail_named_directory(purpose, printable(path));
  std::string out = above.get();
  if (out != "/") out.push_back('/');
  return out + bare.substr(slash == std::string::npos ? 0 : slash + 1);
}

Status clear_mounts(const std::string& where, bool* replaced) {
  for (int tries = 0; tries < 16 && somfs_is_mounted_at(where); ++tries) {
    if (!is_dead(where))
      return fail(Exit::locked, "refusing to mount", printable(where), "somfs is already mounted there",
                  "unmount it first: umount " + printable(where));
    if (!detach(where)) return fail_errno("cannot clear away the dead mount at", printable(where));
    *replaced = true;
  }
  return {};
}

Status refuse_nested_mounts(const std::string& dir, const Excludes& excludes) {
  for (const MountEntry& m : mount_table()) {
    if (!beneath(m.where, dir)) continue;
    std::vector<std::string> names;
    std::istringstream rest(m.where.substr(dir == "/" ? 1 : dir.size() + 1));
    for (std::string name; std::getline(rest, name, '/');) names.push_back(name);
    if (excludes.covers(names)) continue;
    return fail(Exit::configuration, "refusing to mount over", printable(dir),
                "another file system is mounted beneath it at " + printable(m.where), "exclude it or unmount it");
  }
  return {};
}

Status refuse_own_files(const std::string& dir) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::size_t at = line.find('/');
    if (at != std::string::npos && line.find(" r-xp ") != std::string::npos && beneath(line.substr(at), dir))
      return fail(Exit::configuration, "refusing to mount over", printable(dir),
                  "somfs itself runs from there: " + printable(line.substr(at)), "protect a directory without it");
  }
  return {};
}

bool open_to_write(const std::string& fdinfo) {
  std::ifstream file(fdinfo);
  for (std::string word; file >> word;) {
    if (word != "flags:" || !(file >> word)) continue;
    unsigned long flags = std::strtoul(word.c_str(), nullptr, 8);
    return (flags & O_ACCMODE) != O_RDONLY && (flags & O_PATH) == 0;
  }
  return false;
}

// All held by processes of ours; false when there is nothing.
bool only_somfs(const std::vector<OpenBeneath>& open) {
  return !open.empty() && std::all_of(open.begin(), open.end(), [](const OpenBeneath& o) { return o.command == "somfs"; });
}

std::string list_of(const std::vector<OpenBeneath>& open) {
  constexpr std::size_t kMost = 5;
  std::string list;
  for (std::size_t i = 0; i < open.size() && i < kMost; ++i)
    list += (i == 0 ? "" : ", ") + printable(open[i].path) + " by " + printable(open[i].command) + " (" + std::to_string(open[i].pid) + ")";
  if (open.size() > kMost) list += " and " + std::to_string(open.size() - kMost) + " more";
  return list;
}

}  // namespace

std::vector<OpenBeneath> open_for_writing_beneath(const std::string& dir) {
  std::vector<OpenBeneath> out;
  // A path alone does not tell: what is still open on a dead mount over the directory has the same one. Our own state may still be open
  // in a process that is just ending.
  const std::string own = dir + "/.somfs";
  struct stat top{};
  ::stat(dir.c_str(), &top);
  each_number_in("/proc", [&](const std::string& pid) {
    if (std::atoi(pid.c_str()) == ::getpid()) return;
    std::string base = "/proc/" + pid;
    auto add = [&](const std::string& path) {
      if (out.empty() || out.back().pid != std::atoi(pid.c_str()) || out.back().path != path)
        out.push_back({std::atoi(pid.c_str()), command_of(base), path});
    };
    each_number_in(base + "/fd", [&](const std::string& n) {
      std::string path = read_link(base + "/fd/" + n);
      struct stat st{};
      if (beneath(path, dir) && !beneath(path, own) && open_to_write(base + "/fdinfo/" + n) && ::stat((base + "/fd/" + n).c_str(), &st) == 0 &&
          st.st_dev == top.st_dev)
        add(path);
    });
    std::ifstream maps(base + "/maps");
    for (std::string line; std::getline(maps, line);) {
      std::size_t at = line.find('/');
      if (at == std::string::npos || line.find(" rw-s ") == std::string::npos || !beneath(line.substr(at), dir) || beneath(line.substr(at), own)) continue;
      unsigned dev_major = 0, dev_minor = 0;
      if (std::sscanf(line.c_str(), "%*s %*s %*s %x:%x", &dev_major, &dev_minor) == 2 && makedev(dev_major, dev_minor) == top.st_dev)
        add(line.substr(at));
    }
  });
  return out;
}

Result<Backing> Backing::open(const BackingOptions& options) {
  Backing b;
  b.excludes_ = options.excludes;
  SOMFS_TRY_ASSIGN(b.dir_, absolute(options.dir, "cannot protect"));
  SOMFS_TRY(clear_mounts(b.dir_, &b.replaced_dead_mount_));
  b.mountpoint_ = b.dir_;
  if (!options.mountpoint.empty()) {
    SOMFS_TRY_ASSIGN(b.mountpoint_, absolute(options.mountpoint, "cannot mount at"));
    SOMFS_TRY(clear_mounts(b.mountpoint_, &b.replaced_dead_mount_));
    struct stat st;
    if (::stat(b.mountpoint_.c_str(), &st) != 0) return fail_named_directory("cannot mount at", printable(b.mountpoint_));
    if (!S_ISDIR(st.st_mode)) return fail_named_directory("cannot mount at", printable(b.mountpoint_), ENOTDIR);
    if (beneath(b.mountpoint_, b.dir_))
      return fail(Exit::usage, "refusing to mount at", printable(b.mountpoint_), "it lies inside the protected directory", "name one outside it");
  }
  b.fd_ = Fd(::open(b.dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!b.fd_) return fail_named_directory("cannot protect", printable(b.dir_));
  SOMFS_TRY(refuse_nested_mounts(b.dir_, Excludes(options.excludes)));
  SOMFS_TRY(refuse_own_files(b.dir_));
  b.open_beneath_ = open_for_writing_beneath(b.dir_);
  // umount(8) does not wait for the process of the mount before this one, which may have many removed files to let go of.
  for (int tries = 0; tries < 300 && only_somfs(b.open_beneath_); ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    b.open_beneath_ = open_for_writing_beneath(b.dir_);
  }
  if (!options.force && !b.open_beneath_.empty()) {
    return fail(Exit::locked, "refusing to mount over", printable(b.dir_), "files beneath are open for writing: " + list_of(b.open_beneath_),
                "stop those processes or use --force: what they write is not captured");
  }
  return b;
}

}  // namespace somfs::fs
