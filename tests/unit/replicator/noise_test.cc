// SPDX-License-Identifier: Apache-2.0
// The handshake against public vectors (noise_vectors/README.md), X25519 against RFC 7748, and everything that must be refused.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <vector>

#include "replicator/noise.h"
#include "replicator/text_codes.h"

namespace somfs::replicator {
namespace {

std::string bytes(std::string_view text) { return from_hex(text).value(); }

using Vector = std::map<std::string, std::string>;   // values decoded, but for the name

std::vector<Vector> vectors() {
  std::ifstream in(std::getenv("SOMFS_NOISE_VECTORS"));
  std::vector<Vector> all;
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) continue;
    const std::size_t at = line.find('=');
    const std::string name = line.substr(0, at), value = line.substr(at + 1);
    if (name == "handshake") all.emplace_back();
    all.back()[name] = name == "handshake" ? value : bytes(value);
  }
  return all;
}

Pattern pattern_of(const Vector& v) { return v.at("handshake").starts_with("Noise_XX_") ? kXX : kIK; }
std::size_t messages_of(const Vector& v) { return v.at("handshake").starts_with("Noise_XX_") ? 3 : 2; }
std::string message(const Vector& v, std::size_t i, const char* part) { return v.at("msg_" + std::to_string(i) + "_" + part); }

HandshakeSetup setup(const Vector& v, Role role) {
  const bool initiator = role == Role::initiator;
  HandshakeSetup s;
  s.pattern = pattern_of(v);
  s.role = role;
  s.static_key = Secret(v.at(initiator ? "init_static" : "resp_static"));
  s.ephemeral = Secret(v.at(initiator ? "gen_init_ephemeral" : "gen_resp_ephemeral"));
  if (initiator && s.pattern.name == "IK") s.remote_static = public_key(Secret(v.at("resp_static")));
  if (auto prologue = v.find("prologue"); prologue != v.end()) s.prologue = prologue->second;
  return s;
}

struct Ends {
  HandshakeState initiator, responder;
  explicit Ends(const Vector& v)
      : initiator(HandshakeState::start(setup(v, Role::initiator)).value()),
        responder(HandshakeState::start(setup(v, Role::responder)).value()) {}
  HandshakeState& sender(std::size_t i) { return i % 2 == 0 ? initiator : responder; }
  HandshakeState& receiver(std::size_t i) { return i % 2 == 0 ? responder : initiator; }
  // The messages before `n`, from one to the other.
  void run(const Vector& v, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i)
      ASSERT_TRUE(receiver(i).take_message(sender(i).next_message(message(v, i, "payload")).value()));
  }
};

void refused(const Result<std::string>& result) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().exit, Exit::not_allowed);
  EXPECT_FALSE(result.error().why.empty());
}

TEST(Noise, EveryVectorByteByByteInBothDirections) {
  const auto all = vectors();
  std::map<std::string, int> of;
  for (const Vector& v : all) {
    ++of[v.at("handshake")];
    const std::size_t n = messages_of(v);
    Ends ends(v);
    for (std::size_t i = 0; i < n; ++i) {
      SCOPED_TRACE(v.at("handshake") + " " + std::to_string(i));
      EXPECT_TRUE(ends.sender(i).our_turn());
      EXPECT_FALSE(ends.receiver(i).our_turn());
      auto written = ends.sender(i).next_message(message(v, i, "payload"));
      ASSERT_TRUE(written);
      EXPECT_EQ(hex(*written), hex(message(v, i, "ciphertext")));
      auto read = ends.receiver(i).take_message(message(v, i, "ciphertext"));
      ASSERT_TRUE(read) << read.error().line();
      EXPECT_EQ(*read, message(v, i, "payload"));
    }
    ASSERT_TRUE(ends.initiator.done() && ends.responder.done());
    auto a = ends.initiator.finish().value(), b = ends.responder.finish().value();
    EXPECT_EQ(a.hash, b.hash);
    EXPECT_EQ(a.hash.size(), 32u);
    EXPECT_EQ(a.remote_static, public_key(Secret(v.at("resp_static"))));
    EXPECT_EQ(b.remote_static, public_key(Secret(v.at("init_static"))));
    for (std::size_t i = n; v.contains("msg_" + std::to_string(i) + "_payload"); ++i) {
      SCOPED_TRACE(v.at("handshake") + " transport " + std::to_string(i));
      const bool first = (i - n) % 2 == 0;
      auto written = (first ? a : b).send.encrypt_with_ad({}, message(v, i, "payload"));
      EXPECT_EQ(hex(*written), hex(message(v, i, "ciphertext")));
      EXPECT_EQ((first ? b : a).receive.decrypt_with_ad({}, *written).value(), message(v, i, "payload"));
    }
    EXPECT_FALSE(ends.initiator.finish()) << "a handshake ends once";
  }
  EXPECT_GE(of["Noise_XX_25519_AESGCM_SHA256"], 1);
  EXPECT_GE(of["Noise_IK_25519_AESGCM_SHA256"], 1);
}

