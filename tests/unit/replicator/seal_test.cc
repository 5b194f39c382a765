// SPDX-License-Identifier: Apache-2.0
// Sealed frames: no nonce twice, nothing changed, moved, repeated or taken over from another connection.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>

#include "replicator/channel.h"
#include "replicator/framing.h"
#include "replicator/keys.h"
#include "replicator/text_codes.h"
#include "replicator/wire.h"

namespace somfs::replicator {
namespace {

struct Wire {
  std::unique_ptr<Channel> source, mirror;
};

// Two ends of a new connection, always between the same two hosts.
Wire connect(SealLimits limits = {}) {
  static const KeyPair source = KeyPair::generate(), mirror = KeyPair::generate();
  HandshakeSetup a, b;
  a.pattern = b.pattern = kIK;
  b.role = Role::responder;
  a.static_key = source.secret;
  b.static_key = mirror.secret;
  a.remote_static = mirror.shared;
  auto caller = HandshakeState::start(a).value(), answerer = HandshakeState::start(b).value();
  (void)answerer.take_message(caller.next_message().value()).value();
  (void)caller.take_message(answerer.next_message().value()).value();
  return {std::make_unique<Channel>(caller.finish().value(), limits), std::make_unique<Channel>(answerer.finish().value(), limits)};
}

const SealContext kAbout{Uuid::from_raw("volume volume vo"), Uuid::from_raw("lineage lineage ")};

SealFrame frame_for(std::string_view payload, std::uint64_t group = 0, std::uint32_t index = 0, std::uint32_t count = 0) {
  SealFrame f;
  f.type = 5;
  f.group = group;
  f.index = index;
  f.count = count;
  f.raw = static_cast<std::uint32_t>(payload.size());
  return f;
}

std::string sealed(Channel& from, std::string_view payload, const SealFrame& frame, const SealContext& about = kAbout) {
  return seal(from.out.take_rekeying(static_cast<std::uint32_t>(payload.size())).value(), about, frame, payload).value();
}
std::string sealed(Channel& from, std::string_view payload) { return sealed(from, payload, frame_for(payload)); }

Result<std::string> opened(Channel& to, std::string_view bytes, const SealContext& about = kAbout) {
  const std::string_view head = bytes.substr(0, kSealHeader);
  SOMFS_TRY_ASSIGN(SealHeader header, to.in.header(head));
  SOMFS_TRY_ASSIGN(Ticket ticket, to.in.take(header));
  return open(std::move(ticket), about, head, bytes.substr(head.size()));
}

void refused(const Result<std::string>& r) {
  ASSERT_FALSE(r);
  EXPECT_TRUE(r.error().exit == Exit::link_down || r.error().exit == Exit::peer_version);
}

TEST(Seal, WhatWasSealedOpens) {
  Wire w = connect();
  for (const std::string& payload : {std::string(), std::string("x"), std::string(100000, 'y'), std::string(kMaxBody, 'z')}) {
    EXPECT_EQ(opened(*w.mirror, sealed(*w.source, payload)).value(), payload);
    EXPECT_EQ(opened(*w.source, sealed(*w.mirror, payload)).value(), payload);
  }
  SealFrame f = frame_for("packed", 7, 2, 3);
  f.codec = 1;
  f.raw = 100;
  const std::string bytes = sealed(*w.source, "packed", f);
  auto header = w.mirror->in.header(std::string_view(bytes).substr(0, kSealHeader)).value();
  EXPECT_EQ(header.frame.type, 5);
  EXPECT_EQ(header.frame.codec, 1);
  EXPECT_EQ(header.frame.group, 7u);
  EXPECT_EQ(header.frame.index, 2u);
  EXPECT_EQ(header.frame.count, 3u);
  EXPECT_EQ(header.frame.raw, 100u);
  EXPECT_EQ(header.wire, 6u);
  EXPECT_EQ(header.counter, 4u);
  EXPECT_EQ(header.body() + kSealHeader, bytes.size());
}

// Under one key and nonce the same plaintext gives the same ciphertext; here zeroes, so a frame shows its key stream, and no two
// may be alike.
TEST(Seal, NoNonceIsUsedTwice) {
  std::set<std::string> streams;
  std::size_t frames = 0;
  std::mt19937 random(1);
  SealLimits limits;
  limits.frames = 7;
  auto send = [&](Channel& from, std::uint64_t group, std::uint32_t index, std::uint32_t count) {
    const std::string zeroes(32 + random() % 32, '\0');
    streams.insert(sealed(from, zeroes, frame_for(zeroes, group, index, count)).substr(kSealHeader, 32));
    ++frames;
  };
  for (int connection = 0; connection < 300; ++connection) {
    Wire w = connect(limits);
    for (std::uint64_t group = 1; group <= 4; ++group)
      for (std::uint32_t parts : {1u, 3u, 2u}) {   // the same group again: sent whole, split, recomposed, after a resume
        for (std::uint32_t i = 0; i < parts; ++i) send(*w.source, group, i, parts);
        send(*w.mirror, group, 0, 1);
      }
  }
  EXPECT_EQ(frames, 300u * 4 * 9);
  EXPECT_EQ(streams.size(), frames);
}

TEST(Seal, CountersFromManyThreadsAreAllDifferent) {
  SealLimits limits;
  limits.frames = 100;
  Wire w = connect(limits);
  std::vector<std::set<std::string>> streams(4);
  std::vector<std::set<std::uint64_t>> counters(4);
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < 1000; ++i) {
          auto ticket = w.source->out.take_rekeying(32);
          ASSERT_TRUE(ticket);
          counters[t].insert(ticket->counter());
          const std::string zeroes(32, '\0');
          streams[t].insert(seal(std::move(*ticket), kAbout, frame_for(zeroes), zeroes).value().substr(kSealHeader));
        }
      });
  }
  std::set<std::string> all;
  std::set<std::uint64_t> all_counters;
  for (std::size_t t = 0; t < 4; ++t) {
    all.insert(streams[t].begin(), streams[t].end());
    all_counters.insert(counters[t].begin(), counters[t].end());
  }
  EXPECT_EQ(all.size(), 4000u);
  EXPECT_EQ(all_counters.size(), 4000u);
  EXPECT_EQ(*all_counters.rbegin() + 1, all_counters.size()) << "none is left out either";
}

