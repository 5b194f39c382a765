// SPDX-License-Identifier: Apache-2.0
// somfs [-f] [-o OPTIONS] DIR [MOUNTPOINT]: mounts, and returns when the mount is live.
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <iostream>
#include <map>
#include <set>
#include <thread>

#include "cli/arguments.h"
#include "cli/control.h"
#include "cli/log_place.h"
#include "cli/version.h"
#include "cli/volume.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/printable.h"
#include "fs/mount_table.h"

namespace somfs::cli {
namespace {

struct Arguments {
  std::string dir, mountpoint, config_file, log_file;
  std::vector<std::string> options;
  bool foreground = false, force = false, debug = false;
  bool remount = false;
  unsigned long kernel_flags = 0;  // MS_*, for a remount
  VolumeOptions volume;
};

// The -o list: ours, and those of mount(8) that mean nothing here or are the kernel's.
Status read_options(Arguments* a) {
  for (const std::string& list : a->options) {
    for (std::size_t at = 0; at <= list.size();) {
      std::size_t end = std::min(list.find(',', at), list.size());
      std::string o = list.substr(at, end - at);
      at = end + 1;
      static const std::set<std::string> accepted{"", "rw", "defaults", "dev", "suid", "exec", "auto", "noauto", "user", "users", "nofail", "_netdev",
                                                  "default_permissions",
                                                  "async", "atime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime",
                                                  "nolazytime", "silent", "loud"};
      static const std::map<std::string, unsigned long> of_the_kernel{{"nodev", MS_NODEV}, {"nosuid", MS_NOSUID}, {"noexec", MS_NOEXEC},
                                                                      {"sync", MS_SYNCHRONOUS}, {"dirsync", MS_DIRSYNC}};
      static const std::map<std::string, unsigned long> of_both{{"ro", MS_RDONLY}, {"noatime", MS_NOATIME}, {"nodiratime", MS_NODIRATIME}};
      for (auto* known : {&of_the_kernel, &of_both})
        if (auto flag = known->find(o); flag != known->end()) a->kernel_flags |= flag->second;
      if (o == "writeback") a->volume.writeback = true;
      else if (o == "passthrough") a->volume.passthrough = true;
      else if (o == "ro") a->volume.read_only = true;
      else if (o == "noatime") a->volume.no_atime = true;
      else if (o == "nodiratime") a->volume.no_dir_atime = true;
      else if (o == "remount") a->remount = true;
      else if (o == "force") a->force = true;
      else if (of_the_kernel.contains(o)) a->volume.mount_options.push_back(o);
      else if (o == "allow_other" && ::geteuid() != 0)
        return fail(Exit::not_allowed, "cannot let other users in:", printable(a->dir), "an ordinary user's mount serves that user alone", "mount it as root");
      else if (o == "allow_other") continue;
      else if (o.starts_with("config=")) a->config_file = o.substr(7);
      else if (o.starts_with("log=")) a->log_file = o.substr(4);
      else if (o.starts_with("x-") || o.starts_with("comment=") || o.starts_with("fsname=") || o.starts_with("subtype=")) continue;
      else if (o.starts_with("user_id=") || o.starts_with("group_id=")) continue;  // shown by the kernel, so a remount brings them
      else if (!accepted.contains(o))
        return fail(Exit::usage, "unknown mount option", printable(o), {}, "see somfs(8)");
    }
  }
  if (a->volume.writeback && a->volume.passthrough)
    return fail(Exit::usage, "cannot combine the mount options", "writeback and passthrough", "the kernel has them one at a time", "leave one away");
  return {};
}

Status resolve(Arguments* a) {
  SOMFS_TRY(read_options(a));
  SOMFS_TRY_ASSIGN(a->volume.dir, canonical_without_touching(a->dir));
  a->volume.mountpoint = a->volume.dir;
  if (!a->mountpoint.empty()) {
    SOMFS_TRY_ASSIGN(a->volume.mountpoint, canonical_without_touching(a->mountpoint));
  }
  if (a->remount) return {};
  if (!a->log_file.empty()) {
    SOMFS_TRY_ASSIGN(a->log_file, log_place(a->log_file, a->volume.dir, a->volume.mountpoint));
  } else if (a->foreground) {
    SOMFS_TRY(log_place("/proc/self/fd/2", a->volume.dir, a->volume.mountpoint));
  }
  a->volume.force = a->force;
  a->volume.allow_other = ::geteuid() == 0;
  std::string file = a->config_file.empty() ? default_config_file(a->volume.dir) : a->config_file;
  if (!a->config_file.empty() || ::access(file.c_str(), F_OK) == 0) {
    SOMFS_TRY_ASSIGN(a->volume.config, load_config(file));
  }
  return {};
}

int complain(const Error& e) {
  std::cerr << "somfs: " << e.line() << std::endl;
  return static_cast<int>(e.exit);
}

// mount -o remount: what the kernel decides changes, what the mount began with stays.
Status remount(const Arguments& a) {
  const std::string& at = a.volume.mountpoint;
  std::vector<fs::MountEntry> all = fs::mount_table();
  auto top = std::find_if(all.rbegin(), all.rend(), [&](const fs::MountEntry& m) { return m.where == at; });
  if (top == all.rend() || top->type != "fuse.somfs") return fail(Exit::usage, "no somfs is mounted at", printable(at), {}, "mount it without remount");
  if (::mount(nullptr, at.c_str(), nullptr, MS_REMOUNT | a.kernel_flags, nullptr) != 0) return fail_errno("cannot remount", printable(at));
  return {};
}

// Signals end the mount cleanly. They are blocked in every thread and awaited by one.
sigset_t ending_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int s : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set, s);
  return set;
}