// XX's first message proves nothing yet: what was changed in it comes out with the second.
TEST(Noise, EveryFlippedBitIsRefused) {
  for (const Vector& v : vectors())
    for (std::size_t i = 0; i < messages_of(v); ++i) {
      const std::string good = message(v, i, "ciphertext");
      for (std::size_t bit = 0; bit < good.size() * 8; bit += good.size() > 50 ? 5 : 1) {
        SCOPED_TRACE(v.at("handshake") + " message " + std::to_string(i) + " bit " + std::to_string(bit));
        Ends ends(v);
        ends.run(v, i);
        ASSERT_TRUE(ends.sender(i).next_message(message(v, i, "payload")));
        std::string bad = good;
        bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
        auto read = ends.receiver(i).take_message(bad);
        if (read) {
          ASSERT_TRUE(pattern_of(v).name == "XX" && i == 0);
          auto answer = ends.receiver(i).next_message(message(v, 1, "payload"));
          ASSERT_TRUE(answer);
          refused(ends.sender(i).take_message(*answer));
          continue;
        }
        refused(read);
        EXPECT_FALSE(ends.receiver(i).remote_static()) << "nobody may pin a key that was not proved";
        refused(ends.receiver(i).take_message(good));
        refused(ends.receiver(i).next_message());
        EXPECT_FALSE(ends.receiver(i).done() || ends.receiver(i).our_turn());
        EXPECT_FALSE(ends.receiver(i).finish());
      }
    }
}

TEST(Noise, ACutMessageIsRefused) {
  for (const Vector& v : vectors())
    for (std::size_t i = 0; i < messages_of(v); ++i) {
      const std::string good = message(v, i, "ciphertext");
      for (std::size_t n = 0; n < good.size(); ++n) {
        if (pattern_of(v).name == "XX" && i == 0 && n >= 32) continue;   // a shorter payload, still in plain text
        Ends ends(v);
        ends.run(v, i);
        ASSERT_TRUE(ends.sender(i).next_message(message(v, i, "payload")));
        refused(ends.receiver(i).take_message(std::string_view(good).substr(0, n)));
      }
      Ends ends(v);
      ends.run(v, i);
      refused(ends.receiver(i).take_message(std::string(kMaxNoiseMessage + 1, 'x')));
    }
}

TEST(Noise, AMessageTwiceOrOutOfTurnIsRefused) {
  for (const Vector& v : vectors()) {
    const std::size_t n = messages_of(v);
    for (std::size_t i = 0; i < n; ++i) {
      Ends ends(v);
      ends.run(v, i + 1);
      refused(ends.receiver(i).take_message(message(v, i, "ciphertext")));
      // and where the next one is waited for
      if (i + 2 < n) {
        ASSERT_TRUE(ends.sender(i + 1).next_message(message(v, i + 1, "payload")));
        refused(ends.sender(i + 1).take_message(message(v, i, "ciphertext")));
      }
    }
    Ends ends(v);
    refused(ends.responder.next_message());
    refused(ends.initiator.take_message(message(v, 0, "ciphertext")));
    EXPECT_FALSE(ends.initiator.finish());
    EXPECT_TRUE(ends.initiator.our_turn()) << "asking too early breaks nothing";
  }
}

