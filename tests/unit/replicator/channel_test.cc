// SPDX-License-Identifier: Apache-2.0
// From the first line to the first frame, as a source and a mirror go through it.
#include <gtest/gtest.h>

#include "replicator/channel.h"
#include "replicator/keys.h"

namespace somfs::replicator {
namespace {

const KeyPair kSource = KeyPair::generate(), kMirror = KeyPair::generate(), kThird = KeyPair::generate();
const std::string kPrologue = prologue("somfs-channel 1 link\n", "somfs-channel 1 mirror\n");

// Lets both talk until neither has anything to say; the first error ends it.
Status talk(Handshake& source, Handshake& mirror) {
  for (int i = 0; i < 10; ++i) {
    if (!source.our_turn() && !mirror.our_turn()) return {};
    Handshake& from = source.our_turn() ? source : mirror;
    Handshake& to = source.our_turn() ? mirror : source;
    SOMFS_TRY_ASSIGN(std::string message, from.next_message());
    const std::string wire = handshake_frame(message);
    SOMFS_TRY_ASSIGN(std::size_t n, handshake_length(std::string_view(wire).substr(0, 2)));
    EXPECT_EQ(n + 2, wire.size());
    SOMFS_TRY(to.take_message(std::string_view(wire).substr(2)));
  }
  ADD_FAILURE() << "they never come to an end";
  return {};
}

std::function<Status(const PublicKey&)> only(const PublicKey& known) {
  return [known](const PublicKey& key) -> Status {
    if (key == known) return {};
    return fail(Exit::not_allowed, "refusing a peer", {}, "not paired");
  };
}

TEST(Channel, ALinkCarriesFrames) {
  auto source = Handshake::link(kSource.secret, kMirror.shared, kPrologue).value();
  auto mirror = Handshake::answer_link(kMirror.secret, kPrologue, only(kSource.shared)).value();
  ASSERT_TRUE(talk(source, mirror));
  ASSERT_TRUE(source.done() && mirror.done());
  auto a = source.finish().value(), b = mirror.finish().value();
  EXPECT_EQ(a->peer, kMirror.shared);
  EXPECT_EQ(b->peer, kSource.shared);
  EXPECT_EQ(a->hash, b->hash);
  EXPECT_FALSE(source.finish());
  SealFrame frame;
  frame.type = 1;
  frame.raw = 5;
  const std::string bytes = seal(a->out.take_rekeying(5).value(), {}, frame, "hello").value();
  const std::string_view head = std::string_view(bytes).substr(0, kSealHeader);
  auto header = b->in.header(head).value();
  EXPECT_EQ(open(b->in.take(header).value(), {}, head, std::string_view(bytes).substr(kSealHeader, header.body())).value(), "hello");
}

// docs/formats/channel.md names them, and the bound on a message rests on them.
TEST(Channel, SizesOfTheMessages) {
  auto source = Handshake::link(kSource.secret, kMirror.shared, kPrologue).value();
  auto mirror = Handshake::answer_link(kMirror.secret, kPrologue, only(kSource.shared)).value();
  const std::string call = source.next_message().value();
  ASSERT_TRUE(mirror.take_message(call));
  EXPECT_EQ(call.size(), 96u);
  EXPECT_EQ(mirror.next_message()->size(), 48u);
  auto newcomer = Handshake::pair(kSource.secret, PairingCode::make(kMirror.shared), kPrologue).value();
  auto answer =
      Handshake::answer_pair(kMirror.secret, kPrologue, [](const PublicKey&, std::string_view) -> Status { return {}; }).value();
  for (std::size_t size : {32u, 96u, 80u}) {
    Handshake& from = newcomer.our_turn() ? newcomer : answer;
    Handshake& to = newcomer.our_turn() ? answer : newcomer;
    const std::string message = from.next_message().value();
    EXPECT_EQ(message.size(), size);
    ASSERT_TRUE(to.take_message(message));
  }
}

TEST(Channel, AnUnknownSourceHearsNothing) {
  auto source = Handshake::link(kThird.secret, kMirror.shared, kPrologue).value();
  auto mirror = Handshake::answer_link(kMirror.secret, kPrologue, only(kSource.shared)).value();
  auto refused = mirror.take_message(source.next_message().value());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().why, "not paired");
  EXPECT_FALSE(mirror.next_message());
}

TEST(Channel, WhereNobodySaysWhoMayComeNobodyMay) {
  EXPECT_FALSE(Handshake::answer_link(kMirror.secret, kPrologue, {}));
  EXPECT_FALSE(Handshake::answer_pair(kMirror.secret, kPrologue, {}));
}

TEST(Channel, AnotherMirrorThanThePinnedOneCannotAnswer) {
  auto source = Handshake::link(kSource.secret, kMirror.shared, kPrologue).value();
  auto other = Handshake::answer_link(kThird.secret, kPrologue, only(kSource.shared)).value();
  auto refused = talk(source, other);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::not_allowed);
}

