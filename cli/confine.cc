// SPDX-License-Identifier: Apache-2.0
#include "cli/confine.h"

#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <vector>

// Sanitizers make system calls of their own.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SOMFS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SOMFS_SANITIZED 1
#endif
#endif

namespace somfs::cli {
namespace {

constexpr std::uint32_t kProcessor =
#if defined(SOMFS_SANITIZED)
    0;
#elif defined(__x86_64__)
    AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
    AUDIT_ARCH_AARCH64;
#else
    0;
#endif

// What a conversation needs, the frequent ones first.
constexpr std::uint32_t kAllowed[] = {
    SYS_read, SYS_sendto, SYS_recvfrom, SYS_futex,
#ifdef SYS_poll
    SYS_poll,
#endif
    SYS_ppoll, SYS_write, SYS_writev, SYS_close, SYS_shutdown, SYS_getsockopt, SYS_eventfd2,
    // memory and time
    SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk, SYS_getrandom, SYS_clock_gettime, SYS_clock_nanosleep, SYS_restart_syscall,
    // threads and their end
    SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_set_robust_list, SYS_rseq, SYS_sched_yield, SYS_sched_getaffinity, SYS_gettid, SYS_getpid,
    SYS_exit, SYS_exit_group,
};

class Program {
 public:
  Program() {
    load(offsetof(seccomp_data, arch));
    unless(kProcessor, SECCOMP_RET_KILL_PROCESS);
    load(offsetof(seccomp_data, nr));
    for (const std::uint32_t call : kAllowed) when(call, SECCOMP_RET_ALLOW);
    // A thread is a clone() whose flags can be looked at; the C library goes back to it where clone3() is missing.
    when(SYS_clone3, SECCOMP_RET_ERRNO | ENOSYS);
    when_argument(SYS_clone, 0, CLONE_THREAD, CLONE_THREAD);
    when_argument(SYS_mmap, 2, PROT_EXEC, 0);
    when_argument(SYS_mprotect, 2, PROT_EXEC, 0);
    when_argument(SYS_prlimit64, 0, ~0u, 0);
    verdict(SECCOMP_RET_KILL_PROCESS);
  }

  bool install() const {
    const sock_fprog all{static_cast<unsigned short>(code_.size()), const_cast<sock_filter*>(code_.data())};
    return ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &all) == 0;
  }

 private:
  void load(std::size_t at) { code_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(at))); }
  void verdict(std::uint32_t what) { code_.push_back(BPF_STMT(BPF_RET | BPF_K, what)); }
  void when(std::uint32_t value, std::uint32_t what) {
    code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1));
    verdict(what);
  }
  void unless(std::uint32_t value, std::uint32_t what) {
    code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0));
    verdict(what);
  }
  // Allowed when the low half of an argument, under a mask, is `value`. Everything else of that call is not.
  void when_argument(std::uint32_t call, unsigned argument, std::uint32_t mask, std::uint32_t value) {
    code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 5));
    load(offsetof(seccomp_data, args) + argument * sizeof(std::uint64_t));   // both processors are little-endian
    code_.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask));
    code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1));
    verdict(SECCOMP_RET_ALLOW);
    verdict(SECCOMP_RET_KILL_PROCESS);
  }
  std::vector<sock_filter> code_;
};

Status limit(int resource, rlim_t most) {
  const rlimit both{most, most};
  if (::setrlimit(static_cast<decltype(RLIMIT_NOFILE)>(resource), &both) != 0) return fail_errno("cannot lower a limit");
  return {};
}

Status become_nobody(const Confinement& limits) {
  if (::fchdir(limits.root) != 0 || ::chroot(".") != 0) return fail_errno("cannot leave the file system");
  for (int c = 0; ::prctl(PR_CAPBSET_READ, c) >= 0; ++c)
    if (::prctl(PR_CAPBSET_DROP, c) != 0) return fail_errno("cannot give up a capability");
  if (::setgroups(0, nullptr) != 0 || ::setresgid(limits.gid, limits.gid, limits.gid) != 0 || ::setresuid(limits.uid, limits.uid, limits.uid) != 0)
    return fail_errno("cannot become another user");
  return {};
}

}  // namespace

bool call_filter_available() {
  const std::uint32_t action = SECCOMP_RET_KILL_PROCESS;
  return kProcessor != 0 && ::syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

Status confine(const Confinement& limits) {
  const pid_t parent = ::getppid();
  if (::geteuid() == 0) SOMFS_TRY(become_nobody(limits));
  // What an ordinary user's process may have been given.
  __user_cap_header_struct version{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &version, none) != 0) return fail_errno("cannot give up the capabilities");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return fail_errno("cannot give up what others have");
  // After the change of user, which undoes it.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return fail_errno("cannot bind the life of a worker to its parent's");
  if (::getppid() != parent) return fail(Exit::interrupted, "the parent has gone");
  SOMFS_TRY(limit(RLIMIT_NOFILE, 16));
  SOMFS_TRY(limit(RLIMIT_FSIZE, 0));
  SOMFS_TRY(limit(RLIMIT_CORE, 0));
  if (call_filter_available() && !Program().install()) return fail_errno("cannot filter the system calls");
  return {};
}

Status no_more_threads() { return limit(RLIMIT_NPROC, 0); }

}  // namespace somfs::cli
