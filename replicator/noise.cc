// SPDX-License-Identifier: Apache-2.0
#include "replicator/noise.h"

#include <algorithm>
#include <limits>

#include "replicator/wire.h"

namespace somfs::replicator {
namespace {

constexpr std::uint64_t kLastNonce = std::numeric_limits<std::uint64_t>::max();   // kept for rekey
constexpr std::size_t kKey = 32;

tl::unexpected<Error> refused(const char* why) { return fail(Exit::not_allowed, "refusing the other side's handshake", {}, why); }

std::string_view next_token(std::string_view& tokens) {
  const std::size_t end = std::min(tokens.find(' '), tokens.size());
  std::string_view token = tokens.substr(0, end);
  tokens.remove_prefix(std::min(end + 1, tokens.size()));
  return token;
}

std::string protocol_name(const Pattern& pattern) { return "Noise_" + std::string(pattern.name) + "_25519_AESGCM_SHA256"; }

}  // namespace

Result<std::string> CipherState::encrypt_with_ad(std::string_view associated, std::string_view plaintext) {
  if (!key_) return std::string(plaintext);
  if (nonce_ == kLastNonce) return refused("there is no nonce left");
  std::string out;
  aead_seal(*key_, nonce_, associated, plaintext, out);
  ++nonce_;
  return out;
}

Result<std::string> CipherState::decrypt_with_ad(std::string_view associated, std::string_view sealed) {
  if (!key_) return std::string(sealed);
  if (nonce_ == kLastNonce) return refused("there is no nonce left");
  std::string out;
  if (!aead_open(*key_, nonce_, associated, sealed, out)) return refused("it does not prove its key, or was changed on the way");
  ++nonce_;
  return out;
}

void CipherState::rekey() {
  if (key_) key_ = next_key(*key_);
}

Secret next_key(const Secret& key) {
  std::string out;
  aead_seal(key, kLastNonce, {}, Secret().raw(), out);
  Secret next{std::string_view(out).substr(0, Secret::kSize)};
  wipe(out);
  return next;
}

SymmetricState::SymmetricState(std::string_view name) {
  hash_ = name.size() <= kKey ? std::string(name) + std::string(kKey - name.size(), '\0') : sha256(name);
  chaining_key_ = Secret(hash_);
}

void SymmetricState::mix_key(std::string_view input) {
  auto [chaining_key, key] = hkdf(chaining_key_, input);
  chaining_key_ = std::move(chaining_key);
  cipher_ = CipherState(std::move(key));
}

void SymmetricState::mix_hash(std::string_view bytes) { hash_ = sha256(hash_.append(bytes)); }

Result<std::string> SymmetricState::encrypt_and_hash(std::string_view plaintext) {
  SOMFS_TRY_ASSIGN(std::string sealed, cipher_.encrypt_with_ad(hash_, plaintext));
  mix_hash(sealed);
  return sealed;
}

Result<std::string> SymmetricState::decrypt_and_hash(std::string_view sealed) {
  SOMFS_TRY_ASSIGN(std::string plaintext, cipher_.decrypt_with_ad(hash_, sealed));
  mix_hash(sealed);
  return plaintext;
}

std::pair<CipherState, CipherState> SymmetricState::split() const {
  auto [first, second] = hkdf(chaining_key_, {});
  return {CipherState(std::move(first)), CipherState(std::move(second))};
}

HandshakeState::HandshakeState(HandshakeSetup setup) : setup_(std::move(setup)), symmetric_(protocol_name(setup_.pattern)) {
  while (messages_ < setup_.pattern.messages.size() && !setup_.pattern.messages[messages_].empty()) ++messages_;
}

Result<HandshakeState> HandshakeState::start(HandshakeSetup setup) {
  HandshakeState state(std::move(setup));
  const HandshakeSetup& s = state.setup_;
  state.symmetric_.mix_hash(s.prologue);
  const PublicKey own = public_key(s.static_key);
  auto known = [&](Role whose, std::string_view tokens) -> Status {
    if (tokens.empty()) return {};
    if (whose != s.role && !s.remote_static)
      return fail(Exit::not_allowed, "cannot talk to the other side", {}, "its key is not known", "pair with it first");
    state.symmetric_.mix_hash(whose == s.role ? own.raw() : s.remote_static->raw());
    return {};
  };
  SOMFS_TRY(known(Role::initiator, s.pattern.initiator_knows_to_be));
  SOMFS_TRY(known(Role::responder, s.pattern.responder_knows_to_be));
  return state;
}

void HandshakeState::give_up() {
  failed_ = true;
  setup_.static_key.wipe();
  setup_.remote_static.reset();
  ephemeral_.reset();
  symmetric_ = SymmetricState(std::string_view());
}

Result<std::string> HandshakeState::next_message(std::string_view payload) {
  if (!our_turn()) return refused("it is not our turn");
  std::string out;
  if (Status written = write(payload, out); !written) {
    give_up();
    return pass_on(std::move(written).error());
  }
  ++turn_;
  return out;
}

Status HandshakeState::write(std::string_view payload, std::string& out) {
  std::string_view tokens = setup_.pattern.messages[turn_];
  while (!tokens.empty()) {
    std::string_view token = next_token(tokens);
    if (token == "e") {
      ephemeral_ = setup_.ephemeral ? *setup_.ephemeral : Secret::random();
      const PublicKey point = public_key(*ephemeral_);
      out += point.raw();
      symmetric_.mix_hash(point.raw());
    } else if (token == "s") {
      SOMFS_TRY_ASSIGN(std::string sealed, symmetric_.encrypt_and_hash(public_key(setup_.static_key).raw()));
      out += sealed;
    } else {
      SOMFS_TRY(mix_agreement(token));
    }
  }
  if (out.size() + payload.size() + kAeadTag > kMaxNoiseMessage) return refused("a message would be too long");
  SOMFS_TRY_ASSIGN(std::string sealed, symmetric_.encrypt_and_hash(payload));
  out += sealed;
  return {};
}

Result<std::string> HandshakeState::take_message(std::string_view message) {
  if (failed_ || turn_ == messages_ || our_turn()) return refused("it is not its turn");
  std::string payload;
  const bool known = setup_.remote_static.has_value();
  Status taken = read(message, payload);
  if (taken && !known && setup_.remote_static && setup_.admit) taken = setup_.admit(*setup_.remote_static);
  if (!taken) {
    wipe(payload);
    give_up();
    return pass_on(std::move(taken).error());
  }
  ++turn_;
  return payload;
}

Status HandshakeState::read(std::string_view message, std::string& payload) {
  if (message.size() > kMaxNoiseMessage) return refused("a message is too long");
  auto take = [&](std::size_t n) -> Result<std::string_view> {
    if (message.size() < n) return refused("a message is cut off");
    std::string_view piece = message.substr(0, n);
    message.remove_prefix(n);
    return piece;
  };
  std::string_view tokens = setup_.pattern.messages[turn_];
  while (!tokens.empty()) {
    std::string_view token = next_token(tokens);
    if (token == "e") {
      SOMFS_TRY_ASSIGN(std::string_view point, take(kKey));
      remote_ephemeral_ = PublicKey::from_raw(point);
      symmetric_.mix_hash(point);
    } else if (token == "s") {
      SOMFS_TRY_ASSIGN(std::string_view sealed, take(symmetric_.has_key() ? kKey + kAeadTag : kKey));
      SOMFS_TRY_ASSIGN(std::string point, symmetric_.decrypt_and_hash(sealed));
      setup_.remote_static = PublicKey::from_raw(point);
    } else {
      SOMFS_TRY(mix_agreement(token));
    }
  }
  SOMFS_TRY_ASSIGN(payload, symmetric_.decrypt_and_hash(message));
  return {};
}

Status HandshakeState::mix_agreement(std::string_view token) {
  // "es" is the initiator's ephemeral with the responder's static key, on both sides.
  char mine = token[0], other = token[1];
  if (setup_.role == Role::responder) std::swap(mine, other);
  const std::optional<PublicKey>& theirs = other == 'e' ? remote_ephemeral_ : setup_.remote_static;
  if ((mine == 'e' && !ephemeral_) || !theirs) return refused("the pattern uses a key before it is there");
  SOMFS_TRY_ASSIGN(Secret shared, agree(mine == 'e' ? *ephemeral_ : setup_.static_key, *theirs));
  symmetric_.mix_key(shared.raw());
  return {};
}

Result<Session> HandshakeState::finish() {
  if (!done()) return refused("it is not over");
  auto [first, second] = symmetric_.split();
  Session session;
  session.hash = symmetric_.hash();
  session.remote_static = setup_.remote_static.value_or(PublicKey());
  session.send = std::move(setup_.role == Role::initiator ? first : second);
  session.receive = std::move(setup_.role == Role::initiator ? second : first);
  give_up();
  return session;
}

}  // namespace somfs::replicator
