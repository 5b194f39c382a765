// SPDX-License-Identifier: Apache-2.0
#include "cli/mirror_daemon.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <exception>
#include <system_error>
#include <utility>

#include "cli/own_directory.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/printable.h"
#include "replicator/framing.h"
#include "replicator/key_file.h"
#include "replicator/keys.h"
#include "replicator/mirror.h"
#include "replicator/wire.h"

namespace somfs::cli {
namespace {

constexpr const char* kState = ".somfs-mirrord";
constexpr const char* kKey = "key";
constexpr const char* kPeers = "peers";
constexpr const char* kCodes = "codes";

Result<std::string> read_list(int dir, const char* name, std::size_t most) {
  if (::faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT) return std::string();
  return replicator::read_own_file(dir, name, most, replicator::OthersMay::nothing);
}

std::int64_t now_s() { return SystemClock().wall_ns() / 1'000'000'000; }

constexpr std::chrono::seconds kHandOver{5};

std::string who(int socket) {
  sockaddr_storage there{};
  socklen_t size = sizeof there;
  char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&there), &size) == 0)
    (void)::getnameinfo(reinterpret_cast<sockaddr*>(&there), size, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
  return std::string(host) + ":" + port;
}

const Clock& system_clock() {
  static const SystemClock clock;
  return clock;
}

// A conversation that is watched: whose turn it is, and what is heard.
class Watched final : public replicator::Transport {
 public:
  Watched(replicator::Transport& transport, Watchman::Visit& visit) : transport_(transport), visit_(visit) {}
  Status send(replicator::Message message) override { return transport_.send(std::move(message)); }
  Result<replicator::Message> receive() override {
    visit_.listens();
    auto message = transport_.receive();
    if (message) visit_.heard(*message);
    return message;
  }
  void close() noexcept override { transport_.close(); }
  std::uint64_t bytes_sent() const override { return transport_.bytes_sent(); }
  std::uint64_t bytes_received() const override { return transport_.bytes_received(); }
  replicator::StageSums stages() const override { return transport_.stages(); }
  replicator::HowSent how_sent() const override { return transport_.how_sent(); }

 private:
  replicator::Transport& transport_;
  Watchman::Visit& visit_;
};

}  // namespace

// ---- keys