// `report`: where the waiting parent hears the outcome, or -1 in the foreground.
int serve(const Arguments& a, int report) {
  auto tell = [&](int code, const std::string& line) {
    if (report < 0) {
      if (!line.empty()) std::cerr << "somfs: " << line << std::endl;
      return;
    }
    std::string text(1, static_cast<char>(code));
    text += line;
    (void)write_all(report, text);
    ::close(report);
    report = -1;
  };
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t set = ending_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  try {
    log::open(a.log_file, a.debug ? log::Level::debug : log::Level::info);
  } catch (const std::exception& e) {
    const Error error{Exit::configuration, 0, "cannot write the log", printable(a.log_file), e.what(), "name a file that can be written"};
    tell(static_cast<int>(error.exit), error.line());
    return static_cast<int>(error.exit);
  }
  auto volume = Volume::open(a.volume);
  if (!volume) {
    tell(static_cast<int>(volume.error().exit), volume.error().line());
    return static_cast<int>(volume.error().exit);
  }
  for (const std::string& warning : (*volume)->warnings()) std::cerr << "somfs: warning: " << warning << std::endl;
  if (report >= 0) {
    // From here on there is nobody to read what is printed; a log file, when asked for, has been opened.
    int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd : {0, 1, 2}) ::dup2(null, fd);
    if (null > 2) ::close(null);
  }
  tell(0, "");
  std::jthread watcher([&](const std::stop_token& stop) {
    const timespec tick{0, 200'000'000};
    while (!stop.stop_requested())
      if (::sigtimedwait(&set, nullptr, &tick) > 0) (*volume)->stop();
  });
  Status ended = (*volume)->run();
  if (!ended) {
    log::error("{}", ended.error().line());
    return static_cast<int>(ended.error().exit);
  }
  return 0;
}

// The parent waits for the child's word on the mount and leaves with it.
int in_background(const Arguments& a) {
  int p[2];
  if (::pipe2(p, O_CLOEXEC) != 0) return complain({Exit::temporary, errno, "cannot make a pipe", {}, {}, {}});
  pid_t pid = ::fork();
  if (pid < 0) return complain({Exit::temporary, errno, "cannot start in the background", {}, {}, {}});
  if (pid == 0) {
    ::close(p[0]);
    ::setsid();
    (void)!::chdir("/");
    ::_exit(serve(a, p[1]));
  }
  ::close(p[1]);
  std::string word(65536, '\0');
  std::size_t got = 0;
  (void)read_all(p[0], word.data(), word.size(), &got);
  if (got == 0) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    return complain({Exit::temporary, 0, "the mount process ended early", printable(a.dir), {}, "run somfs -f to see why"});
  }
  if (got > 1) std::cerr << "somfs: " << word.substr(1, got - 1) << std::endl;
  return static_cast<unsigned char>(word[0]);
}

}  // namespace
}  // namespace somfs::cli

int main(int argc, char** argv) {
  using namespace somfs::cli;
  CommandLine app("Protects a directory: mounts over it, sees every change, and can take snapshots of one exact instant.", "somfs");
  Arguments a;
  app.add_option("DIR", a.dir, "The directory to protect").required();
  app.add_option("MOUNTPOINT", a.mountpoint, "Where to mount it (default: over DIR itself)");
  app.add_flag("-f,--foreground", a.foreground, "Stay in the foreground, log to standard error");
  app.add_flag("--force", a.force, "Mount although files in it are open: what is written through those is not seen");
  app.add_flag("--debug", a.debug, "Log more");
  app.add_option("-o", a.options, "Mount options: ro, writeback, passthrough, nodev, nosuid, noexec, sync, dirsync, noatime, nodiratime, force, config=FILE, log=FILE").expected(1).allow_extra_args(false);
  app.set_version_flag("--version,-V", std::string("somfs ") + kVersion);
  app.footer("Stop with: umount MOUNTPOINT, or somfs-ctl umount DIR. In /etc/fstab: DIR DIR fuse.somfs defaults,nofail 0 0");
  const Parsed parsed = app.parse(argc, argv);
  if (parsed.answer) {
    std::cout << *parsed.answer << std::flush;
    return 0;
  }
  if (parsed.problem) return complain({somfs::Exit::usage, 0, *parsed.problem, {}, {}, "see somfs --help"});
  try {
    if (auto s = resolve(&a); !s) return complain(s.error());
    if (a.remount) {
      auto s = remount(a);
      return s ? 0 : complain(s.error());
    }
    return a.foreground ? serve(a, -1) : in_background(a);
  } catch (const std::exception& e) {
    return complain({somfs::Exit::temporary, 0, "failed unexpectedly", {}, e.what(), {}});
  }
}
