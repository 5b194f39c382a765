// SPDX-License-Identifier: Apache-2.0
// The handshake of the secure channel: The Noise Protocol Framework, revision 34 (2018-07-11), with the suite 25519_AESGCM_SHA256.
// Names are those of its chapter 5. Pure: bytes in, bytes out; whoever calls brings them to the other side (docs/formats/channel.md).
// One thread at a time. Whatever is refused is Exit::not_allowed, and ends the handshake: everything after it fails.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"
#include "replicator/crypto.h"

namespace somfs::replicator {

// As written in the specification: tokens with blanks between them, the initiator's message first.
struct Pattern {
  std::string_view name;
  std::string_view initiator_knows_to_be, responder_knows_to_be;   // pre-messages "→ s" and "← s": "s" or nothing
  std::array<std::string_view, 4> messages;                        // the first empty one ends them
};

inline constexpr Pattern kXX{"XX", "", "", {"e", "e ee s es", "s se"}};
inline constexpr Pattern kIK{"IK", "", "s", {"e es s ss", "e ee se"}};

inline constexpr std::size_t kMaxNoiseMessage = 65535;

class CipherState {
 public:
  CipherState() = default;   // without a key: bytes pass as they are
  explicit CipherState(Secret key) : key_(std::move(key)) {}

  bool has_key() const { return key_.has_value(); }
  const Secret& key() const { return *key_; }
  void set_nonce(std::uint64_t nonce) { nonce_ = nonce; }
  Result<std::string> encrypt_with_ad(std::string_view associated, std::string_view plaintext);
  Result<std::string> decrypt_with_ad(std::string_view associated, std::string_view sealed);   // refused: the nonce stays
  void rekey();              // the nonce goes on

 private:
  std::optional<Secret> key_;
  std::uint64_t nonce_ = 0;
};

// REKEY(k): the next key, from which nobody finds the way back to this one.
Secret next_key(const Secret& key);

class SymmetricState {
 public:
  explicit SymmetricState(std::string_view protocol_name);

  void mix_key(std::string_view input);
  void mix_hash(std::string_view bytes);
  Result<std::string> encrypt_and_hash(std::string_view plaintext);
  Result<std::string> decrypt_and_hash(std::string_view sealed);
  bool has_key() const { return cipher_.has_key(); }
  const std::string& hash() const { return hash_; }
  std::pair<CipherState, CipherState> split() const;   // initiator → responder, responder → initiator

 private:
  Secret chaining_key_;
  std::string hash_;   // 32 bytes
  CipherState cipher_;
};

enum class Role : std::uint8_t { initiator, responder };

struct HandshakeSetup {
  Pattern pattern;
  Role role = Role::initiator;
  Secret static_key;
  std::optional<PublicKey> remote_static;                 // where the pattern knows it beforehand
  std::string prologue;                                   // what both must have seen alike
  std::function<Status(const PublicKey&)> admit;          // asked once, when a message has proved the other side's static key
  std::optional<Secret> ephemeral;                        // for test vectors: otherwise random
};

// What a handshake leaves behind.
struct Session {
  CipherState send, receive;
  std::string hash;           // names this connection: 32 bytes, the same on both sides, never twice
  PublicKey remote_static;
};

class HandshakeState {
 public:
  static Result<HandshakeState> start(HandshakeSetup setup);

  bool done() const { return !failed_ && turn_ == messages_; }
  bool our_turn() const { return !failed_ && turn_ < messages_ && (turn_ % 2 == 0) == (setup_.role == Role::initiator); }
  Result<std::string> next_message(std::string_view payload = {});   // to be sent
  Result<std::string> take_message(std::string_view message);        // its payload
  // Known beforehand, or proved by a message that was taken. In IK the responder's proof that this is no repetition of an old first
  // message is the first sealed frame that opens.
  const std::optional<PublicKey>& remote_static() const { return setup_.remote_static; }
  Result<Session> finish();                                          // when done, once
  void give_up();                                                    // overwrites the keys; everything fails from now on

 private:
  explicit HandshakeState(HandshakeSetup setup);
  Status write(std::string_view payload, std::string& out);
  Status read(std::string_view message, std::string& payload);
  Status mix_agreement(std::string_view token);

  HandshakeSetup setup_;
  SymmetricState symmetric_;
  std::optional<Secret> ephemeral_;
  std::optional<PublicKey> remote_ephemeral_;
  std::size_t messages_ = 0, turn_ = 0;
  bool failed_ = false;
};

}  // namespace somfs::replicator