class MirrorKeys::Locked {
 public:
  static Result<Locked> take(const Fd& dir) {
    Locked l;
    l.lock_ = Fd(::openat(dir.get(), "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!l.lock_ || ::flock(l.lock_.get(), LOCK_EX) != 0) return fail_errno("cannot lock the mirror's keys");
    return l;
  }

 private:
  Fd lock_;
};

Result<MirrorKeys> MirrorKeys::open(const std::string& store) {
  if (::mkdir(store.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno("cannot make the store", printable(store));
  const Fd at(::open(store.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!at) return fail_errno("cannot open the store", printable(store));
  SOMFS_TRY_ASSIGN(Fd dir, own_directory(at.get(), kState));
  SOMFS_TRY_ASSIGN(const Locked lock, Locked::take(dir));
  if (::faccessat(dir.get(), kKey, F_OK, AT_SYMLINK_NOFOLLOW) != 0) SOMFS_TRY(replicator::create_key_file(dir.get(), kKey, replicator::KeyPair::generate().secret));
  MirrorKeys keys(std::move(dir));
  SOMFS_TRY(keys.own());
  SOMFS_TRY(keys.peers());
  return keys;
}

Result<replicator::Secret> MirrorKeys::own() const { return replicator::read_key_file(dir_.get(), kKey); }

Result<replicator::PublicKey> MirrorKeys::shared() const {
  SOMFS_TRY_ASSIGN(const replicator::Secret secret, own());
  return replicator::public_key(secret);
}

Result<replicator::AllowList> MirrorKeys::peers() const {
  SOMFS_TRY_ASSIGN(const std::string text, read_list(dir_.get(), kPeers, replicator::AllowList::kMaxBytes));
  return replicator::AllowList::parse(text, kPeers);
}

Status MirrorKeys::allow(const replicator::Peer& peer) const {
  SOMFS_TRY_ASSIGN(const Locked lock, Locked::take(dir_));
  SOMFS_TRY_ASSIGN(replicator::AllowList list, peers());
  SOMFS_TRY(list.add(peer));
  return replace_file(dir_.get(), kPeers, list.text());
}

Result<std::string> MirrorKeys::invite(replicator::Grants grants, const std::string& comment, std::int64_t valid_s) const {
  SOMFS_TRY_ASSIGN(const Locked lock, Locked::take(dir_));
  SOMFS_TRY_ASSIGN(const std::string text, read_list(dir_.get(), kCodes, replicator::Invitations::kMaxBytes));
  SOMFS_TRY_ASSIGN(replicator::Invitations codes, replicator::Invitations::parse(text, kCodes));
  SOMFS_TRY_ASSIGN(const replicator::PublicKey key, shared());
  SOMFS_TRY_ASSIGN(const replicator::PairingCode code, codes.issue(key, std::move(grants), comment, now_s(), now_s() + valid_s));
  SOMFS_TRY(replace_file(dir_.get(), kCodes, codes.text()));
  return code.text();
}

Status MirrorKeys::redeem(const replicator::PublicKey& source, std::string_view token) const {
  SOMFS_TRY_ASSIGN(const Locked lock, Locked::take(dir_));
  SOMFS_TRY_ASSIGN(const std::string text, read_list(dir_.get(), kCodes, replicator::Invitations::kMaxBytes));
  SOMFS_TRY_ASSIGN(replicator::Invitations codes, replicator::Invitations::parse(text, kCodes));
  const auto invitation = codes.redeem(token, now_s());
  // Used up first, whatever becomes of it.
  SOMFS_TRY(replace_file(dir_.get(), kCodes, codes.text()));
  if (!invitation) return pass_on(invitation.error());
  SOMFS_TRY_ASSIGN(replicator::AllowList list, peers());
  SOMFS_TRY(list.add({source, invitation->grants, invitation->comment}));
  return replace_file(dir_.get(), kPeers, list.text());
}

Result<Fd> MirrorKeys::empty_directory() const { return own_directory(dir_.get(), "empty"); }

Result<Fd> MirrorKeys::directory() const {
  Fd again(::fcntl(dir_.get(), F_DUPFD_CLOEXEC, 3));
  if (!again) return fail_errno("cannot open the directory of the mirror's keys");
  return again;
}

// ---- the daemon

struct MirrorDaemon::Guest {
  Fd caller;                   // until the worker has it
  Fd ours, theirs;             // the socket pair: the thread's until a transport has it, the worker's
  Fd again;                    // our end once more, to end the conversation
  std::string name;
  std::atomic<bool> gone{false};
  std::thread thread;
};

MirrorDaemon::MirrorDaemon(std::string store, MirrorKeys keys, Fd empty, std::vector<Fd> listeners, const WorkerSettings& workers, const Limits& limits,
                           std::unique_ptr<Watchman> watchman, std::unique_ptr<Forwarding> forwarding)
    : store_(std::move(store)), limits_(limits), workers_(workers), keys_(std::move(keys)), empty_(std::move(empty)), listeners_(std::move(listeners)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), watchman_(std::move(watchman)),
      forwarding_(std::move(forwarding)) {}

Result<std::unique_ptr<MirrorDaemon>> MirrorDaemon::make(const std::string& store, std::vector<Fd> listeners, const WorkerSettings& workers, const Limits& limits,
                                                         const WatchConfig& watch, const std::vector<ForwardConfig>& forwards) {
  SOMFS_TRY_ASSIGN(MirrorKeys keys, MirrorKeys::open(store));
  SOMFS_TRY_ASSIGN(Fd empty, keys.empty_directory());
  SOMFS_TRY_ASSIGN(Fd dir, keys.directory());
  auto watchman = Watchman::make(store, std::move(dir), watch, system_clock());
  if (!watchman && watchman.error().exit != Exit::locked) return pass_on(std::move(watchman).error());
  if (!watchman) log::warning("{}: this one does not", watchman.error().line());
  SOMFS_TRY_ASSIGN(Fd again, keys.directory());
  auto forwarding = Forwarding::make(store, std::move(again), forwards, system_clock());
  if (!forwarding && forwarding.error().exit != Exit::locked) return pass_on(std::move(forwarding).error());
  if (!forwarding && !forwards.empty()) log::warning("{}: this one does not", forwarding.error().line());
  return std::unique_ptr<MirrorDaemon>(new MirrorDaemon(store, std::move(keys), std::move(empty), std::move(listeners), workers, limits,
                                                        watchman ? std::move(*watchman) : nullptr, forwarding ? std::move(*forwarding) : nullptr));
}

MirrorDaemon::~MirrorDaemon() { let_go(true); }

void MirrorDaemon::stop() {
  stopping_ = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(wake_.get(), &one, sizeof one);   // never drained: every later poll returns at once
}

Status MirrorDaemon::run(const std::function<void(std::size_t)>& tell) {
  std::vector<pollfd> p{{wake_.get(), POLLIN, 0}};
  for (const Fd& listener : listeners_) p.push_back({listener.get(), POLLIN, 0});
  std::size_t told = 0;
  if (watchman_) watchman_->begin();
  if (forwarding_) forwarding_->begin();
  while (!stopping_) {
    if (::poll(p.data(), p.size(), 1000) < 0 && errno != EINTR) return fail_errno("cannot wait for callers");
    for (std::size_t i = 1; i < p.size() && !stopping_; ++i) {
      if (std::exchange(p[i].revents, 0) == 0) continue;
      if (Fd caller(::accept4(p[i].fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)); caller) welcome(std::move(caller));
      // Out of descriptors, or the caller has gone: those that are here go on.
      else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) (void)::poll(nullptr, 0, 100);
    }
    if (const std::size_t here = let_go(false); here != told) tell(told = here);
  }
  let_go(true);
  return {};
}

void MirrorDaemon::welcome(Fd caller) {
  const std::string name = who(caller.get());
  Lock l(mutex_);
  if (guests_.size() >= limits_.connections || strangers_ >= limits_.strangers) {
    log::warning("{}: hung up, too many callers", name);
    return;
  }
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
    log::warning("{}: hung up, {}", name, fail_errno("cannot make a pair of sockets").value().line());
    return;
  }
  replicator::keep_alive(caller.get());
  Guest& guest = guests_.emplace_back();
  guest.name = name;
  guest.caller = std::move(caller);
  guest.ours = Fd(pair[0]);
  guest.theirs = Fd(pair[1]);
  guest.again = Fd(::fcntl(pair[0], F_DUPFD_CLOEXEC, 3));
  ++strangers_;
  try {
    guest.thread = std::thread([this, &guest] { serve(guest); });
  } catch (const std::system_error& e) {
    log::warning("{}: hung up, {}", guest.name, e.what());
    --strangers_;
    guests_.pop_back();
  }
}

std::size_t MirrorDaemon::let_go(bool all) {
  std::list<Guest> gone;
  std::size_t left = 0;
  {
    Lock l(mutex_);
    for (auto at = guests_.begin(); at != guests_.end();) {
      const auto next = std::next(at);
      if (all) ::shutdown(at->again.get(), SHUT_RDWR);
      if (all || at->gone) gone.splice(gone.end(), guests_, at);
      at = next;
    }
    left = guests_.size();
  }
  for (Guest& g : gone) g.thread.join();
  return left;
}

void MirrorDaemon::serve(Guest& guest) {
  bool stranger = true;
  try {
    if (Status s = attend(guest, stranger); !s) log::warning("{}: {}", guest.name, s.error().line());
  } catch (const std::exception& e) {
    log::error("{}: {}", guest.name, e.what());
  }
  if (stranger) --strangers_;
  guest.caller.reset();
  guest.ours.reset();
  guest.gone = true;
}

Status MirrorDaemon::attend(Guest& guest, bool& stranger) {
  // A caller that says nothing costs no process.
  pollfd p[2] = {{guest.caller.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
  if (::poll(p, 2, static_cast<int>(limits_.handshake_s * 1000)) <= 0) return fail(Exit::link_down, "the caller says nothing");
  if (p[1].revents != 0) return {};
  char first;
  if (::recv(guest.caller.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT) <= 0) return fail(Exit::link_down, "the caller went away without a word");
  SOMFS_TRY_ASSIGN(Worker worker, Worker::start(guest.caller, guest.theirs, empty_, workers_, guest.name));
  guest.caller.reset();   // with the worker goes the connection
  guest.theirs.reset();
  Status done = converse(guest, stranger);
  guest.ours.reset();
  ::shutdown(guest.again.get(), SHUT_RDWR);
  if (const std::string said = worker.finish(!stranger, wake_.get()); !said.empty()) {
    log::warning("{}: the worker: {}", guest.name, said);
    if (!done && done.error().exit == Exit::link_down) return {};   // that was why
  }
  return done;
}

// Everything the worker brings is judged here; it has neither the key nor a say in who the caller is.
Result<replicator::Reception> MirrorDaemon::introduce(Guest& guest) const {
  replicator::Doorkeeper doorkeeper;
  doorkeeper.own = [this] { return keys_.own(); };
  doorkeeper.admit = [this](const replicator::PublicKey& key) -> Status {
    SOMFS_TRY_ASSIGN(const replicator::AllowList peers, keys_.peers());
    return peers.known(key);
  };
  doorkeeper.redeem = [this](const replicator::PublicKey& key, std::string_view token) { return keys_.redeem(key, token); };
  replicator::Reception reception(std::move(doorkeeper));
  const auto patience = replicator::Patience::for_seconds(limits_.handshake_s, wake_.get());
  for (;;) {
    SOMFS_TRY_ASSIGN(const std::string brought, replicator::receive_packet(guest.ours.get(), replicator::Reception::kMost, patience));
    SOMFS_TRY_ASSIGN(const replicator::Step step, reception.take(brought));
    std::string packet = step.encode();
    const Status sent = replicator::send_packet(guest.ours.get(), packet, patience);
    replicator::wipe(packet);
    SOMFS_TRY(sent);
    if (step.next == replicator::Step::Next::talk) return reception;
  }
}

Status MirrorDaemon::converse(Guest& guest, bool& stranger) {
  SOMFS_TRY_ASSIGN(const replicator::Reception caller, introduce(guest));
  stranger = false;
  --strangers_;
  const int socket = guest.ours.release();
  auto transport = replicator::make_stream(socket, socket, replicator::stored_framing(), {.sending = replicator::PipelineMode::serial});
  if (caller.pairs()) {
    log::info("{}: paired, fingerprint {}", guest.name, replicator::fingerprint(caller.peer()));
    return transport->send({replicator::MessageType::bye, {}});
  }
  Watchman::Visit visit(watchman_.get());
  Watched watched(*transport, visit);
  replicator::Yielding yielding(watched);
  return replicator::serve(yielding, [&](const replicator::Hello& hello) -> Result<std::unique_ptr<replicator::Mirror>> {
    // The caller said so itself: what its worker makes of it does not count.
    replicator::Hello proved;
    if (caller.first().type != replicator::MessageType::hello || !decode(caller.first().body, &proved) || encode(hello) != encode(proved))
      return fail(Exit::not_allowed, "refusing a caller", {}, "its worker hands on another hello than it sent");
    SOMFS_TRY_ASSIGN(const replicator::AllowList peers, keys_.peers());
    SOMFS_TRY(peers.admit(caller.peer(), hello.volume_name, hello.wants));
    visit.arrived(hello);
    auto mirror = open_mirror(hello.volume_name, yielding);
    if (mirror && !peers.allow(caller.peer(), hello.volume_name, replicator::Right::confirm)) (*mirror)->restrain(limits_.brake);
    return mirror;
  });
}

// A source that ends one conversation and begins the next, or asks somebody else to, may be here before the first is over on this side.
Result<std::unique_ptr<replicator::Mirror>> MirrorDaemon::open_mirror(const std::string& volume, replicator::Yielding& conversation) const {
  const std::string path = store_ + "/" + volume;
  const auto shared = forwarding_ ? forwarding_->mirror(volume) : nullptr;
  const auto until = std::chrono::steady_clock::now() + kHandOver;
  for (;;) {
    auto mirror = shared ? shared->open() : replicator::Mirror::open(path, replicator::Mirror::Mode::create);
    if (mirror && shared) conversation.with(shared);
    if (mirror && forwarding_ && !shared) replicator::Spool::discard(path);
    if (mirror || mirror.error().exit != Exit::locked || (shared && shared->wanted()) || std::chrono::steady_clock::now() >= until) return mirror;
    pollfd p = {wake_.get(), POLLIN, 0};
    if (::poll(&p, 1, 20) > 0) return mirror;
  }
}

}  // namespace somfs::cli
