// SPDX-License-Identifier: Apache-2.0
#include "cli/control.h"

#include <fcntl.h>
#include <csignal>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include <boost/filesystem.hpp>

#include "common/bytes.h"
#include "common/named_directory.h"
#include "common/printable.h"

namespace somfs::cli {

namespace bfs = boost::filesystem;

Status Connection::send(const Json& line, const std::vector<int>& fds) {
  std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  std::size_t done = 0;
  while (done < text.size()) {
    iovec io{text.data() + done, text.size() - done};
    msghdr m{};
    m.msg_iov = &io;
    m.msg_iovlen = 1;
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int) * kMaxFds)] = {};
    if (done == 0 && !fds.empty()) {
      std::size_t n = std::min<std::size_t>(fds.size(), kMaxFds);
      m.msg_control = space;
      m.msg_controllen = CMSG_SPACE(sizeof(int) * n);
      cmsghdr* c = CMSG_FIRSTHDR(&m);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(sizeof(int) * n);
      std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * n);
    }
    ssize_t n = ::sendmsg(socket_.get(), &m, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(Exit::link_down, "cannot write to the control socket", {}, std::strerror(errno));
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Result<Json> Connection::receive(std::vector<Fd>* fds) {
  for (;;) {
    std::size_t end = pending_.find('\n');
    if (end != std::string::npos) {
      Json j = Json::parse(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
      pending_.erase(0, end + 1);
      if (fds != nullptr) *fds = std::move(pending_fds_);
      pending_fds_.clear();
      if (j.is_discarded() || !j.is_object()) return fail(Exit::temporary, "the control socket's line is not a JSON object");
      return j;
    }
    if (pending_.size() > kMaxLine) return fail(Exit::temporary, "the control socket's line is too long");
    char buf[65536];
    iovec io{buf, sizeof buf};
    alignas(cmsghdr) char space[CMSG_SPACE(sizeof(int) * kMaxFds)];
    msghdr m{};
    m.msg_iov = &io;
    m.msg_iovlen = 1;
    m.msg_control = space;
    m.msg_controllen = sizeof space;
    ssize_t n = ::recvmsg(socket_.get(), &m, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail(Exit::link_down, "cannot read from the control socket", {}, std::strerror(errno));
    for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
      if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
      std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int fd;
        std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
        pending_fds_.emplace_back(fd);
      }
    }
    if (n == 0) return fail(Exit::link_down, "the other side closed the control connection");
    pending_.append(buf, static_cast<std::size_t>(n));
  }
}

std::string run_directory() {
  if (const char* d = std::getenv("SOMFS_RUN_DIR"); d != nullptr && *d != '\0') return d;
  if (::geteuid() == 0) return "/run/somfs";
  if (const char* d = std::getenv("XDG_RUNTIME_DIR"); d != nullptr && *d != '\0') return std::string(d) + "/somfs";
  return "/tmp/somfs-" + std::to_string(::geteuid());
}

std::string registration_id(const std::string& mountpoint) {
  // FNV-1a, 64 bits, and the last component for the eye of whoever lists the directory.
  std::uint64_t h = 0xcbf29ce484222325ull;
  for (char c : mountpoint) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  char hex[20];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(h));
  return hex;
}

Result<std::string> absolute_path(const std::string& path) {
  bfs::path p = path;
  if (!p.is_absolute()) {
    boost::system::error_code ec;
    const bfs::path here = bfs::current_path(ec);
    if (ec) return fail_errno("cannot find", printable(path), ec.value());   // the working directory was removed
    p = here / p;
  }
  p = p.lexically_normal();
  if (p.filename() == "." || p.filename().empty()) p = p.parent_path();
  return p.empty() ? std::string("/") : p.string();
}

Result<std::string> canonical_without_touching(const std::string& path) {
  if (path.empty()) return fail(Exit::usage, "an empty path names no directory");
  SOMFS_TRY_ASSIGN(const bfs::path p, absolute_path(path));
  if (p == "/") return p.string();
  // Not by Boost, which asks for the working directory also where it is of no use.
  char parent[PATH_MAX];
  if (::realpath(p.parent_path().c_str(), parent) == nullptr) return fail_named_directory("cannot find", printable(path));
  return (bfs::path(parent) / p.filename()).string();
}

