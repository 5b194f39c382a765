// SPDX-License-Identifier: Apache-2.0
#include "cli/target.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include <boost/filesystem.hpp>

#include "cli/control.h"
#include "cli/peers.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/printable.h"
#include "replicator/allow_list.h"
#include "replicator/mirror.h"

extern char** environ;

namespace somfs::cli {
namespace {

// One word for the remote shell: ssh joins its arguments and hands them to one.
std::string quoted(const std::string& word) {
  std::string q = "'";
  for (char c : word) q += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return q + "'";
}

// A transport that sends no faster than `bwlimit` bytes a second: what a link does by itself, for a mirror in this process.
class Paced final : public replicator::Transport {
 public:
  Paced(std::unique_ptr<replicator::Transport> inner, std::uint64_t bwlimit) : inner_(std::move(inner)), bwlimit_(bwlimit) {}
  Status send(replicator::Message message) override {
    auto now = std::chrono::steady_clock::now();
    if (free_at_ < now) free_at_ = now;
    // A tenth of a second may be sent ahead, so that small messages are not made to wait.
    auto wait = free_at_ - std::chrono::milliseconds(100);
    free_at_ += std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 * static_cast<double>(message.body.size()) / static_cast<double>(bwlimit_)));
    while (wait > now && !closed_) {
      std::this_thread::sleep_for(std::min<std::chrono::steady_clock::duration>(wait - now, std::chrono::milliseconds(100)));
      now = std::chrono::steady_clock::now();
    }
    return inner_->send(std::move(message));
  }
  Result<replicator::Message> receive() override { return inner_->receive(); }
  void close() noexcept override {
    closed_ = true;
    inner_->close();
  }
  std::uint64_t bytes_sent() const override { return inner_->bytes_sent(); }
  std::uint64_t bytes_received() const override { return inner_->bytes_received(); }

 private:
  std::unique_ptr<replicator::Transport> inner_;
  const std::uint64_t bwlimit_;
  std::chrono::steady_clock::time_point free_at_;
  std::atomic<bool> closed_{false};
};

// What a mirror that does not exist yet would say: it is empty. For a dry run, which makes nothing.
Status serve_nothing(replicator::Transport& transport) {
  for (;;) {
    SOMFS_TRY_ASSIGN(replicator::Message m, transport.receive());
    if (m.type == replicator::MessageType::bye) return {};
    if (m.type != replicator::MessageType::hello) return fail(Exit::temporary, "nothing can be sent to a mirror that does not exist");
    replicator::Welcome w;
    w.mirror = Uuid::random();
    SOMFS_TRY(transport.send({replicator::MessageType::welcome, replicator::encode(w)}));
  }
}

}  // namespace

Result<Target> parse_target(const std::string& text) {
  Target t;
  if (text.empty()) return fail(Exit::usage, "an empty target names no mirror");
  if (text.starts_with("ssh://")) {
    t.kind = Target::Kind::ssh;
    std::string rest = text.substr(6);
    std::size_t slash = rest.find('/');
    t.host = rest.substr(0, slash);
    t.path = slash == std::string::npos ? "" : rest.substr(slash);
    if (t.host.empty() || t.path.size() < 2)
      return fail(Exit::usage, "not a target", printable(text), "ssh:// needs a host and a path", "write ssh://[USER@]HOST/path");
    if (t.host.front() == '-' || t.host.find_first_of(" \t\n'\"\\;&|$`<>") != std::string::npos)
      return fail(Exit::usage, "not a host", printable(t.host));
    t.text = "ssh://" + t.host + t.path;
    return t;
  }
  if (text.starts_with("somfs://")) {
    t.kind = Target::Kind::network;
    const std::size_t slash = text.find('/', 8);
    SOMFS_TRY_ASSIGN(t.address, replicator::Address::parse(text.substr(8, slash == std::string::npos ? slash : slash - 8)));
    t.volume = slash == std::string::npos ? "" : text.substr(slash + 1);
    if (t.address.host.empty() || t.address.port == 0 || !replicator::volume_name_ok(t.volume))
      return fail(Exit::usage, "not a target", printable(text), "somfs:// needs a host, a port and a volume's name of A-Z a-z 0-9 . _ -",
                  "write somfs://HOST:PORT/VOLUME");
    t.text = "somfs://" + t.address.text() + "/" + t.volume;
    return t;
  }
  std::size_t scheme = text.find("://");
  if (scheme != std::string::npos || text.starts_with("vd:"))
    return fail(Exit::usage, "cannot use target", printable(text), "this version serves /path, dir:/path, ssh://[USER@]HOST/path and somfs://HOST:PORT/VOLUME");
  SOMFS_TRY_ASSIGN(t.path, absolute_path(text.starts_with("dir:") ? text.substr(4) : text));
  if (t.path == "/") return fail(Exit::usage, "not a target", "/", "a mirror needs a directory of its own");
  t.text = t.path;
  return t;
}

