// SPDX-License-Identifier: Apache-2.0
#include "cli/service.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace somfs::cli {
namespace {

constexpr int kFirst = 3, kMost = 16;

std::string take(const char* name) {
  const char* value = std::getenv(name);
  std::string out = value != nullptr ? value : "";
  ::unsetenv(name);
  return out;
}

// -1: not a number.
int number(const std::string& text) {
  int n = -1;
  const auto [at, e] = std::from_chars(text.data(), text.data() + text.size(), n);
  return e == std::errc() && at == text.data() + text.size() ? n : -1;
}

bool accepts(int fd) {
  int type = 0, listens = 0;
  socklen_t size = sizeof type;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) return false;
  size = sizeof listens;
  return ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens != 0;
}

}  // namespace

Result<ServiceManager> ServiceManager::from_environment() {
  ServiceManager manager;
  manager.notify_ = take("NOTIFY_SOCKET");
  const std::string pid = take("LISTEN_PID"), fds = take("LISTEN_FDS");
  take("LISTEN_FDNAMES");
  if (pid.empty() || number(pid) != ::getpid()) return manager;
  const int count = number(fds);
  if (count < 0 || count > kMost) return fail(Exit::configuration, "cannot take over sockets", "LISTEN_FDS", "a number from 0 to 16 is expected");
  for (int fd = kFirst; fd < kFirst + count; ++fd) {
    if (!accepts(fd) || ::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK) != 0)
      return fail(Exit::configuration, "cannot take over a socket", "descriptor " + std::to_string(fd), "it is no stream socket that listens",
                  "use ListenStream= and Accept=no");
    manager.sockets.emplace_back(fd);
  }
  return manager;
}

void ServiceManager::tell(const std::string& lines) const noexcept {
  sockaddr_un there{};
  there.sun_family = AF_UNIX;
  if (notify_.size() < 2 || notify_.size() >= sizeof there.sun_path || (notify_[0] != '/' && notify_[0] != '@')) return;
  std::memcpy(there.sun_path, notify_.data(), notify_.size());
  if (notify_[0] == '@') there.sun_path[0] = '\0';
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + notify_.size());
  const Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket) return;
  [[maybe_unused]] const ssize_t n =
      ::sendto(socket.get(), lines.data(), lines.size(), MSG_NOSIGNAL | MSG_DONTWAIT, reinterpret_cast<const sockaddr*>(&there), size);
}

}  // namespace somfs::cli