namespace {

// Sockets of this user's daemons and, for an ordinary user, those of root as well: the socket itself says who may connect. A mount made in a login session
// registers in $XDG_RUNTIME_DIR, one that cron made in /tmp; each is to be found from the other. Anybody may make a directory of that name in /tmp: only what is
// ours and closed to others, as a mount leaves it, is looked into.
std::vector<std::string> run_directories() {
  const char* told = std::getenv("SOMFS_RUN_DIR");
  if (::geteuid() == 0 || (told != nullptr && *told != '\0')) return {run_directory()};
  const std::string uid = std::to_string(::geteuid());
  std::vector<std::string> dirs;
  std::set<std::pair<dev_t, ino_t>> seen;
  for (const std::string& dir : {run_directory(), "/run/user/" + uid + "/somfs", "/tmp/somfs-" + uid}) {
    struct stat st{};
    if (::lstat(dir.c_str(), &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == ::geteuid() && (st.st_mode & 0777) == 0700 && seen.emplace(st.st_dev, st.st_ino).second)
      dirs.push_back(dir);
  }
  dirs.push_back("/run/somfs");
  return dirs;
}

Result<Connection> connect_path(const std::string& path) {
  Fd s(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!s) return fail_errno("cannot make a socket");
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  if (path.size() >= sizeof a.sun_path) return fail(Exit::configuration, "the control socket's path is too long", path);
  std::memcpy(a.sun_path, path.c_str(), path.size());
  if (::connect(s.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) {
    if (errno == EACCES) return fail(Exit::not_allowed, "not allowed to control", path, "the volume belongs to another user", "ask root");
    return fail(Exit::temporary, "cannot reach the somfs process at", path, std::strerror(errno));
  }
  return Connection(std::move(s));
}

// A whole number of that name, where there is one that an int can hold.
int whole(const Json& j, const char* name, int otherwise) {
  const auto at = j.find(name);
  if (at == j.end() || !at->is_number_integer()) return otherwise;
  const auto n = at->get<std::int64_t>();   // what is larger than that comes out negative
  return n >= 0 && n <= std::numeric_limits<int>::max() ? static_cast<int>(n) : otherwise;
}

}  // namespace

std::vector<Mounted> mounted_volumes() {
  std::vector<Mounted> all;
  for (const std::string& dir : run_directories()) {
    boost::system::error_code ec;
    for (bfs::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) {
      if (it->path().extension() != ".json") continue;
      auto text = read_file(AT_FDCWD, it->path().string(), 65536);
      if (!text) continue;
      Json j = Json::parse(*text, nullptr, false);
      if (j.is_discarded() || !j.is_object()) continue;
      Mounted m;
      m.dir = j.value("dir", "");
      m.mountpoint = j.value("mountpoint", "");
      m.pid = whole(j, "pid", 0);
      m.socket = (it->path().parent_path() / (it->path().stem().string() + ".sock")).string();
      if (m.pid <= 0 || (::kill(m.pid, 0) != 0 && errno == ESRCH)) continue;
      all.push_back(std::move(m));
    }
  }
  std::sort(all.begin(), all.end(), [](const Mounted& a, const Mounted& b) { return a.mountpoint < b.mountpoint; });
  return all;
}

Result<Mounted> find_mounted(const std::string& dir) {
  SOMFS_TRY_ASSIGN(std::string path, canonical_without_touching(dir));
  for (Mounted& m : mounted_volumes())
    if (m.mountpoint == path || m.dir == path) return std::move(m);
  // No mount of ours to wait for; somebody else's is not asked either.
  struct statx there{};
  const bool found = ::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &there) == 0;
  if (const int sys = !found ? errno : S_ISDIR(there.stx_mode) ? 0 : ENOTDIR; sys == ENOENT || sys == ENOTDIR)
    return fail_named_directory("cannot find", printable(dir), sys);
  return fail(Exit::temporary, "somfs is not mounted over", printable(dir), {}, "mount it first: somfs " + printable(dir));
}

Result<Connection> connect_to(const Mounted& mounted) { return connect_path(mounted.socket); }

Result<Json> answer_of(Result<Json> line) {
  if (!line) return line;
  auto e = line->find("error");
  if (e == line->end() || !e->is_object()) return line;
  Error error;
  error.exit = static_cast<Exit>(whole(*e, "exit", 75));
  error.what = e->value("what", "failed");
  error.on = e->value("on", "");
  error.why = e->value("why", "");
  error.to_do = e->value("to_do", "");
  return pass_on(std::move(error));
}

Result<Json> ask(const std::string& dir, const Json& request) {
  SOMFS_TRY_ASSIGN(Mounted m, find_mounted(dir));
  SOMFS_TRY_ASSIGN(Connection c, connect_to(m));
  SOMFS_TRY(c.send(request));
  return answer_of(c.receive());
}

Json error_json(const Error& error) {
  Json j;
  j["schema"] = 1;
  j["error"] = {{"exit", static_cast<int>(error.exit)}, {"what", error.what}, {"on", error.on},
                {"why", error.why.empty() && error.sys != 0 ? std::string(std::strerror(error.sys)) : error.why},
                {"to_do", error.to_do}, {"line", error.line()}};
  return j;
}

}  // namespace somfs::cli