TEST(Seal, LanesMayFinishInAnyOrder) {
  Wire w = connect();
  std::vector<Ticket> tickets;
  for (int i = 0; i < 8; ++i) tickets.push_back(w.source->out.take_rekeying(1).value());
  std::vector<std::string> frames(8);
  for (std::size_t i : {3u, 0u, 7u, 1u, 6u, 2u, 5u, 4u})
    frames[i] = seal(std::move(tickets[i]), kAbout, frame_for("x"), std::string(1, static_cast<char>('a' + i))).value();
  std::vector<Ticket> accepted;
  for (const std::string& f : frames)
    accepted.push_back(w.mirror->in.take(w.mirror->in.header(std::string_view(f).substr(0, kSealHeader)).value()).value());
  for (std::size_t i : {7u, 2u, 5u, 0u, 1u, 6u, 3u, 4u})
    EXPECT_EQ(open(std::move(accepted[i]), kAbout, std::string_view(frames[i]).substr(0, kSealHeader),
                   std::string_view(frames[i]).substr(kSealHeader))
                  .value(),
              std::string(1, static_cast<char>('a' + i)));
}

TEST(Seal, EveryFlippedBitIsRefused) {
  Wire w = connect();
  const std::string payload = "some bytes of a group";
  const SealFrame f = frame_for(payload, 3, 1, 4);
  (void)opened(*w.mirror, sealed(*w.source, "before"));
  for (std::size_t bit = 0; bit < (kSealHeader + payload.size() + kAeadTag) * 8; ++bit) {
    SCOPED_TRACE(bit);
    std::string bytes = sealed(*w.source, payload, f);
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    refused(opened(*w.mirror, bytes));
    w = connect();
  }
}