// The ephemeral of a second connection is another one: what was recorded in the first is worth nothing.
TEST(Noise, MessagesOfAnotherConnectionAreRefused) {
  for (Vector v : vectors())
    for (std::size_t i = 1; i < messages_of(v); ++i) {
      Ends recorded(v);
      recorded.run(v, i);
      const std::string old = recorded.sender(i).next_message(message(v, i, "payload")).value();
      Vector other = v;
      other[i % 2 == 0 ? "gen_resp_ephemeral" : "gen_init_ephemeral"] = std::string(32, '\x11');
      Ends ends(other);
      ends.run(other, i);
      ASSERT_TRUE(ends.sender(i).next_message());
      refused(ends.receiver(i).take_message(old));
    }
}

TEST(Noise, AnotherKeyOrPrologueThanExpectedIsRefused) {
  for (const Vector& v : vectors()) {
    if (pattern_of(v).name == "IK") {
      HandshakeSetup wrong = setup(v, Role::initiator);
      wrong.remote_static = public_key(Secret(std::string(32, 'w')));
      auto caller = HandshakeState::start(wrong).value();
      Ends ends(v);
      refused(ends.responder.take_message(caller.next_message().value()));
      wrong.remote_static.reset();
      auto none = HandshakeState::start(wrong);
      ASSERT_FALSE(none);
      EXPECT_EQ(none.error().exit, Exit::not_allowed);
    }
    HandshakeSetup other = setup(v, Role::initiator);
    other.prologue += "x";
    auto caller = HandshakeState::start(other).value();
    Ends ends(v);
    auto first = ends.responder.take_message(caller.next_message().value());
    if (first) refused(caller.take_message(ends.responder.next_message().value()));
    else refused(first);
  }
}

TEST(Noise, WhoIsNotAdmittedGetsNoAnswer) {
  for (const Vector& v : vectors())
    for (Role role : {Role::initiator, Role::responder}) {
      if (role == Role::initiator && pattern_of(v).name == "IK") continue;   // knows whom it calls
      int asked = 0;
      HandshakeSetup s = setup(v, role);
      s.admit = [&](const PublicKey& key) -> Status {
        ++asked;
        EXPECT_EQ(key, public_key(Secret(v.at(role == Role::initiator ? "resp_static" : "init_static"))));
        return fail(Exit::not_allowed, "refusing a peer", {}, "not on the list");
      };
      Ends ends(v);
      (role == Role::initiator ? ends.initiator : ends.responder) = HandshakeState::start(std::move(s)).value();
      for (std::size_t i = 0; i < messages_of(v); ++i) {
        auto read = ends.receiver(i).take_message(ends.sender(i).next_message().value());
        if (read) continue;
        EXPECT_EQ(read.error().why, "not on the list");
        EXPECT_FALSE(ends.receiver(i).remote_static());
        refused(ends.receiver(i).next_message());
        break;
      }
      EXPECT_EQ(asked, 1);
    }
}