Status refuse_overlap(const Target& target, const std::string& dir, const std::string& mountpoint) {
  if (target.kind != Target::Kind::directory) return {};
  auto refuse = [&](const char* why) {
    return fail(Exit::usage, "refusing the mirror", printable(target.text), why, "choose a directory outside " + printable(dir));
  };
  struct stat volume{}, mount{}, there{};
  if (::stat(dir.c_str(), &volume) != 0 || ::stat(mountpoint.c_str(), &mount) != 0) return fail_errno("cannot stat", printable(dir));
  // Directories are compared, not spellings: symbolic links and bind mounts lead there as well.
  auto lies_in = [](std::string path, const struct stat& above) {
    for (struct stat st{}; path.size() > 1; path = boost::filesystem::path(path).parent_path().string())
      if (::stat(path.c_str(), &st) == 0) {
        Fd at(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        for (ino_t last = 0; at && ::fstat(at.get(), &st) == 0; at = Fd(::openat(at.get(), "..", O_PATH | O_DIRECTORY | O_CLOEXEC))) {
          if (st.st_dev == above.st_dev && st.st_ino == above.st_ino) return true;
          if (std::exchange(last, st.st_ino) == st.st_ino) return false;
        }
        return false;
      }
    return false;
  };
  if (lies_in(target.path, volume) || lies_in(target.path, mount)) return refuse("it lies inside the protected directory");
  // The parent of a mount point is that of what lies beneath: reached by name.
  if (::stat(target.path.c_str(), &there) == 0 && (lies_in(dir, there) || lies_in(mountpoint, there)))
    return refuse("the protected directory lies inside it");
  return {};
}

Result<std::unique_ptr<replicator::Transport>> MirrorLink::connect() {
  (void)finish();
  switch (target_.kind) {
    case Target::Kind::directory: return connect_in_process();
    case Target::Kind::ssh: return connect_over_ssh();
    case Target::Kind::network: break;
  }
  return connect_over_network();
}

MirrorLink::MirrorLink(Target target, Missing missing, const replicator::StreamSettings& link)
    : target_(std::move(target)), missing_(missing), link_(link), interrupted_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Result<std::unique_ptr<replicator::Transport>> MirrorLink::connect_over_network() {
  constexpr double kSeconds = 20;
  SOMFS_TRY_ASSIGN(const replicator::PublicKey mirror, key_of_mirror(target_.address));
  SOMFS_TRY_ASSIGN(replicator::Secret own, own_key());
  const auto patience = replicator::Patience::for_seconds(kSeconds, interrupted_.get());
  SOMFS_TRY_ASSIGN(Fd socket, replicator::connect_to(target_.address, patience));
  {
    Lock lock(mutex_);
    socket_ = Fd(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 3));
  }
  // An interruption that came before this is seen by the handshake, a later one finds the socket.
  SOMFS_TRY_ASSIGN(auto channel, replicator::link_channel(socket.get(), std::move(own), mirror, patience));
  auto link = link_;
  link.codec = replicator::readable(channel->features, link_.codec);
  if (link.codec != link_.codec)
    log::warning("{} does not read {}: what is sent there is compressed with {}", printable(target_.text), name_of(link_.codec), name_of(link.codec));
  return replicator::make_sealed_stream(socket.release(), std::move(channel), link);
}

