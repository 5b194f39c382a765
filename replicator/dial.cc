// SPDX-License-Identifier: Apache-2.0
#include "replicator/dial.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <limits>
#include <utility>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/printable.h"

namespace somfs::replicator {
namespace {

constexpr int kBacklog = 64;
constexpr const char* kHungUp = "the other side hung up";

struct Addresses {
  addrinfo* list = nullptr;
  ~Addresses() {
    if (list != nullptr) ::freeaddrinfo(list);
  }
};

Status resolve(const Address& address, int flags, Addresses* out) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  const int e = ::getaddrinfo(address.host.empty() ? nullptr : address.host.c_str(), std::to_string(address.port).c_str(), &hints, &out->list);
  if (e != 0) return fail(Exit::link_down, "cannot find the host", printable(address.host), ::gai_strerror(e));
  return {};
}

// Whether the socket is ready; an error when the patience is at its end.
Status wait_for(int socket, short events, const Patience& patience) {
  for (;;) {
    const std::int64_t left = patience.until_ns - SystemClock().mono_ns();
    if (left <= 0) return fail(Exit::link_down, "the other side does not answer", {}, "the time for connecting is over");
    pollfd p[2] = {{socket, events, 0}, {patience.interrupt, POLLIN, 0}};
    const int n = ::poll(p, 2, static_cast<int>(std::min<std::int64_t>(left / 1'000'000 + 1, 60'000)));
    if (n < 0 && errno != EINTR) return fail_errno("cannot wait for the network");
    if (n > 0 && p[1].revents != 0) return fail(Exit::interrupted, "interrupted");
    if (n > 0 && p[0].revents != 0) return {};
  }
}

Status send_all(int socket, std::string_view bytes, const Patience& patience) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) bytes.remove_prefix(static_cast<std::size_t>(n));
    else if (n < 0 && errno == EAGAIN) SOMFS_TRY(wait_for(socket, POLLOUT, patience));
    else if (n < 0 && errno != EINTR) return pass_on(Error{Exit::link_down, errno, "cannot send", {}, {}, {}});
  }
  return {};
}

Status receive_exactly(int socket, char* to, std::size_t size, const Patience& patience) {
  while (size > 0) {
    const ssize_t n = ::recv(socket, to, size, MSG_DONTWAIT);
    if (n == 0) return fail(Exit::link_down, kHungUp);
    if (n > 0) {
      to += n;
      size -= static_cast<std::size_t>(n);
    } else if (errno == EAGAIN) {
      SOMFS_TRY(wait_for(socket, POLLIN, patience));
    } else if (errno != EINTR) {
      return pass_on(Error{Exit::link_down, errno, "cannot receive", {}, {}, {}});
    }
  }
  return {};
}

// Byte by byte: what follows the line belongs to somebody else.
Result<std::string> receive_line(int socket, const Patience& patience) {
  std::string line;
  while (line.size() < Banner::kMaxLine) {
    char c = 0;
    SOMFS_TRY(receive_exactly(socket, &c, 1, patience));
    line.push_back(c);
    if (c == '\n') return line;
  }
  return fail(Exit::peer_version, "what answers is no somfs", {}, "its first line is too long");
}

Result<std::string> receive_string(int socket, std::size_t size, const Patience& patience) {
  std::string bytes(size, '\0');
  SOMFS_TRY(receive_exactly(socket, bytes.data(), size, patience));
  return bytes;
}

Result<std::string> receive_message(int socket, const Patience& patience) {
  SOMFS_TRY_ASSIGN(const std::string two, receive_string(socket, 2, patience));
  SOMFS_TRY_ASSIGN(const std::size_t size, handshake_length(two));
  return receive_string(socket, size, patience);
}

// Its header is judged as far as that goes without keys.
Result<std::string> receive_first_frame(int socket, const Patience& patience) {
  SOMFS_TRY_ASSIGN(std::string frame, receive_string(socket, kSealHeader, patience));
  SOMFS_TRY_ASSIGN(const SealHeader header, Acceptor(Secret(), {}).header(frame));
  if (header.body() > Reception::kMaxFirst) return fail(Exit::link_down, "the stream from the other side is broken", {}, "its first frame is too long");
  SOMFS_TRY_ASSIGN(const std::string body, receive_string(socket, header.body(), patience));
  return frame + body;
}

// A mirror tells whom it does not let in nothing, it hangs up: what that means is said here.
tl::unexpected<Error> turned_away(const Error& e) {
  if (e.exit != Exit::link_down || e.what != kHungUp) return pass_on(e);
  return fail(Exit::not_allowed, "the mirror does not let this host in", {}, "it does not know this host's key, or its own key is another than the one known here",
              "pair again: somfs-ctl pair TARGET CODE");
}

Result<std::unique_ptr<Channel>> shake_hands(int socket, Handshake handshake, const Patience& patience) {
  while (!handshake.done()) {
    if (handshake.our_turn()) {
      SOMFS_TRY_ASSIGN(const std::string message, handshake.next_message());
      SOMFS_TRY(send_all(socket, handshake_frame(message), patience));
    } else {
      SOMFS_TRY_ASSIGN(const std::string message, receive_message(socket, patience));
      SOMFS_TRY(handshake.take_message(message));
    }
  }
  return handshake.finish();
}

template <typename Make>
Result<std::unique_ptr<Channel>> call(int socket, Banner::Word word, const Make& make, const Patience& patience) {
  Banner own;
  own.word = word;
  const std::string source_line = own.line();
  SOMFS_TRY(send_all(socket, source_line, patience));
  SOMFS_TRY_ASSIGN(const std::string mirror_line, receive_line(socket, patience));
  SOMFS_TRY_ASSIGN(Banner theirs, Banner::parse(mirror_line, Role::responder));
  SOMFS_TRY_ASSIGN(Handshake handshake, make(prologue(source_line, mirror_line)));
  auto channel = shake_hands(socket, std::move(handshake), patience);
  if (!channel) return turned_away(channel.error());
  (*channel)->features = std::move(theirs.features);
  return channel;
}

}  // namespace