TEST(Noise, PointsOfLowOrderAreRefused) {
  // From https://cr.yp.to/ecdh.html#validate: orders 1, 2, 4 and 8, and the same beyond the prime.
  for (const char* point : {"0000000000000000000000000000000000000000000000000000000000000000",
                            "0100000000000000000000000000000000000000000000000000000000000000",
                            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
                            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
                            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
                            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
                            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"}) {
    auto shared = agree(Secret(std::string(32, 'k')), PublicKey::from_raw(bytes(point)));
    ASSERT_FALSE(shared) << point;
    EXPECT_EQ(shared.error().exit, Exit::not_allowed);
    HandshakeSetup s;
    s.pattern = kIK;
    s.role = Role::responder;
    s.static_key = Secret(std::string(32, 'k'));
    auto responder = HandshakeState::start(s).value();
    refused(responder.take_message(bytes(point) + std::string(64, 'x')));
    s.pattern = kXX;   // no agreement is due before the answer
    auto pairing = HandshakeState::start(s).value();
    EXPECT_TRUE(pairing.take_message(bytes(point)));
    refused(pairing.next_message());
    EXPECT_FALSE(pairing.our_turn());
  }
}

// RFC 7748, section 5.2 and 6.1.
TEST(X25519, Rfc7748) {
  auto multiply = [](const char* k, const char* u) {
    return hex(agree(Secret(bytes(k)), PublicKey::from_raw(bytes(u))).value().raw());
  };
  EXPECT_EQ(multiply("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                     "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"),
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
  EXPECT_EQ(multiply("4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                     "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493"),
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957");
  std::string k = bytes("0900000000000000000000000000000000000000000000000000000000000000"), u = k;
  for (int i = 1; i <= 1000; ++i) {
    std::string next(agree(Secret(k), PublicKey::from_raw(u)).value().raw());
    u = std::exchange(k, next);
    if (i == 1) { EXPECT_EQ(hex(k), "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"); }
  }
  EXPECT_EQ(hex(k), "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51");
  const Secret alice(bytes("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
  const Secret bob(bytes("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
  EXPECT_EQ(hex(public_key(alice).raw()), "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
  EXPECT_EQ(hex(public_key(bob).raw()), "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
  EXPECT_EQ(hex(agree(alice, public_key(bob)).value().raw()), "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
  EXPECT_EQ(agree(bob, public_key(alice)).value(), agree(alice, public_key(bob)).value());
}

TEST(Cipher, RekeyIsWhatTheSpecificationSays) {
  const Secret key(std::string(32, 'k'));
  std::string sealed;
  aead_seal(key, ~0ull, {}, std::string(32, '\0'), sealed);
  EXPECT_EQ(next_key(key).raw(), sealed.substr(0, 32));
  CipherState a(key), b(key), old(key);
  (void)a.encrypt_with_ad({}, "one");
  (void)b.decrypt_with_ad({}, a.encrypt_with_ad({}, "two").value());
  b.set_nonce(1);
  a.set_nonce(1);
  old.set_nonce(1);
  a.rekey();
  b.rekey();
  auto message = a.encrypt_with_ad("ad", "three").value();
  EXPECT_FALSE(old.decrypt_with_ad("ad", message));
  EXPECT_EQ(b.decrypt_with_ad("ad", message).value(), "three") << "the nonce went on";
}

TEST(Cipher, ANonceIsNeverUsedBeyondTheLast) {
  CipherState a(Secret(std::string(32, 'k')));
  a.set_nonce(~0ull - 1);
  EXPECT_TRUE(a.encrypt_with_ad({}, "last"));
  EXPECT_FALSE(a.encrypt_with_ad({}, "more"));
  EXPECT_FALSE(a.decrypt_with_ad({}, std::string(20, 'x')));
}

TEST(Cipher, AFailureLeavesTheNonce) {
  CipherState a(Secret(std::string(32, 'k'))), b(Secret(std::string(32, 'k')));
  auto message = a.encrypt_with_ad("ad", "text").value();
  EXPECT_FALSE(b.decrypt_with_ad("other", message));
  EXPECT_EQ(b.decrypt_with_ad("ad", message).value(), "text");
}

TEST(Cipher, WhatDoesNotOpenLeavesNothing) {
  std::string sealed, out = "before";
  aead_seal(Secret(), 0, "ad", "plaintext", sealed);
  EXPECT_FALSE(aead_open(Secret(), 0, "other", sealed, out));
  EXPECT_TRUE(out.empty());
  EXPECT_TRUE(aead_open(Secret(), 0, "ad", sealed, out));
  EXPECT_EQ(out, "plaintext");
}

TEST(Secrets, AreOverwritten) {
  alignas(Secret) unsigned char room[sizeof(Secret)];
  auto* s = new (room) Secret(std::string(32, 's'));
  Secret moved(std::move(*s));
  EXPECT_EQ(*s, Secret());
  EXPECT_EQ(moved.raw(), std::string(32, 's'));
  *s = moved;
  s->~Secret();
  for (unsigned char c : room) EXPECT_EQ(c, 0);
  std::string text(100, 't');
  const char* at = text.data();
  wipe(text);
  EXPECT_TRUE(text.empty());
  EXPECT_EQ(at[50], 0);
}

}  // namespace
}  // namespace somfs::replicator