TEST(Channel, NothingIsSaidInTheFirstMessages) {
  HandshakeSetup s;
  s.pattern = kIK;
  s.static_key = kSource.secret;
  s.remote_static = kMirror.shared;
  s.prologue = kPrologue;
  auto hasty = HandshakeState::start(s).value();
  auto mirror = Handshake::answer_link(kMirror.secret, kPrologue, only(kSource.shared)).value();
  EXPECT_FALSE(mirror.take_message(hasty.next_message("data").value()));
  EXPECT_FALSE(mirror.next_message());
}

struct Pairing {
  Invitations codes;
  AllowList peers;
  Handshake answer(const KeyPair& key = kMirror) {
    return Handshake::answer_pair(key.secret, kPrologue, [this](const PublicKey& source, std::string_view token) -> Status {
      SOMFS_TRY_ASSIGN(Invitation granted, codes.redeem(token, 1500));
      return peers.add({source, granted.grants, granted.comment});
    }).value();
  }
  PairingCode print() { return codes.issue(kMirror.shared, {{"data", kSourceRights}}, "host", 1000, 2000).value(); }
};

TEST(Channel, PairingThenLink) {
  Pairing at_mirror;
  const PairingCode code = at_mirror.print();
  auto source = Handshake::pair(kSource.secret, code, kPrologue).value();
  auto mirror = at_mirror.answer();
  auto paired = talk(source, mirror);
  ASSERT_TRUE(paired) << paired.error().line();
  auto a = source.finish().value(), b = mirror.finish().value();
  EXPECT_EQ(a->peer, kMirror.shared) << "what the source pins from now on";
  EXPECT_TRUE(at_mirror.peers.allow(kSource.shared, "data", Right::push));
  EXPECT_EQ(at_mirror.codes.size(), 0u);
  auto link = Handshake::link(kSource.secret, a->peer, kPrologue).value();
  auto answer =
      Handshake::answer_link(kMirror.secret, kPrologue, [&](const PublicKey& key) { return at_mirror.peers.known(key); }).value();
  EXPECT_TRUE(talk(link, answer));
  auto second = Handshake::pair(kThird.secret, code, kPrologue).value();
  auto again = at_mirror.answer();
  auto refused = talk(second, again);
  ASSERT_FALSE(refused) << "a code pairs once";
  EXPECT_FALSE(again.done());
  EXPECT_FALSE(again.finish());
  EXPECT_FALSE(at_mirror.peers.known(kThird.shared));
}

TEST(Channel, TheTokenIsToldToNobodyElse) {
  Pairing at_mirror;
  auto source = Handshake::pair(kSource.secret, at_mirror.print(), kPrologue).value();
  bool told = false;
  auto between = Handshake::answer_pair(kThird.secret, kPrologue, [&](const PublicKey&, std::string_view) -> Status {
    told = true;
    return {};
  }).value();
  auto refused = talk(source, between);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::not_allowed);
  EXPECT_FALSE(told);
  EXPECT_FALSE(source.next_message());
}

TEST(Channel, PairingWithoutATokenIsRefused) {
  Pairing at_mirror;
  (void)at_mirror.print();
  HandshakeSetup s;
  s.pattern = kXX;
  s.static_key = kThird.secret;
  s.prologue = kPrologue;
  auto source = HandshakeState::start(s).value();
  auto mirror = at_mirror.answer();
  ASSERT_TRUE(mirror.take_message(source.next_message().value()));
  ASSERT_TRUE(source.take_message(mirror.next_message().value()));
  EXPECT_FALSE(mirror.take_message(source.next_message().value()));
  EXPECT_FALSE(mirror.finish());
  EXPECT_EQ(at_mirror.codes.size(), 1u);
}