std::string Address::text() const {
  return (host.find(':') != std::string::npos ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Address> Address::parse(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  Address a;
  auto bad = [&](const char* why) { return fail(Exit::usage, "not an address", printable(text), why, "write HOST:PORT"); };
  if (colon == std::string::npos) return bad("it names no port");
  a.host = text.substr(0, colon);
  if (a.host.size() >= 2 && a.host.front() == '[' && a.host.back() == ']') a.host = a.host.substr(1, a.host.size() - 2);
  else if (a.host.find(':') != std::string::npos) return bad("an IPv6 address stands in brackets");
  const char* end = text.data() + text.size();
  const auto [at, e] = std::from_chars(text.data() + colon + 1, end, a.port);
  if (e != std::errc() || at != end) return bad("its port is not a number from 0 to 65535");
  if (a.host.find_first_of(" \t\n/@") != std::string::npos) return bad("its host is not a name");
  return a;
}

Patience Patience::for_seconds(double seconds, int interrupt) {
  return {SystemClock().mono_ns() + static_cast<std::int64_t>(seconds * 1e9), interrupt};
}

Patience Patience::for_ever(int interrupt) { return {std::numeric_limits<std::int64_t>::max(), interrupt}; }

Result<Fd> connect_to(const Address& address, const Patience& patience) {
  Addresses all;
  SOMFS_TRY(resolve(address, 0, &all));
  Error last{Exit::link_down, 0, "cannot connect to", printable(address.text()), {}, {}};
  for (const addrinfo* a = all.list; a != nullptr; a = a->ai_next) {
    Fd fd(::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol));
    if (!fd) continue;
    int e = ::connect(fd.get(), a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (e == EINPROGRESS) {
      SOMFS_TRY(wait_for(fd.get(), POLLOUT, patience));
      socklen_t size = sizeof e;
      ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &e, &size);
    }
    if (e == 0) {
      keep_alive(fd.get());
      return fd;
    }
    last.sys = e;
  }
  last.to_do = "see whether somfs-mirrord runs there";
  return pass_on(last);
}

Result<Fd> listen_on(const Address& address) {
  Addresses all;
  SOMFS_TRY(resolve(address, AI_PASSIVE, &all));
  int e = EADDRNOTAVAIL;
  for (const addrinfo* a = all.list; a != nullptr; a = a->ai_next) {
    Fd fd(::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol));
    const int on = 1;
    if (fd) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd && ::bind(fd.get(), a->ai_addr, a->ai_addrlen) == 0 && ::listen(fd.get(), kBacklog) == 0) return fd;
    e = errno;
  }
  return fail_errno("cannot listen on", printable(address.text()), e);
}