Result<std::unique_ptr<replicator::Transport>> MirrorLink::connect_in_process() {
  auto ends = replicator::make_pair_in_process(8u << 20);
  replicator::Transport* far = ends.second.get();
  {
    Lock lock(mutex_);
    far_ = std::move(ends.second);
  }
  const bool missing = missing_ == Missing::pretend && ::access(target_.path.c_str(), F_OK) != 0 && errno == ENOENT;
  serving_ = std::thread([this, far, missing] {
    if (missing) {
      served_ = serve_nothing(*far);
      far->close();
      return;
    }
    auto mode = missing_ == Missing::make ? replicator::Mirror::Mode::create : replicator::Mirror::Mode::existing;
    served_ = replicator::serve(*far, [&](const replicator::Hello&) { return replicator::Mirror::open(target_.path, mode); });
    far->close();
  });
  if (link_.bwlimit != 0) return std::make_unique<Paced>(std::move(ends.first), link_.bwlimit);
  return std::move(ends.first);
}

Result<std::unique_ptr<replicator::Transport>> MirrorLink::connect_over_ssh() {
  int to_ssh[2], from_ssh[2];
  if (::pipe2(to_ssh, O_CLOEXEC) != 0) return fail_errno("cannot make a pipe");
  Fd child_in(to_ssh[0]), out(to_ssh[1]);
  if (::pipe2(from_ssh, O_CLOEXEC) != 0) return fail_errno("cannot make a pipe");
  Fd in(from_ssh[0]), child_out(from_ssh[1]);
  // $SOMFS_SSH: another ssh, with options ("ssh -p 2222 -i KEY"); split at blanks, as rsync's -e is.
  std::vector<std::string> words;
  const char* ssh = std::getenv("SOMFS_SSH");
  std::string command = ssh != nullptr && *ssh != '\0' ? ssh : "ssh";
  for (std::size_t at = 0; at < command.size();) {
    std::size_t end = command.find(' ', at);
    if (end == std::string::npos) end = command.size();
    if (end > at) words.push_back(command.substr(at, end - at));
    at = end + 1;
  }
  const char* program = std::getenv("SOMFS_REMOTE_MIRRORD");
  words.push_back(target_.host);
  words.push_back(std::string(program != nullptr ? program : "somfs-mirrord") + " --stdio --store " + quoted(target_.path) +
                  (missing_ == Missing::make ? " --create" : ""));
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, child_in.get(), 0);
  ::posix_spawn_file_actions_adddup2(&actions, child_out.get(), 1);
  // The daemon blocks the signals that end it; ssh must not.
  posix_spawnattr_t attributes;
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t pid = -1;
  int e = ::posix_spawnp(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  if (e != 0) return fail(Exit::link_down, "cannot start", words[0], std::strerror(e), "install openssh-client");
  {
    Lock lock(mutex_);
    ssh_pid_ = pid;
    pollfd before{interrupted_.get(), POLLIN, 0};
    if (::poll(&before, 1, 0) > 0) ::kill(pid, SIGTERM);
  }
  return replicator::make_stream(in.release(), out.release(), link_);
}

Status MirrorLink::finish() {
  if (serving_.joinable()) {
    serving_.join();
    Lock lock(mutex_);
    far_.reset();
    return served_;
  }
  int pid = -1;
  {
    Lock lock(mutex_);
    socket_.reset();
    pid = ssh_pid_;
  }
  if (pid < 0) return {};
  // Reaped under the lock: until then its number is not somebody else's.
  siginfo_t ended{};
  while (::waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOWAIT) < 0 && errno == EINTR) {
  }
  int status = 0;
  Lock lock(mutex_);
  (void)::waitpid(pid, &status, 0);
  ssh_pid_ = -1;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 255) return fail(Exit::link_down, "ssh failed", {}, {}, "see its message above");
  if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
    return fail(Exit::configuration, "somfs-mirrord was not found on the other host", {}, {}, "install somfs there");
  return {};
}

void MirrorLink::interrupt() {
  Lock lock(mutex_);
  if (far_) far_->close();
  if (ssh_pid_ > 0) ::kill(ssh_pid_, SIGTERM);
  if (socket_) ::shutdown(socket_.get(), SHUT_RDWR);
  const std::uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(interrupted_.get(), &one, sizeof one);
}

Error MirrorLink::telling(Error here, const Status& there) {
  return here.exit == Exit::link_down && !there ? there.error() : std::move(here);
}

MirrorLink::~MirrorLink() {
  interrupt();
  (void)finish();
}

}  // namespace somfs::cli
