// SPDX-License-Identifier: Apache-2.0
#include "cli/service.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

namespace somfs::cli {
namespace {

// A service manager's end; `name`: a path, or '@' and an abstract name.
Fd hears(const std::string& name) {
  Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  std::memcpy(a.sun_path, name.data(), name.size());
  if (name[0] == '@') a.sun_path[0] = '\0';
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&a), static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())), 0);
  return fd;
}
std::string heard(const Fd& fd) {
  char text[200];
  const ssize_t n = ::recv(fd.get(), text, sizeof text, MSG_DONTWAIT);
  return n < 0 ? "nothing" : std::string(text, static_cast<std::size_t>(n));
}

class Service : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) ::unsetenv(name);
  }
  void passed(const std::string& pid, const std::string& fds) {
    ::setenv("LISTEN_PID", pid.c_str(), 1);
    ::setenv("LISTEN_FDS", fds.c_str(), 1);
  }
};

TEST_F(Service, TellsOverPathsAndAbstractNames) {
  char dir[] = "/tmp/somfs-service-XXXXXX";
  ASSERT_NE(::mkdtemp(dir), nullptr);
  for (const std::string& name : {std::string(dir) + "/notify", "@" + std::string(dir)}) {
    const Fd manager = hears(name);
    ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
    auto service = ServiceManager::from_environment();
    ASSERT_TRUE(service);
    EXPECT_EQ(std::getenv("NOTIFY_SOCKET"), nullptr);
    service->tell("READY=1\nSTATUS=up");
    EXPECT_EQ(heard(manager), "READY=1\nSTATUS=up");
  }
  ::unlink((std::string(dir) + "/notify").c_str());
  ::rmdir(dir);
}

TEST_F(Service, TellsNobodyWhereNobodyAsked) {
  for (const std::string& name : {std::string(), std::string("@"), std::string("vsock:2:1"), std::string("relative"), std::string(200, '/'), std::string("/no/such/socket")}) {
    ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
    auto service = ServiceManager::from_environment();
    ASSERT_TRUE(service);
    service->tell("READY=1");
  }
}

TEST_F(Service, SocketsForAnotherProcessAreNotTaken) {
  for (const std::string& pid : {std::string(), std::to_string(::getppid()), std::string("x"), std::to_string(::getpid()) + " "}) {
    passed(pid, "1");
    auto service = ServiceManager::from_environment();
    ASSERT_TRUE(service) << pid;
    EXPECT_TRUE(service->sockets.empty()) << pid;
    EXPECT_EQ(std::getenv("LISTEN_FDS"), nullptr);
  }
}

// In a process of its own, where the descriptors can be given their numbers.
int taken(int (*make)(), const char* fds) {
  const pid_t child = ::fork();
  if (child == 0) {
    const int made = make();
    if (made != 3) ::dup2(made, 3);
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("LISTEN_FDS", fds, 1);
    auto service = ServiceManager::from_environment();
    if (!service) ::_exit(static_cast<int>(service.error().exit));
    if (service->sockets.size() != 1 || (::fcntl(3, F_GETFD) & FD_CLOEXEC) == 0 || (::fcntl(3, F_GETFL) & O_NONBLOCK) == 0) ::_exit(100);
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
int listening() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  ::listen(fd, 1);
  return fd;
}
int deaf() { return ::socket(AF_INET, SOCK_STREAM, 0); }
int datagrams() { return ::socket(AF_INET, SOCK_DGRAM, 0); }
int no_socket() { return ::open("/dev/null", O_RDONLY); }

TEST_F(Service, OnlySocketsThatListenAreTaken) {
  EXPECT_EQ(taken(listening, "1"), 0);
  EXPECT_EQ(taken(listening, "0"), 100);
  for (auto* other : {deaf, datagrams, no_socket}) EXPECT_EQ(taken(other, "1"), static_cast<int>(Exit::configuration));
  for (const char* fds : {"", "-1", "x", "17", "1000000000000"}) EXPECT_EQ(taken(listening, fds), static_cast<int>(Exit::configuration)) << fds;
}

}  // namespace
}  // namespace somfs::cli