std::uint16_t bound_port(int socket) {
  sockaddr_storage there{};
  socklen_t size = sizeof there;
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&there), &size) != 0) return 0;
  return ntohs(there.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(there).sin6_port : reinterpret_cast<sockaddr_in&>(there).sin_port);
}

Result<std::unique_ptr<Channel>> link_channel(int socket, Secret own, const PublicKey& mirror, const Patience& patience) {
  return call(socket, Banner::Word::link, [&](std::string p) { return Handshake::link(std::move(own), mirror, std::move(p)); }, patience);
}

Result<std::unique_ptr<Channel>> pair_channel(int socket, Secret own, PairingCode code, const Patience& patience) {
  return call(socket, Banner::Word::pair, [&](std::string p) { return Handshake::pair(std::move(own), std::move(code), std::move(p)); }, patience);
}

// A peer that has gone without a word, or a way that swallows everything, is noticed within half a minute (tcp(7)).
void keep_alive(int socket) {
  const int on = 1, idle_s = 10, between_s = 5, probes = 4;
  const unsigned unanswered_ms = 30'000;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &between_s, sizeof between_s);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  ::setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

Result<Call> answer_call(int socket, const Ask& ask, const Patience& patience) {
  SOMFS_TRY_ASSIGN(std::string brought, receive_line(socket, patience));
  Banner own;
  own.word = Banner::Word::mirror;
  // Told before the caller's line is judged: a source of another version learns ours from it.
  SOMFS_TRY(send_all(socket, own.line(), patience));
  // Whether it is a good one is for whoever is asked.
  const auto theirs = Banner::parse(brought, Role::initiator);
  bool framed = false;
  for (;;) {
    SOMFS_TRY_ASSIGN(Step step, ask(brought));
    if (step.session) return Call{std::move(*step.session), framed ? std::move(brought) : std::string(), theirs ? theirs->features : std::set<std::string>()};
    SOMFS_TRY(send_all(socket, step.send, patience));
    framed = step.next == Step::Next::frame;
    SOMFS_TRY_ASSIGN(brought, framed ? receive_first_frame(socket, patience) : receive_message(socket, patience));
  }
}

Status send_packet(int socket, std::string_view bytes, const Patience& patience) {
  std::string packet;
  ByteWriter w(packet);
  w.u32(static_cast<std::uint32_t>(bytes.size()));
  w.raw(bytes);
  const Status sent = send_all(socket, packet, patience);
  wipe(packet);
  return sent;
}

Result<std::string> receive_packet(int socket, std::size_t most, const Patience& patience) {
  char four[4];
  SOMFS_TRY(receive_exactly(socket, four, sizeof four, patience));
  const std::size_t size = ByteReader(std::string_view(four, sizeof four)).u32();
  if (size > most) return fail(Exit::temporary, "cannot go on with a caller", {}, "a packet is too long");
  return receive_string(socket, size, patience);
}

}  // namespace somfs::replicator
