// SPDX-License-Identifier: Apache-2.0
#include "cli/control_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include <boost/filesystem.hpp>

#include "common/log.h"

namespace somfs::cli {

Result<std::unique_ptr<ControlServer>> ControlServer::start(const std::string& dir, const std::string& mountpoint, Serve serve) {
  std::string run = run_directory();
  boost::system::error_code ec;
  boost::filesystem::create_directories(run, ec);
  struct stat st{};
  if (ec || ::lstat(run.c_str(), &st) != 0 || !S_ISDIR(st.st_mode)) return fail(Exit::configuration, "cannot make the run directory", run);
  if (st.st_uid != ::geteuid()) return fail(Exit::not_allowed, "the run directory belongs to another user", run);
  // Root's is searchable, so that an ordinary user is told "not allowed" rather than "not mounted".
  if (::chmod(run.c_str(), ::geteuid() == 0 ? 0755 : 0700) != 0) return fail_errno("cannot protect", run);

  std::unique_ptr<ControlServer> s(new ControlServer);
  s->serve_ = std::move(serve);
  std::string base = run + "/" + registration_id(mountpoint);
  s->socket_path_ = base + ".sock";
  s->description_path_ = base + ".json";
  s->listener_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  s->wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!s->listener_ || !s->wake_) return fail_errno("cannot make the control socket");
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  if (s->socket_path_.size() >= sizeof a.sun_path) return fail(Exit::configuration, "the control socket's path is too long", s->socket_path_);
  std::memcpy(a.sun_path, s->socket_path_.c_str(), s->socket_path_.size());
  ::unlink(s->socket_path_.c_str());
  if (::bind(s->listener_.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) return fail_errno("cannot bind the control socket", s->socket_path_);
  // Whoever connects is asked for credentials; the file's own mode keeps strangers from even that.
  if (::chmod(s->socket_path_.c_str(), 0600) != 0 || ::listen(s->listener_.get(), 64) != 0)
    return fail_errno("cannot listen on the control socket", s->socket_path_);
  Json j{{"schema", 1}, {"dir", dir}, {"mountpoint", mountpoint}, {"pid", static_cast<int>(::getpid())}};
  SOMFS_TRY(replace_file(AT_FDCWD, s->description_path_, j.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n", 0644));
  s->acceptor_ = std::jthread([server = s.get()](const std::stop_token& stop) { server->accept_loop(stop); });
  return s;
}

void ControlServer::accept_loop(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    pollfd p[2] = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(p, 2, -1) < 0 && errno != EINTR) return;
    if (stop.stop_requested()) return;
    reap(false);
    if ((p[0].revents & POLLIN) == 0) continue;
    Fd c(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!c) continue;
    ucred who{};
    socklen_t size = sizeof who;
    if (::getsockopt(c.get(), SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || (who.uid != 0 && who.uid != ::geteuid())) {
      Connection refused(std::move(c));
      (void)refused.send(error_json({Exit::not_allowed, 0, "not allowed to control this volume", {}, "it belongs to another user", {}}));
      continue;
    }
    Lock lock(mutex_);
    if (sessions_.size() >= 64) {
      Connection busy(std::move(c));
      (void)busy.send(error_json({Exit::temporary, 0, "too many control connections", {}, {}, "try again"}));
      continue;
    }
    auto session = std::make_unique<Session>();
    Session* raw = session.get();
    raw->fd = c.get();
    raw->thread = std::thread([this, raw, socket = c.release()]() mutable {
      Connection connection{Fd(socket)};
      try {
        if (auto request = connection.receive()) serve_(connection, *request);
      } catch (const std::exception& e) {   // JSON of another shape than was asked for
        (void)connection.send(error_json({Exit::usage, 0, "malformed request", {}, e.what(), {}}));
      }
      {
        Lock l(mutex_);
        raw->fd = -1;
        connection.close();
      }
      raw->done = true;
    });
    sessions_.push_back(std::move(session));
  }
}

void ControlServer::reap(bool all) {
  std::list<std::unique_ptr<Session>> finished;
  {
    Lock lock(mutex_);
    for (auto it = sessions_.begin(); it != sessions_.end();) {
      if (all && (*it)->fd >= 0) ::shutdown((*it)->fd, SHUT_RDWR);
      if (all || (*it)->done) finished.splice(finished.end(), sessions_, it++);
      else ++it;
    }
  }
  for (auto& s : finished) s->thread.join();
}

ControlServer::~ControlServer() {
  if (acceptor_.joinable()) {
    acceptor_.request_stop();
    std::uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
    acceptor_.join();
  }
  reap(true);
  if (!socket_path_.empty()) ::unlink(socket_path_.c_str());
  if (!description_path_.empty()) ::unlink(description_path_.c_str());
}

}  // namespace somfs::cli
