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
#include <exception>
#include <system_error>
#include <utility>

#include "cli/own_directory.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/printable.h"
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

std::string who(int socket) {
  sockaddr_storage there{};
  socklen_t size = sizeof there;
  char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&there), &size) == 0)
    (void)::getnameinfo(reinterpret_cast<sockaddr*>(&there), size, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
  return std::string(host) + ":" + port;
}

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

// ---- the daemon

struct MirrorDaemon::Guest {
  Fd socket;                   // the thread's, until the transport has it
  Fd again;                    // the connection once more, to end it
  std::string name;
  std::atomic<bool> gone{false};
  std::thread thread;
};

MirrorDaemon::MirrorDaemon(std::string store, MirrorKeys keys, Fd listener, const Limits& limits)
    : store_(std::move(store)), limits_(limits), keys_(std::move(keys)), listener_(std::move(listener)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Result<std::unique_ptr<MirrorDaemon>> MirrorDaemon::listen(const std::string& store, const replicator::Address& address, const Limits& limits) {
  SOMFS_TRY_ASSIGN(MirrorKeys keys, MirrorKeys::open(store));
  SOMFS_TRY_ASSIGN(Fd listener, replicator::listen_on(address));
  return std::unique_ptr<MirrorDaemon>(new MirrorDaemon(store, std::move(keys), std::move(listener), limits));
}

MirrorDaemon::~MirrorDaemon() { let_go(true); }

std::uint16_t MirrorDaemon::port() const { return replicator::bound_port(listener_.get()); }

void MirrorDaemon::stop() {
  stopping_ = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(wake_.get(), &one, sizeof one);
}

Status MirrorDaemon::run() {
  while (!stopping_) {
    pollfd p[2] = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(p, 2, 1000) < 0 && errno != EINTR) return fail_errno("cannot wait for callers");
    let_go(false);
    if (p[0].revents == 0) continue;
    Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      // Out of descriptors, or the caller has gone: those that are here go on.
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) (void)::poll(nullptr, 0, 100);
      continue;
    }
    Lock l(mutex_);
    if (guests_.size() >= limits_.connections || strangers_ >= limits_.strangers) {
      log::warning("{}: hung up, too many callers", who(socket.get()));
      continue;
    }
    Guest& guest = guests_.emplace_back();
    guest.name = who(socket.get());
    guest.again = Fd(::fcntl(socket.get(), F_DUPFD_CLOEXEC, 3));
    guest.socket = std::move(socket);
    ++strangers_;
    try {
      guest.thread = std::thread([this, &guest] { serve(guest); });
    } catch (const std::system_error& e) {
      log::warning("{}: hung up, {}", guest.name, e.what());
      --strangers_;
      guests_.pop_back();
    }
  }
  let_go(true);
  return {};
}

void MirrorDaemon::let_go(bool all) {
  std::list<Guest> gone;
  {
    Lock l(mutex_);
    for (auto at = guests_.begin(); at != guests_.end();) {
      const auto next = std::next(at);
      if (all) ::shutdown(at->again.get(), SHUT_RDWR);
      if (all || at->gone) gone.splice(gone.end(), guests_, at);
      at = next;
    }
  }
  for (Guest& g : gone) g.thread.join();
}

void MirrorDaemon::serve(Guest& guest) {
  bool stranger = true;
  try {
    if (Status s = converse(guest, stranger); !s) log::warning("{}: {}", guest.name, s.error().line());
  } catch (const std::exception& e) {
    log::error("{}: {}", guest.name, e.what());
  }
  if (stranger) --strangers_;
  guest.socket.reset();
  ::shutdown(guest.again.get(), SHUT_RDWR);
  guest.gone = true;
}

Status MirrorDaemon::converse(Guest& guest, bool& stranger) {
  replicator::Doorkeeper doorkeeper;
  doorkeeper.own = [this] { return keys_.own(); };
  doorkeeper.admit = [this](const replicator::PublicKey& key) -> Status {
    SOMFS_TRY_ASSIGN(const replicator::AllowList peers, keys_.peers());
    return peers.known(key);
  };
  doorkeeper.redeem = [this](const replicator::PublicKey& key, std::string_view token) { return keys_.redeem(key, token); };
  auto caller = replicator::answer_channel(guest.socket.get(), doorkeeper, replicator::Patience::for_seconds(limits_.handshake_s, wake_.get()));
  if (!caller) return pass_on(caller.error());
  stranger = false;
  --strangers_;
  const replicator::PublicKey peer = caller->channel->peer;
  auto transport = replicator::make_sealed_stream(guest.socket.release(), std::move(caller->channel));
  if (caller->pairs) {
    log::info("{}: paired, fingerprint {}", guest.name, replicator::fingerprint(peer));
    return transport->send({replicator::MessageType::bye, {}});
  }
  return replicator::serve(*transport, [&](const replicator::Hello& hello) -> Result<std::unique_ptr<replicator::Mirror>> {
    SOMFS_TRY_ASSIGN(const replicator::AllowList peers, keys_.peers());
    SOMFS_TRY(peers.allow(peer, hello.volume_name, replicator::Right::migrate));
    return replicator::Mirror::open(store_ + "/" + hello.volume_name, replicator::Mirror::Mode::create);
  });
}

}  // namespace somfs::cli
