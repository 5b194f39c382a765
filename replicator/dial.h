// SPDX-License-Identifier: Apache-2.0
// From an address to a channel: the connection, the banner and the handshake (docs/formats/channel.md), under one deadline. Linux.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "common/fd.h"
#include "common/result.h"
#include "replicator/channel.h"
#include "replicator/reception.h"

namespace somfs::replicator {

struct Address {
  std::string host;          // a name, an IPv4 or an IPv6 address, without brackets
  std::uint16_t port = 0;
  std::string text() const;  // HOST:PORT, [HOST]:PORT
  // HOST:PORT. An error is Exit::usage.
  static Result<Address> parse(const std::string& text);
};

// Until a moment of the monotonic clock; Exit::link_down when it passes. `interrupt`: readable when it is to be given up, or -1.
struct Patience {
  std::int64_t until_ns = 0;
  int interrupt = -1;
  static Patience for_seconds(double seconds, int interrupt = -1);
  static Patience for_ever(int interrupt = -1);
};

Result<Fd> connect_to(const Address& address, const Patience& patience);
Result<Fd> listen_on(const Address& address);   // port 0: any; see bound_port()
std::uint16_t bound_port(int socket);

// The source's side, on a connected socket. Errors: Exit::not_allowed (keys), link_down, peer_version.
Result<std::unique_ptr<Channel>> link_channel(int socket, Secret own, const PublicKey& mirror, const Patience& patience);
Result<std::unique_ptr<Channel>> pair_channel(int socket, Secret own, PairingCode code, const Patience& patience);

// The mirror's side, on a caller's socket, for a process that has no keys: `ask` brings what the caller sent to a Reception.
using Ask = std::function<Result<Step>(std::string_view brought)>;
struct Call {
  Session session;
  std::string first;   // of a link: the frame that has been read, header and body
  std::set<std::string> features;   // of the caller
};
Result<Call> answer_call(int socket, const Ask& ask, const Patience& patience);
void keep_alive(int socket);   // what is set on a connection before anything is said

// What goes between the two processes: a length in four bytes, and so many bytes, at most `most`.
Status send_packet(int socket, std::string_view bytes, const Patience& patience);
Result<std::string> receive_packet(int socket, std::size_t most, const Patience& patience);

}  // namespace somfs::replicator