TEST(Seal, EveryFlippedBitOfARekeyingHeaderIsRefused) {
  SealLimits limits;
  limits.frames = 1;
  for (std::size_t bit = 0; bit < kSealHeader * 8; ++bit) {
    SCOPED_TRACE(bit);
    Wire w = connect(limits);
    ASSERT_TRUE(opened(*w.mirror, sealed(*w.source, "first")));
    std::string bytes = sealed(*w.source, "second");
    EXPECT_EQ(bytes[7], 1);
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    refused(opened(*w.mirror, bytes));
  }
}

TEST(Seal, CutOrLengthenedFramesAreRefused) {
  const std::string payload(50, 'p');
  for (std::size_t n = 0; n < kSealHeader + payload.size() + kAeadTag; ++n) {
    Wire w = connect();
    refused(opened(*w.mirror, sealed(*w.source, payload).substr(0, n)));
  }
  Wire w = connect();
  refused(opened(*w.mirror, sealed(*w.source, payload) + "x"));
}

TEST(Seal, ReplayedReorderedAndForeignFramesAreRefused) {
  Wire first = connect();
  const std::string a = sealed(*first.source, "a"), b = sealed(*first.source, "b"), answer = sealed(*first.mirror, "c");
  {
    Wire w = connect();   // the same hosts, the same counters, another connection
    refused(opened(*w.mirror, a));
    refused(opened(*w.mirror, sealed(*w.source, "good")));   // one refusal ends it
  }
  EXPECT_EQ(opened(*first.mirror, a).value(), "a");
  {
    Wire w = connect();
    const std::string once = sealed(*w.source, "once");
    (void)opened(*w.mirror, once).value();
    EXPECT_FALSE(w.mirror->in.header(std::string_view(once).substr(0, kSealHeader))) << "refused before its payload is read";
  }
  Wire second = connect();
  (void)sealed(*second.source, "x");
  const std::string y = sealed(*second.source, "y");
  auto out_of_order = opened(*second.mirror, y);
  refused(out_of_order);
  EXPECT_EQ(out_of_order.error().why, "a frame is missing before this one");
  auto twice = opened(*first.mirror, a);
  refused(twice);
  EXPECT_EQ(twice.error().why, "a frame came twice, or was replayed");
  refused(opened(*first.mirror, b));
  Wire back = connect();
  refused(opened(*back.source, sealed(*back.source, "mine")));   // thrown back at its sender
  EXPECT_EQ(opened(*first.source, answer).value(), "c") << "the other direction is not concerned";
}

TEST(Seal, WhatIsNotSentIsCoveredToo) {
  const SealContext other_volume{Uuid::from_raw("another volume  "), kAbout.lineage},
      other_lineage{kAbout.volume, Uuid::from_raw("another lineage ")};
  for (const SealContext& about : {other_volume, other_lineage, SealContext{}}) {
    Wire w = connect();
    refused(opened(*w.mirror, sealed(*w.source, "x"), about));
  }
}

TEST(Seal, ANewKeyTakesOverInTime) {
  SealLimits limits;
  limits.frames = 3;
  limits.bytes = 100;
  Wire w = connect(limits);
  std::set<int> numbers;
  for (int i = 0; i < 2000; ++i) {
    const std::string payload(static_cast<std::size_t>(i) % 60, 'p');
    const std::string bytes = sealed(*w.source, payload);
    numbers.insert(static_cast<unsigned char>(bytes[7]));
    ASSERT_EQ(opened(*w.mirror, bytes).value(), payload) << i;
  }
  EXPECT_EQ(numbers.size(), 256u) << "the number of the key goes round";
}

TEST(Seal, ASpentKeyIsRefusedByBothSides) {
  SealLimits strict, loose;
  strict.frames = 2;
  strict.bytes = 100;
  const Secret key(std::string(32, 'k'));
  Counter counter(key, std::string(32, 'h'), strict);
  EXPECT_FALSE(counter.take(101)) << "too large for any key";
  EXPECT_TRUE(counter.take(60));
  EXPECT_FALSE(counter.take(41));
  EXPECT_TRUE(counter.take(40));
  EXPECT_FALSE(counter.take(0));
  counter.rekey();
  EXPECT_EQ(counter.take(1)->counter(), 2u) << "counters go on over a rekey";
  counter.rekey();
  counter.rekey();
  Counter greedy(key, std::string(32, 'h'), loose);
  Acceptor acceptor(key, std::string(32, 'h'), strict);
  for (int i = 0; i < 3; ++i) {
    const std::string bytes = seal(greedy.take(1).value(), kAbout, frame_for("x"), "x").value();
    auto header = acceptor.header(std::string_view(bytes).substr(0, kSealHeader));
    ASSERT_TRUE(header);
    EXPECT_EQ(acceptor.take(*header).has_value(), i < 2);
  }
}

