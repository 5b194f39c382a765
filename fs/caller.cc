// SPDX-License-Identifier: Apache-2.0
#include "fs/caller.h"

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>

#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "common/fd.h"

namespace somfs::fs {
namespace {

// glibc's wrappers change every thread of the process, or (umask) all that share the file-system context: raw calls and
// a context of this thread's own are needed.
struct ThreadState {
  mode_t umask = 0;
  std::uint64_t permitted = 0;
  bool reserve = true;  // whether CAP_SYS_RESOURCE is in effect: room reserved for root, no quota

  ThreadState() {
    if (::unshare(CLONE_FS) == 0) ::umask(0);
    __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    if (::syscall(SYS_capget, &head, data) == 0)
      permitted = data[0].permitted | static_cast<std::uint64_t>(data[1].permitted) << 32;
  }

  void set_umask(mode_t mask) {
    if (mask == umask) return;
    ::umask(mask);
    umask = mask;
  }

  // All that is permitted, but for CAP_FSETID and what only root may use up.
  void keep_capabilities() {
    reserve = false;
    set_effective(permitted & ~(1ull << CAP_FSETID | 1ull << CAP_SYS_RESOURCE));
  }

  void give_up_reserve() {
    reserve = false;
    set_effective(permitted & ~(1ull << CAP_SYS_RESOURCE));
  }

  void use_reserve() {
    if (reserve) return;
    reserve = true;
    set_effective(permitted);
  }

 private:
  void set_effective(std::uint64_t effective) const {
    __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    data[0].permitted = static_cast<std::uint32_t>(permitted);
    data[1].permitted = static_cast<std::uint32_t>(permitted >> 32);
    data[0].effective = static_cast<std::uint32_t>(effective);
    data[1].effective = static_cast<std::uint32_t>(effective >> 32);
    ::syscall(SYS_capset, &head, data);
  }
};

ThreadState& thread_state() {
  thread_local ThreadState state;
  return state;
}

std::vector<gid_t> groups_of(fuse_req_t req) {
  std::vector<gid_t> groups(64);
  int n = fuse_req_getgroups(req, static_cast<int>(groups.size()), groups.data());
  if (n > static_cast<int>(groups.size())) {
    groups.resize(static_cast<std::size_t>(n));
    n = fuse_req_getgroups(req, n, groups.data());
  }
  groups.resize(n > 0 ? std::min(static_cast<std::size_t>(n), groups.size()) : 0);
  return groups;
}

}  // namespace

bool acts_for_others() {
  static const bool root = ::geteuid() == 0;
  return root;
}

ActAs::ActAs(fuse_req_t req, mode_t mode) {
  const fuse_ctx* ctx = fuse_req_ctx(req);
  ThreadState& thread = thread_state();
  thread.set_umask(ctx->umask & 0777);
  if (!acts_for_others()) return;
  // The groups matter for one thing: whether a set-group-id bit may stay on a new file.
  if (ctx->uid != 0 && (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP)) {
    std::vector<gid_t> groups = groups_of(req);
    groups_ = ::syscall(SYS_setgroups, groups.size(), groups.data()) == 0;
  }
  if (ctx->gid != 0) {
    ::syscall(SYS_setfsgid, ctx->gid);
    group_ = true;
  }
  if (ctx->uid != 0) {
    ::syscall(SYS_setfsuid, ctx->uid);
    user_ = true;
    thread.keep_capabilities();
  } else {
    thread.use_reserve();
  }
}

ActAs::~ActAs() {
  if (user_) ::syscall(SYS_setfsuid, 0);  // brings the dropped capability back
  if (group_) ::syscall(SYS_setfsgid, 0);
  if (groups_) ::syscall(SYS_setgroups, 0, nullptr);
}

ChargeTo::ChargeTo(fuse_req_t req, bool ordinary) {
  uid_t uid = fuse_req_ctx(req)->uid;
  if (!acts_for_others()) return;
  user_ = ordinary && uid != 0;
  if (!user_) {
    thread_state().use_reserve();
    return;
  }
  // ext4 gives its reserve to a user id as well as to a capability: root's, unless told otherwise. The capabilities that went with
  // the user come back: without CAP_FSETID the file system beneath would judge set-id bits once more, by the daemon's groups.
  ::syscall(SYS_setfsuid, uid);
  thread_state().give_up_reserve();
}

ChargeTo::~ChargeTo() {
  if (user_) ::syscall(SYS_setfsuid, 0);
}

bool caller_in_group(fuse_req_t req, gid_t group) {
  if (fuse_req_ctx(req)->gid == group) return true;
  std::vector<gid_t> groups = groups_of(req);
  return std::find(groups.begin(), groups.end(), group) != groups.end();
}

bool caller_keeps_set_ids(fuse_req_t req) {
  const fuse_ctx* ctx = fuse_req_ctx(req);
  const std::string caller = "/proc/" + std::to_string(ctx->pid);
  struct stat ours, theirs;
  auto status = read_file(AT_FDCWD, caller + "/status", 16384);
  const std::size_t at = status ? status->find("\nCapEff:") : std::string::npos;
  // Out of sight, in a namespace that is not beneath ours: by the user.
  if (at == std::string::npos || ::stat("/proc/self/ns/user", &ours) != 0 || ::stat((caller + "/ns/user").c_str(), &theirs) != 0)
    return ctx->uid == 0;
  const std::uint64_t effective = std::strtoull(status->c_str() + at + std::strlen("\nCapEff:"), nullptr, 16);
  return (effective & 1ull << CAP_FSETID) != 0 && ours.st_ino == theirs.st_ino;
}

}  // namespace somfs::fs
