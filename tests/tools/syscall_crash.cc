// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/syscall_crash.h"

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <map>
#include <set>
#include <stdexcept>
#include <thread>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"

namespace somfs::tools {
namespace {

constexpr unsigned long kMark = 0x736f6d66;  // an option prctl does not know: the tracer sees it, the kernel refuses it

// What has to hold for a call of the set to count.
enum class If { always, regular_file, creates_arg1, creates_arg2, creates_how, clones };

struct Known {
  const char* name;
  If when;
};

const std::map<long, Known>& mutating_calls() {
  static const std::map<long, Known> calls = {
      {SYS_open, {"open", If::creates_arg1}},
      {SYS_openat, {"openat", If::creates_arg2}},
      {SYS_openat2, {"openat2", If::creates_how}},
      {SYS_creat, {"creat", If::always}},
      {SYS_write, {"write", If::regular_file}},
      {SYS_writev, {"writev", If::regular_file}},
      {SYS_pwrite64, {"pwrite64", If::regular_file}},
      {SYS_pwritev, {"pwritev", If::regular_file}},
      {SYS_pwritev2, {"pwritev2", If::regular_file}},
      {SYS_sendfile, {"sendfile", If::regular_file}},
      {SYS_copy_file_range, {"copy_file_range", If::always}},
      {SYS_splice, {"splice", If::always}},
      {SYS_truncate, {"truncate", If::always}},
      {SYS_ftruncate, {"ftruncate", If::always}},
      {SYS_fallocate, {"fallocate", If::always}},
      {SYS_fsync, {"fsync", If::always}},
      {SYS_fdatasync, {"fdatasync", If::always}},
      {SYS_sync_file_range, {"sync_file_range", If::always}},
      {SYS_sync, {"sync", If::always}},
      {SYS_syncfs, {"syncfs", If::always}},
      {SYS_msync, {"msync", If::always}},
      {SYS_rename, {"rename", If::always}},
      {SYS_renameat, {"renameat", If::always}},
      {SYS_renameat2, {"renameat2", If::always}},
      {SYS_unlink, {"unlink", If::always}},
      {SYS_unlinkat, {"unlinkat", If::always}},
      {SYS_rmdir, {"rmdir", If::always}},
      {SYS_link, {"link", If::always}},
      {SYS_linkat, {"linkat", If::always}},
      {SYS_symlink, {"symlink", If::always}},
      {SYS_symlinkat, {"symlinkat", If::always}},
      {SYS_mkdir, {"mkdir", If::always}},
      {SYS_mkdirat, {"mkdirat", If::always}},
      {SYS_mknod, {"mknod", If::always}},
      {SYS_mknodat, {"mknodat", If::always}},
      {SYS_chmod, {"chmod", If::always}},
      {SYS_fchmod, {"fchmod", If::always}},
      {SYS_fchmodat, {"fchmodat", If::always}},
      {452, {"fchmodat2", If::always}},
      {SYS_chown, {"chown", If::always}},
      {SYS_lchown, {"lchown", If::always}},
      {SYS_fchown, {"fchown", If::always}},
      {SYS_fchownat, {"fchownat", If::always}},
      {SYS_utime, {"utime", If::always}},
      {SYS_utimes, {"utimes", If::always}},
      {SYS_futimesat, {"futimesat", If::always}},
      {SYS_utimensat, {"utimensat", If::always}},
      {SYS_setxattr, {"setxattr", If::always}},
      {SYS_lsetxattr, {"lsetxattr", If::always}},
      {SYS_fsetxattr, {"fsetxattr", If::always}},
      {SYS_removexattr, {"removexattr", If::always}},
      {SYS_lremovexattr, {"lremovexattr", If::always}},
      {SYS_fremovexattr, {"fremovexattr", If::always}},
      {SYS_ioctl, {"ioctl", If::clones}},
  };
  return calls;
}

bool creates(std::uint64_t flags) { return (flags & (O_CREAT | O_TRUNC)) != 0 || (flags & O_TMPFILE) == O_TMPFILE; }

bool holds(If when, pid_t tid, const __ptrace_syscall_info& info) {
  const auto& arg = info.entry.args;
  switch (when) {
    case If::always: return true;
    case If::regular_file: {
      struct stat st {};
      std::string link = "/proc/" + std::to_string(tid) + "/fd/" + std::to_string(static_cast<int>(arg[0]));
      return stat(link.c_str(), &st) == 0 && S_ISREG(st.st_mode);
    }
    case If::creates_arg1: return creates(arg[1]);
    case If::creates_arg2: return creates(arg[2]);
    case If::creates_how: {  // struct open_how begins with the flags
      errno = 0;
      long flags = ptrace(PTRACE_PEEKDATA, tid, arg[2], nullptr);
      return errno == 0 && creates(static_cast<std::uint64_t>(flags));
    }
    case If::clones: return arg[1] == FICLONE || arg[1] == FICLONERANGE || arg[1] == FS_IOC_SETFLAGS;
  }
  return false;
}

// Follows one tree of processes. Lives on a thread of its own: waiting for "any child of this thread" then means the traced ones.
class Tracer {
 public:
  explicit Tracer(const Plan& plan) : plan_(plan) {}