TEST(Seal, RekeyingTwiceWithoutAFrameIsRekeyingOnce) {
  Wire w = connect();
  w.source->out.rekey();
  EXPECT_TRUE(opened(*w.mirror, sealed(*w.source, "x")));
  w.source->out.rekey();
  w.source->out.rekey();
  EXPECT_EQ(opened(*w.mirror, sealed(*w.source, "y")).value(), "y");
}

TEST(Seal, CountersDoNotWrap) {
  SealLimits limits;
  limits.counters = 3;
  Wire w = connect(limits);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(w.source->out.take_rekeying(1));
  EXPECT_FALSE(w.source->out.take_rekeying(1));
  w.source->out.rekey();
  EXPECT_FALSE(w.source->out.take_rekeying(1)) << "a new key gives no new counters";
}

TEST(Seal, HeadersAreCheckedBeforeMemoryIsTaken) {
  auto with = [](std::size_t at, std::uint32_t value) {
    Wire w = connect();
    SealFrame f = frame_for("payload", 1, 2, 3);
    f.raw = 9;
    f.codec = 1;
    std::string head = sealed(*w.source, "payload", f).substr(0, kSealHeader);
    for (std::size_t i = 0; i < 4; ++i) head[at + i] = static_cast<char>(value >> (8 * i));
    return w.mirror->in.header(head);
  };
  EXPECT_TRUE(with(32, 9));
  EXPECT_TRUE(with(28, 0));
  for (auto bad : {with(32, kMaxBody + 1), with(32, 7), with(36, 9), with(36, ~0u), with(24, 3), with(28, 2)}) {
    ASSERT_FALSE(bad);
    EXPECT_EQ(bad.error().exit, Exit::link_down);
  }
  auto version = with(4, 2);
  ASSERT_FALSE(version);
  EXPECT_EQ(version.error().exit, Exit::peer_version);
}

TEST(Seal, AFrameThatContradictsItselfIsNotSealed) {
  Wire w = connect();
  SealFrame f = frame_for("payload");
  EXPECT_FALSE(seal(w.source->out.take_rekeying(7).value(), kAbout, f, "other"));
  f.raw = kMaxBody + 1;
  f.codec = 1;
  EXPECT_FALSE(seal(w.source->out.take_rekeying(7).value(), kAbout, f, "payload"));
  f.raw = 3;
  EXPECT_FALSE(seal(w.source->out.take_rekeying(7).value(), kAbout, f, "payload"));
}

// The worked example of docs/formats/channel.md.
TEST(Seal, Example) {
  Counter counter(Secret(std::string(32, '\x01')), std::string(32, '\x02'));
  (void)counter.take(0);
  const SealContext about{Uuid::from_raw(std::string(16, '\x03')), Uuid::from_raw(std::string(16, '\x04'))};
  EXPECT_EQ(hex(seal(counter.take(5).value(), about, frame_for("hello", 9, 0, 2), "hello").value()),
            "736f6d5301050000010000000000000009000000000000000000000002000000"
            "0500000005000000"
            "d3bffcebb3"
            "e5bd4a9abe313731a3781769e9d6863d");
}

// ---- groups

struct Said {
  Message message;
  FramePlace place;
};

