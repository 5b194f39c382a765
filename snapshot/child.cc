// SPDX-License-Identifier: Apache-2.0
#include "snapshot/child.h"

#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <thread>

#include "common/printable.h"

namespace somfs::snapshot {
namespace {

constexpr std::size_t kMostLine = 1u << 20;
constexpr std::size_t kMostErrors = 16u << 10;
constexpr std::int64_t kReap = 1'000'000'000;

int poll_ms(std::int64_t deadline, const Clock& clock) {
  const std::int64_t left = deadline - clock.mono_ns();
  if (left <= 0) return 0;
  return static_cast<int>(std::min<std::int64_t>((left + 999'999) / 1'000'000, 3'600'000));
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> p;
  for (std::string& s : strings) p.push_back(s.data());
  p.push_back(nullptr);
  return p;
}

// The command that runs `argv` as `user`: a threaded process cannot change ids between fork and exec itself.
Result<std::vector<std::string>> as_user(const std::string& user, const std::vector<std::string>& argv) {
  passwd pw;
  passwd* found = nullptr;
  char space[4096];
  if (::getpwnam_r(user.c_str(), &pw, space, sizeof space, &found) != 0 || found == nullptr)
    return fail(Exit::configuration, "no such user", printable(user));
  std::vector<std::string> out = argv;
  if (pw.pw_uid == ::geteuid()) return out;
  out.insert(out.begin(), {"/usr/bin/setpriv", "--reuid=" + std::to_string(pw.pw_uid), "--regid=" + std::to_string(pw.pw_gid),
                           "--init-groups", "--"});
  return out;
}

struct Actions {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attr;
  Actions() {
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawnattr_init(&attr);
  }
  Actions(const Actions&) = delete;
  Actions& operator=(const Actions&) = delete;
  ~Actions() {
    ::posix_spawn_file_actions_destroy(&files);
    ::posix_spawnattr_destroy(&attr);
  }
};

}  // namespace

Child::Child(pid_t pid, Fd pidfd, Fd input, Fd output, Fd errors, const Clock& clock)
    : pid_(pid), pidfd_(std::move(pidfd)), input_(std::move(input)), output_(std::move(output)), errors_(std::move(errors)),
      clock_(&clock) {}

Result<Child> Child::start(const Options& options, const Clock& clock) {
  const std::string what = "cannot run";
  std::vector<std::string> argv = options.argv;
  if (!options.user.empty()) {
    SOMFS_TRY_ASSIGN(argv, as_user(options.user, argv));
  }
  std::vector<std::string> env = options.env;
  env.push_back("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");

  int in[2], out[2] = {-1, -1}, err[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in) != 0) return fail_errno(what, options.argv[0]);
  Fd in_child(in[0]), in_ours(in[1]);
  if (options.output ? ::pipe2(out, O_CLOEXEC) != 0 : (out[1] = ::open("/dev/null", O_WRONLY | O_CLOEXEC)) < 0)
    return fail_errno(what, options.argv[0]);
  Fd out_ours(out[0]), out_child(out[1]);
  if (::pipe2(err, O_CLOEXEC) != 0) return fail_errno(what, options.argv[0]);
  Fd err_ours(err[0]), err_child(err[1]);
  for (int fd : {in_ours.get(), out_ours.get(), err_ours.get()})
    if (fd >= 0 && ::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) return fail_errno(what, options.argv[0]);

  Actions a;
  ::posix_spawn_file_actions_adddup2(&a.files, in_child.get(), 0);
  ::posix_spawn_file_actions_adddup2(&a.files, out_child.get(), 1);
  ::posix_spawn_file_actions_adddup2(&a.files, err_child.get(), 2);
  ::posix_spawn_file_actions_addclosefrom_np(&a.files, 3);
  ::posix_spawn_file_actions_addchdir_np(&a.files, "/");
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(&a.attr, &none);
  ::posix_spawnattr_setsigdefault(&a.attr, &all);
  ::posix_spawnattr_setpgroup(&a.attr, 0);
  const int group = options.own_session ? POSIX_SPAWN_SETSID : POSIX_SPAWN_SETPGROUP;
  ::posix_spawnattr_setflags(&a.attr, static_cast<short>(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | group));

  std::vector<char*> argv_p = pointers(argv), env_p = pointers(env);
  pid_t pid = -1;
  if (int e = ::posix_spawn(&pid, argv[0].c_str(), &a.files, &a.attr, argv_p.data(), env_p.data()); e != 0)
    return fail_errno(what, printable(argv[0]), e);
  // glibc 2.36 declares its own wrapper for C only.
  Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  const int e = errno;
  const bool watched = static_cast<bool>(pidfd);
  Child child(pid, std::move(pidfd), std::move(in_ours), std::move(out_ours), std::move(err_ours), clock);
  if (!watched) return fail_errno(what, printable(argv[0]), e);
  return child;
}

bool Child::send(std::string_view bytes, std::int64_t deadline) {
  while (!bytes.empty() && input_) {
    const ssize_t n = ::send(input_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0) {
      bytes.remove_prefix(static_cast<std::size_t>(n));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return false;
    pollfd p{input_.get(), POLLOUT, 0};
    if (::poll(&p, 1, poll_ms(deadline, *clock_)) == 0) return false;
  }
  return bytes.empty();
}

void Child::read_errors() {
  char buf[4096];
  for (ssize_t n; errors_ && (n = ::read(errors_.get(), buf, sizeof buf)) != -1;) {
    if (n == 0) errors_.reset();
    err_.append(buf, static_cast<std::size_t>(n));
    if (err_.size() > kMostErrors) err_.erase(0, err_.size() - kMostErrors);
  }
}

// Waits until there is output, the output ended or the process did, and reads what is there. False at the deadline.
bool Child::pump(std::int64_t deadline) {
  pollfd p[3] = {{out_.size() > kMostLine ? -1 : output_.get(), POLLIN, 0}, {errors_.get(), POLLIN, 0}, {status_ ? -1 : pidfd_.get(), POLLIN, 0}};
  const int n = ::poll(p, 3, poll_ms(deadline, *clock_));
  if (n == 0) return false;
  read_errors();
  if ((p[0].revents & (POLLIN | POLLHUP)) != 0) {
    char buf[65536];
    const ssize_t got = ::read(output_.get(), buf, sizeof buf);
    if (got > 0) out_.append(buf, static_cast<std::size_t>(got));
    if (got == 0) output_.reset();
  }
  return true;
}

Child::Got Child::line(std::string* out, std::int64_t deadline) {
  for (;;) {
    if (std::size_t at = out_.find('\n'); at != std::string::npos) {
      out->assign(out_, 0, at);
      out_.erase(0, at + 1);
      read_errors();
      return Got::line;
    }
    if (!output_ || out_.size() > kMostLine) {
      read_errors();
      return Got::end;
    }
    // The process has ended: what it wrote is in the pipe, even if something it left behind still holds the other end.
    if (int status = 0; !status_ && reap(&status)) status_ = status;
    const bool late = clock_->mono_ns() >= deadline;
    if (pump(status_ ? clock_->mono_ns() : deadline) && !late) continue;
    read_errors();
    return status_ ? Got::end : Got::late;
  }
}

bool Child::reap(int* status) {
  if (pid_.value <= 0 || ::waitpid(pid_.value, status, WNOHANG) != pid_.value) return false;
  pid_.value = -1;
  return true;
}

std::optional<int> Child::wait(std::int64_t deadline) {
  while (!status_) {
    int status = 0;
    if (reap(&status)) {
      status_ = status;
    } else {
      const bool late = clock_->mono_ns() >= deadline;
      if (!pump(deadline) || late) return std::nullopt;
    }
  }
  read_errors();
  return status_;
}

void Child::kill() {
  if (pid_.value <= 0) return;
  ::kill(-pid_.value, SIGKILL);
  input_.reset();
  pollfd p{pidfd_.get(), POLLIN, 0};
  const std::int64_t by = clock_->mono_ns() + kReap;
  int status = 0;
  if (pidfd_) ::poll(&p, 1, poll_ms(by, *clock_));
  if (reap(&status)) {
    status_ = status;
    return;
  }
  std::thread([pid = pid_.value] { ::waitpid(pid, nullptr, 0); }).detach();
  pid_.value = -1;
}

std::string Child::first_error() const { return printable(std::string_view(err_).substr(0, err_.find('\n'))); }

std::string Child::last_error() const {
  std::string_view e = err_;
  while (!e.empty() && (e.back() == '\n' || e.back() == ' ')) e.remove_suffix(1);
  const std::size_t at = e.rfind('\n');
  return printable(at == std::string_view::npos ? e : e.substr(at + 1));
}

Status lies_within(const std::string& volume, const std::string& path) {
  char root[PATH_MAX], real[PATH_MAX];
  if (::realpath(volume.c_str(), root) == nullptr) return fail_errno("cannot find", printable(volume));
  if (::realpath(path.c_str(), real) == nullptr) return fail_errno("cannot find", printable(path));
  const std::string prefix = std::string(root) == "/" ? "/" : std::string(root) + "/";
  const std::string_view found = real;
  if (found != root && found.substr(0, prefix.size()) != prefix)
    return fail(Exit::veto, printable(path), "lies outside the volume", found == path ? "" : "at " + printable(found));
  struct stat a, b;
  if (::stat(root, &a) != 0) return fail_errno("cannot stat", printable(root));
  if (::stat(real, &b) != 0) return fail_errno("cannot stat", printable(real));
  if (a.st_dev != b.st_dev)
    return fail(Exit::veto, printable(path), "lies outside the volume", "another file system is mounted there");
  return {};
}

}  // namespace somfs::snapshot
