// SPDX-License-Identifier: Apache-2.0
// What somfs makes of Noise (docs/formats/channel.md): a line of text from each side, a handshake, then sealed frames. Pure: a transport
// brings the bytes, holds the deadline over the whole handshake, and ends the connection at the first error.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "common/result.h"
#include "replicator/noise.h"
#include "replicator/pairing.h"
#include "replicator/seal.h"
#include "replicator/wire.h"

namespace somfs::replicator {

// The first line of either side, in plain text. The source says what it wants, the mirror only that it is one.
struct Banner {
  enum class Word : std::uint8_t { pair, link, mirror };
  static constexpr std::size_t kMaxLine = 256;   // with its newline

  Word word = Word::link;
  std::set<std::string> features = own();        // what the side can do; used is what both name. Words of a-z, 0-9 and -, at most 16
  std::string line() const;
  // Another version is Exit::peer_version, as is anything that is no banner of such a side.
  static Result<Banner> parse(std::string_view line, Role whose);
  static std::set<std::string> own();            // the codecs that are read here, by name
};

// What a side that named these features can be sent: as wanted, or with another codec that it reads, or nothing compressed.
Codec readable(const std::set<std::string>& features, Codec wanted);

// The prologue: both lines as they were sent, so that nobody between the two can take a feature away.
inline std::string prologue(std::string_view source_line, std::string_view mirror_line) {
  return std::string(source_line).append(mirror_line);
}

// A message of the handshake on the wire: its length in two bytes, and the message.
inline constexpr std::size_t kMaxHandshake = 512;
std::string handshake_frame(std::string_view message);
Result<std::size_t> handshake_length(std::string_view two_bytes);

// A connection whose handshake is over. What it sends takes its tickets with out.take_rekeying().
struct Channel {
  explicit Channel(Session session, SealLimits limits = {});

  Counter out;
  Acceptor in;
  const PublicKey peer;
  const std::string hash;    // of the handshake: 32 bytes, the name of this connection on both sides
  std::set<std::string> features;   // of the other side
};

class Handshake {
 public:
  // The source's side. A link is made to a mirror whose key is known; a pairing code says which mirror may answer, and is told to no other.
  static Result<Handshake> link(Secret own, const PublicKey& mirror, std::string prologue);
  static Result<Handshake> pair(Secret own, PairingCode code, std::string prologue);
  // The mirror's side. What is asked here is asked before anything more is said to the source.
  static Result<Handshake> answer_link(Secret own, std::string prologue, std::function<Status(const PublicKey&)> admit);
  static Result<Handshake> answer_pair(Secret own, std::string prologue,
                                       std::function<Status(const PublicKey&, std::string_view token)> redeem);

  bool done() const { return state_.done(); }
  bool our_turn() const { return state_.our_turn(); }
  Result<std::string> next_message();                  // when it is our turn
  Status take_message(std::string_view message);       // when it is not
  // When done, once. The source is accepted when the mirror's first frame opens, and the mirror knows that the source is there, and no
  // repetition of an old call, when the source's first frame opens: neither may act before.
  Result<Session> session();
  Result<std::unique_ptr<Channel>> finish();           // the same as a channel

 private:
  explicit Handshake(HandshakeState state) : state_(std::move(state)) {}
  HandshakeState state_;
  std::optional<PairingCode> code_;                    // told in our last message
  std::function<Status(const PublicKey&, std::string_view)> redeem_;
};

}  // namespace somfs::replicator