// What a source says: two groups, one of them given up, and questions in between.
std::vector<Said> conversation() {
  auto begin = [](std::uint64_t epoch) {
    Begin b;
    b.epoch = epoch;
    return Message{MessageType::begin, encode(b)};
  };
  using T = MessageType;
  return {{{T::list, std::string(16, 'i')}, {0, 0, 0}}, {{T::records, "outside"}, {0, 0, 0}}, {begin(7), {7, 0, 0}},
          {{T::records, "one"}, {7, 1, 0}},             {{T::alive, ""}, {0, 0, 0}},          {{T::records, std::string(9000, 'r')}, {7, 2, 0}},
          {{T::signature, std::string(16, 'i')}, {0, 0, 0}}, {{T::commit, std::string(32, 'c')}, {7, 3, 4}}, {{T::alive, ""}, {0, 0, 0}},
          {begin(9), {9, 0, 0}},                        {{T::records, "one"}, {9, 1, 0}},     {{T::abort, ""}, {9, 2, 3}},
          {begin(9), {9, 0, 0}},                        {{T::commit, std::string(32, 'c')}, {9, 1, 2}}, {{T::bye, ""}, {0, 0, 0}}};
}

// The source's own frames for all of it, and what they say of their places.
TEST(SealedGroups, AFrameSaysWhereItStands) {
  Wire w = connect();
  auto source = sealed_framing(std::move(w.source)), mirror = sealed_framing(std::move(w.mirror));
  for (const Said& said : conversation()) {
    const std::string bytes = encode(*source, said.message).value();
    Incoming frame;
    frame.header = bytes.substr(0, kSealHeader);
    frame.body = bytes.substr(kSealHeader);
    ASSERT_TRUE(mirror->body_size(frame.header));
    ASSERT_TRUE(mirror->take(frame));
    const SealFrame& f = frame.sealed.frame;
    EXPECT_EQ((FramePlace{f.group, f.index, f.count}), said.place) << "type " << static_cast<int>(said.message.type);
    auto payload = mirror->decrypt(frame);
    ASSERT_TRUE(payload);
    auto whole = mirror->decompress(frame, std::move(*payload));
    ASSERT_TRUE(whole) << whole.error().line();
    EXPECT_EQ(whole->body, said.message.body);
  }
}

// A side that has the keys, and puts a frame elsewhere: its tag is right all the same.
TEST(SealedGroups, AFrameElsewhereIsRefusedThoughItsTagIsRight) {
  const std::vector<Said> all = conversation();
  auto bytes_of = [](Channel& from, const Message& m, const FramePlace& at) {
    SealFrame f = frame_for(m.body, at.group, at.index, at.count);
    f.type = static_cast<std::uint8_t>(m.type);
    return sealed(from, m.body, f, {});
  };
  int tried = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::set<std::vector<std::uint64_t>> places;
    const FramePlace& right = all[i].place;
    for (std::uint64_t group : {std::uint64_t{0}, std::uint64_t{7}, std::uint64_t{8}, std::uint64_t{9}})
      for (std::uint32_t index : {right.index, right.index + 1, right.index - std::min(right.index, 1u)})
        for (std::uint32_t count : {right.count, 0u, index + 1, index + 2}) places.insert(std::vector<std::uint64_t>{group, index, count});
    for (const auto& p : places) {
      const FramePlace at{p[0], static_cast<std::uint32_t>(p[1]), static_cast<std::uint32_t>(p[2])};
      if (at.count != 0 && at.index >= at.count) continue;   // seal() itself refuses that
      Wire w = connect();
      auto mirror = sealed_framing(std::move(w.mirror));
      auto take = [&](const std::string& bytes) -> Result<Message> {
        SOMFS_TRY(mirror->body_size(bytes.substr(0, kSealHeader)));
        return decode(*mirror, bytes.substr(0, kSealHeader), bytes.substr(kSealHeader));
      };
      for (std::size_t before = 0; before < i; ++before) ASSERT_TRUE(take(bytes_of(*w.source, all[before].message, all[before].place)));
      auto met = take(bytes_of(*w.source, all[i].message, at));
      EXPECT_EQ(met.has_value(), at == right) << "frame " << i << " at " << at.group << "/" << at.index << "/" << at.count;
      if (!met) {
        EXPECT_EQ(met.error().exit, Exit::temporary);
      }
      ++tried;
    }
  }
  EXPECT_GT(tried, 200);
}

}  // namespace
}  // namespace somfs::replicator
