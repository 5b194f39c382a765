// SPDX-License-Identifier: Apache-2.0
// What a confined process can still do, and that anything else ends it, and it alone.
#include "cli/confine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/fd.h"

namespace somfs::cli {
namespace {

struct Room {
  std::string path = "/tmp/somfs-confine-XXXXXX";
  Fd fd;
  Room() {
    EXPECT_NE(::mkdtemp(path.data()), nullptr);
    fd = Fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~Room() { ::rmdir(path.c_str()); }
};

// How a confined process that does `what` ended: its exit code, or 1000 and the signal.
int ended(const std::function<int()>& what) {
  const Room room;
  const pid_t child = ::fork();
  if (child == 0) {
    ::mallopt(M_ARENA_MAX, 1);
    if (Status s = confine({65534, 65534, room.fd.get()}); !s) ::_exit(99);
    ::_exit(what());
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}
constexpr int kKilled = 1000 + SIGSYS;

TEST(Confine, TalkingIsLeft) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  EXPECT_EQ(ended([&] {
    std::string big(8u << 20, 'x');
    std::thread other([&] { (void)::send(pair[0], "hello", 5, MSG_NOSIGNAL); });
    other.join();
    char text[5];
    if (::read(pair[1], text, 5) != 5 || !no_more_threads()) return 1;
    try {
      std::thread([] {}).join();
    } catch (const std::system_error&) {
      return 0;
    }
    return 2;
  }), 0);
  for (int fd : pair) ::close(fd);
}

TEST(Confine, FilesAreFewAndCannotGrow) {
  EXPECT_EQ(ended([] {
    rlimit files{}, size{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    ::getrlimit(RLIMIT_FSIZE, &size);
    return files.rlim_max <= 16 && size.rlim_max == 0 ? 0 : 1;
  }), 0);
}

TEST(Confine, AnythingElseEndsTheProcess) {
  if (!call_filter_available()) GTEST_SKIP() << "no filter of system calls here";
  const std::vector<std::pair<const char*, std::function<int()>>> forbidden = {
      {"open", [] { return ::open("/etc/passwd", O_RDONLY); }},
      {"stat", [] { return ::access("/", F_OK); }},
      {"unlink", [] { return ::unlink("x"); }},
      {"socket", [] { return ::socket(AF_INET, SOCK_STREAM, 0); }},
      {"connect", [] { return ::connect(0, nullptr, 0); }},
      {"accept", [] { return ::accept(0, nullptr, nullptr); }},
      {"sendmsg", [] { return static_cast<int>(::sendmsg(0, nullptr, 0)); }},
      {"recvmsg", [] { return static_cast<int>(::recvmsg(0, nullptr, 0)); }},
      {"fork", [] { return static_cast<int>(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr)); }},
      {"execve", [] { return ::execl("/bin/true", "true", nullptr); }},
      {"kill", [] { return ::kill(::getppid(), 0); }},
      {"ptrace", [] { return static_cast<int>(::syscall(SYS_ptrace, 0, 0, 0, 0)); }},
      {"setuid", [] { return ::setuid(0); }},
      {"chroot", [] { return ::chroot("/"); }},
      {"mount", [] { return static_cast<int>(::syscall(SYS_mount, 0, 0, 0, 0, 0)); }},
      {"unshare", [] { return ::unshare(CLONE_NEWUSER); }},
      {"bpf", [] { return static_cast<int>(::syscall(SYS_bpf, 0, 0, 0)); }},
      {"io_uring_setup", [] { return static_cast<int>(::syscall(SYS_io_uring_setup, 1, 0)); }},
      {"code in memory", [] { return ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED; }},
      {"memory as code", [] {
         void* p = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
         return ::mprotect(p, 4096, PROT_READ | PROT_EXEC);
       }},
      {"limits of another", [] {
         rlimit r{};
         return ::prlimit(1, RLIMIT_NOFILE, nullptr, &r);
       }},
#ifdef __x86_64__
      {"the other kind of system calls", [] { return static_cast<int>(::syscall(0x40000000 | SYS_getpid)); }},
#endif
  };
  for (const auto& [name, act] : forbidden) EXPECT_EQ(ended(act), kKilled) << name;
}

TEST(Confine, AnotherThreadsForbiddenCallEndsAllOfTheProcess) {
  if (!call_filter_available()) GTEST_SKIP() << "no filter of system calls here";
  EXPECT_EQ(ended([] {
    std::thread([] { ::unlink("x"); }).join();
    return 0;
  }), kKilled);
}

}  // namespace
}  // namespace somfs::cli

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