TEST(Channel, AFeatureTakenAwayOnTheWayIsNoticed) {
  Banner ours;
  ours.features = {"zstd"};
  const std::string mirror_line = "somfs-channel 1 mirror zstd\n", seen = "somfs-channel 1 link\n";
  auto source = Handshake::link(kSource.secret, kMirror.shared, prologue(ours.line(), mirror_line)).value();
  auto mirror = Handshake::answer_link(kMirror.secret, prologue(seen, mirror_line), only(kSource.shared)).value();
  EXPECT_FALSE(talk(source, mirror));
}

TEST(Banner, LinesAreReadAsTheyAreWritten) {
  Banner b;
  b.word = Banner::Word::pair;
  b.features = {"zstd", "lz4"};
  EXPECT_EQ(b.line(), "somfs-channel 1 pair lz4 zstd\n");
  EXPECT_EQ(Banner::parse(b.line(), Role::initiator)->features, b.features);
  EXPECT_EQ(Banner::parse(b.line(), Role::initiator)->word, Banner::Word::pair);
  EXPECT_EQ(Banner::parse("somfs-channel 1 mirror\n", Role::responder)->word, Banner::Word::mirror);
  auto version = Banner::parse("somfs-channel 2 link whatever\tcomes\n", Role::initiator);
  ASSERT_FALSE(version);
  EXPECT_EQ(version.error().exit, Exit::peer_version);
  EXPECT_NE(version.error().why.find("version 2"), std::string::npos);
}

TEST(Banner, WhatTheOtherSideReadsIsWhatItIsSent) {
  Banner b;
  b.word = Banner::Word::link;
  EXPECT_EQ(b.line(), "somfs-channel 1 link lz4 snappy zstd\n");
  EXPECT_TRUE(Banner::parse("somfs-channel 1 link\n", Role::initiator)->features.empty());
  for (Codec codec : {Codec::stored, Codec::snappy, Codec::lz4, Codec::zstd}) {
    EXPECT_EQ(readable(Banner::own(), codec), codec);
    EXPECT_EQ(readable({}, codec), Codec::stored);
    EXPECT_EQ(readable({"brotli", "lz4"}, codec), codec == Codec::stored ? codec : Codec::lz4);
  }
  EXPECT_EQ(readable({"snappy", "lz4"}, Codec::zstd), Codec::snappy);
}

TEST(Banner, AnythingElseIsRefused) {
  for (const std::string& line :
       {std::string(), std::string("\n"), std::string("SSH-2.0-OpenSSH\n"), std::string("somfs-channel 1 link"),
        std::string("somfs-channel 1\n"), std::string("somfs-channel  1 link\n"), std::string("somfs-channel 01 link\n"),
        std::string("somfs-channel 1 mirror\n"), std::string("somfs-channel 1 link A\n"),
        std::string("somfs-channel 1 link  a\n"), std::string("somfs-channel 1 link a\r\n"),
        std::string("somfs-channel \x1b[2J link\n"), "somfs-channel 1 link " + std::string(Banner::kMaxLine, 'a') + "\n",
        std::string("somfs-channel 1 link a b c d e f g h i j k l m n o p q\n")}) {
    auto r = Banner::parse(line, Role::initiator);
    ASSERT_FALSE(r) << line;
    EXPECT_EQ(r.error().exit, Exit::peer_version);
    EXPECT_EQ(r.error().line().find('\x1b'), std::string::npos);
  }
  EXPECT_FALSE(Banner::parse("somfs-channel 1 link\n", Role::responder));
}

TEST(Handshake, LengthsAreBounded) {
  EXPECT_EQ(handshake_length(std::string("\x00\x02", 2)).value(), 512u);
  EXPECT_FALSE(handshake_length(std::string("\x01\x02", 2)));
  EXPECT_FALSE(handshake_length("\xff\xff"));
  EXPECT_FALSE(handshake_length("x"));
}

}  // namespace
}  // namespace somfs::replicator