  Outcome run(const std::function<int()>& child) {
    int gate[2];
    if (pipe2(gate, O_CLOEXEC) != 0) throw std::runtime_error("cannot make a pipe");
    Fd wait_end(gate[0]);
    Fd go_end(gate[1]);
    fflush(nullptr);
    root_ = fork();
    if (root_ < 0) throw std::runtime_error("cannot fork");
    if (root_ == 0) {
      go_end.reset();
      char byte = 0;
      if (::read(wait_end.get(), &byte, 1) != 0) _exit(98);
      wait_end.reset();
      start_counting();
      int code = 99;
      try {
        code = child();
      } catch (...) {
        code = 99;
      }
      fflush(nullptr);
      _exit(code);
    }
    seen_.insert(root_);
    constexpr long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
                             PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SEIZE, root_, nullptr, options) != 0 || ptrace(PTRACE_INTERRUPT, root_, nullptr, nullptr) != 0) {
      int why = errno;
      kill_all();
      drain();
      throw std::runtime_error("cannot trace a child: errno " + std::to_string(why));
    }
    go_end.reset();
    follow();
    kill_all();
    drain();
    return outcome_;
  }

 private:
  // Until the root has ended or the plan's kill took place.
  void follow() {
    for (;;) {
      int status = 0;
      pid_t tid = waitpid(-1, &status, __WALL | __WNOTHREAD);
      if (tid < 0 && errno == EINTR) continue;
      if (tid < 0) return;
      if (WIFEXITED(status) || WIFSIGNALED(status)) {
        ended(tid, status);
        if (tid == root_) return;
        continue;
      }
      seen_.insert(tid);
      int signal = WSTOPSIG(status);
      int event = status >> 16;
      if (signal == (SIGTRAP | 0x80)) {
        if (!at_call(tid)) return;
        go_on(tid, 0);
      } else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
        ptrace(PTRACE_LISTEN, tid, nullptr, nullptr);  // stopped by job control, and stays so
      } else {
        go_on(tid, event != 0 ? 0 : signal);
      }
    }
  }

  // False: the plan says that all ends here.
  bool at_call(pid_t tid) {
    __ptrace_syscall_info info{};
    if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) <= 0) return true;  // it was killed meanwhile
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) return at_entry(tid, info);
    if (info.op == PTRACE_SYSCALL_INFO_EXIT && failing_.erase(tid) != 0)
      ptrace(PTRACE_POKEUSER, tid, offsetof(user_regs_struct, rax), static_cast<long>(-plan_.error));
    return true;
  }

  bool at_entry(pid_t tid, const __ptrace_syscall_info& info) {
    long number = static_cast<long>(info.entry.nr);
    if (number == SYS_prctl && info.entry.args[0] == kMark) {
      counting_ = true;
      outcome_.count = 0;
      return true;
    }
    auto known = mutating_calls().find(number);
    bool mutating = known != mutating_calls().end() && holds(known->second.when, tid, info);
    if (!counting_ || (plan_.which == Calls::mutating && !mutating)) return true;
    ++outcome_.count;
    bool kills = outcome_.count == plan_.kill_at;
    bool fails = outcome_.count == plan_.fail_at;
    if (kills || fails) outcome_.call = known != mutating_calls().end() ? known->second.name : "call " + std::to_string(number);
    if (kills) {
      outcome_.killed = true;
      return false;
    }
    if (fails) {
      ptrace(PTRACE_POKEUSER, tid, offsetof(user_regs_struct, orig_rax), -1L);
      failing_.insert(tid);
    }
    return true;
  }

  void go_on(pid_t tid, int signal) { ptrace(PTRACE_SYSCALL, tid, nullptr, static_cast<long>(signal)); }

  void ended(pid_t tid, int status) {
    seen_.erase(tid);
    if (tid == root_) outcome_.status = status;
  }

  void kill_all() {
    for (pid_t tid : seen_) kill(tid, SIGKILL);
  }

  // Reaps everything. A child born just before the kill shows up here for the first time, and is killed too.
  void drain() {
    for (;;) {
      int status = 0;
      pid_t tid = waitpid(-1, &status, __WALL | __WNOTHREAD);
      if (tid < 0 && errno == EINTR) continue;
      if (tid < 0) return;
      if (WIFSTOPPED(status)) {
        kill(tid, SIGKILL);
        ptrace(PTRACE_CONT, tid, nullptr, nullptr);
      } else {
        ended(tid, status);
      }
    }
  }

  const Plan plan_;
  pid_t root_ = -1;
  bool counting_ = false;
  std::set<pid_t> seen_;     // threads and processes, stopped or running
  std::set<pid_t> failing_;  // inside the call whose result is to be replaced
  Outcome outcome_;
};

}  // namespace

bool Outcome::succeeded() const { return !killed && WIFEXITED(status) && WEXITSTATUS(status) == 0; }

void start_counting() { syscall(SYS_prctl, kMark, 0, 0, 0, 0); }

Outcome run_traced(const std::function<int()>& child, const Plan& plan) {
  Outcome outcome;
  std::exception_ptr thrown;
  std::jthread([&] {
    try {
      outcome = Tracer(plan).run(child);
    } catch (...) {
      thrown = std::current_exception();
    }
  }).join();
  if (thrown) std::rethrow_exception(thrown);
  return outcome;
}

Outcome run_traced(const std::vector<std::string>& command, const Plan& plan) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  return run_traced(
      [&] {
        execvp(argv[0], argv.data());
        return 127;
      },
      plan);
}

}  // namespace somfs::tools
