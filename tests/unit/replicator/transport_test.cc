// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>
#include <thread>

#include "common/fd.h"
#include "replicator/dial.h"
#include "replicator/frame.h"
#include "replicator/framing.h"
#include "replicator/keys.h"
#include "replicator/wire.h"

namespace somfs::replicator {
namespace {

std::string noise(std::size_t n, unsigned seed) {
  std::mt19937 r(seed);
  std::string s(n, '\0');
  for (char& c : s) c = static_cast<char>(r());
  return s;
}

std::vector<Message> samples() {
  return {{MessageType::bye, ""},
          {MessageType::list, "x"},
          {MessageType::records, std::string(kMaxBody, 'a')},
          {MessageType::records, noise(kMaxBody, 1)},
          {MessageType::commit, noise(63, 2)},
          {MessageType::listing, std::string(100000, 'z')}};
}

struct Ends {
  std::unique_ptr<Transport> a, b;
};
Ends local() {
  auto [a, b] = make_pair_in_process(100000);
  return {std::move(a), std::move(b)};
}
Ends sockets() {
  int s[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
  return {make_stream(s[0], s[0]), make_stream(s[1], s[1])};
}
Ends pipes() {
  int forth[2], back[2];
  EXPECT_EQ(::pipe2(forth, O_CLOEXEC), 0);
  EXPECT_EQ(::pipe2(back, O_CLOEXEC), 0);
  return {make_stream(back[0], forth[1]), make_stream(forth[0], back[1], {.bwlimit = 1u << 30})};
}

Ends sealed(const StreamSettings& near_end, const StreamSettings& far_end) {
  int s[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
  const KeyPair source = KeyPair::generate(), mirror = KeyPair::generate();
  auto near = Handshake::link(source.secret, mirror.shared, "lines");
  auto far = Handshake::answer_link(mirror.secret, "lines", [](const PublicKey&) -> Status { return {}; });
  EXPECT_TRUE(far->take_message(*near->next_message()));
  EXPECT_TRUE(near->take_message(*far->next_message()));
  return {make_sealed_stream(s[0], std::move(*near->finish()), near_end), make_sealed_stream(s[1], std::move(*far->finish()), far_end)};
}
// Both directions in one arrangement, with three threads a lane.
template <PipelineMode mode, Codec codec>
Ends arranged() {
  const StreamSettings s{.codec = codec, .sending = mode, .receiving = mode, .threads = 3};
  return sealed(s, s);
}
Ends serial() { return arranged<PipelineMode::serial, Codec::snappy>(); }
Ends fine() { return arranged<PipelineMode::fine, Codec::lz4>(); }
Ends threaded() { return arranged<PipelineMode::threaded, Codec::zstd>(); }
Ends hybrid() { return arranged<PipelineMode::hybrid, Codec::snappy>(); }
Ends automatic() { return arranged<PipelineMode::automatic, Codec::stored>(); }
Ends plain_threads() {
  int s[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
  const StreamSettings settings{.codec = Codec::zstd, .sending = PipelineMode::hybrid, .receiving = PipelineMode::threaded, .threads = 2};
  return {make_stream(s[0], s[0], settings), make_stream(s[1], s[1], settings)};
}
Ends serial_pipes() {
  int forth[2], back[2];
  EXPECT_EQ(::pipe2(forth, O_CLOEXEC), 0);
  EXPECT_EQ(::pipe2(back, O_CLOEXEC), 0);
  const StreamSettings settings{.sending = PipelineMode::serial};
  return {make_stream(back[0], forth[1], settings), make_stream(forth[0], back[1], settings)};
}

class EveryTransport : public ::testing::TestWithParam<Ends (*)()> {};
INSTANTIATE_TEST_SUITE_P(Transports, EveryTransport, ::testing::Values(&local, &sockets, &pipes, &serial, &fine, &threaded, &hybrid, &automatic, &plain_threads, &serial_pipes));

TEST_P(EveryTransport, CarriesMessagesBothWaysInOrder) {
  Ends e = GetParam()();
  std::jthread echo([&] {
    for (std::size_t i = 0; i < samples().size(); ++i) {
      auto m = e.b->receive();
      ASSERT_TRUE(m) << m.error().line();
      ASSERT_TRUE(e.b->send(std::move(*m)));
    }
  });
  std::jthread feed([&] {
    for (auto& m : samples()) ASSERT_TRUE(e.a->send(m));
  });
  for (const auto& want : samples()) {
    auto m = e.a->receive();
    ASSERT_TRUE(m) << m.error().line();
    EXPECT_EQ(m->type, want.type);
    EXPECT_TRUE(m->body == want.body);
  }
  EXPECT_GT(e.a->bytes_sent(), kMaxBody);
  EXPECT_EQ(e.a->bytes_sent(), e.b->bytes_received());
}

TEST_P(EveryTransport, HandsOutWhatWasSentBeforeTheEndAndThenSaysSo) {
  Ends e = GetParam()();
  ASSERT_TRUE(e.b->send({MessageType::error, "why"}));
  e.b.reset();
  auto m = e.a->receive();
  ASSERT_TRUE(m) << m.error().line();
  EXPECT_EQ(m->body, "why");
  for (int i = 0; i < 2; ++i) {
    auto end = e.a->receive();
    ASSERT_FALSE(end);
    EXPECT_EQ(end.error().exit, Exit::link_down);
  }
}

TEST_P(EveryTransport, SendingToNobodyIsAnErrorNotASignal) {
  Ends e = GetParam()();
  e.b.reset();
  Status s;
  for (int i = 0; i < 1000 && s; ++i) s = e.a->send({MessageType::records, noise(100000, 3)});
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().exit, Exit::link_down);
}

TEST_P(EveryTransport, CloseWakesAReceiverAndASender) {
  Ends e = GetParam()();
  std::jthread receiver([&] {
    auto m = e.a->receive();
    EXPECT_FALSE(m);
  });
  std::jthread sender([&] {
    Status s;
    while (s) s = e.a->send({MessageType::records, noise(500000, 4)});
    EXPECT_EQ(s.error().exit, Exit::link_down);
  });
  e.a->close();
}

TEST_P(EveryTransport, RefusesABodyLargerThanTheProtocolAllows) {
  Ends e = GetParam()();
  EXPECT_FALSE(e.a->send({MessageType::records, std::string(kMaxBody + 1, 'x')}));
  EXPECT_TRUE(e.a->send({MessageType::bye, ""}));
}

// What a stream transport makes of raw bytes from a peer.
Result<Message> hear(std::string_view bytes) {
  int s[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
  auto t = make_stream(s[0], s[0]);
  Fd peer(s[1]);
  EXPECT_EQ(write_all(peer.get(), bytes), 0);
  ::shutdown(peer.get(), SHUT_WR);
  return t->receive();
}

TEST(Stream, SilenceIsTheEndWithinAFrameAndNotBeforeOne) {
  const std::string frame = encode_frame({MessageType::list, "hello"});
  for (std::size_t part : {std::size_t{1}, kFrameHeader, frame.size() - 1}) {
    int s[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
    auto t = make_stream(s[0], s[0], plain_framing(), {.silence_ms = 1});
    const Fd peer(s[1]);
    std::jthread after_a_while([&] {
      ::poll(nullptr, 0, 20);   // twenty times what is allowed within a frame
      EXPECT_EQ(write_all(peer.get(), frame + frame.substr(0, part)), 0);
    });
    auto whole = t->receive();
    ASSERT_TRUE(whole) << whole.error().line();
    EXPECT_EQ(whole->body, "hello");
    auto rest = t->receive();
    ASSERT_FALSE(rest) << part;
    EXPECT_EQ(rest.error().exit, Exit::link_down);
  }
}

// What follows a hello is sealed for the volume it names: both ends take it from there.
TEST(SealedStream, GoesOnAfterAHello) {
  Ends e = serial();
  Hello hello;
  hello.volume = Uuid::random();
  hello.generation = Uuid::random();
  hello.volume_name = "data";
  Welcome welcome;
  welcome.mirror = Uuid::random();
  const Message talk[] = {{MessageType::hello, encode(hello)}, {MessageType::records, "r"}, {MessageType::commit, ""}};
  ASSERT_TRUE(e.a->send(talk[0]));
  ASSERT_EQ(e.b->receive()->body, talk[0].body);
  ASSERT_TRUE(e.b->send({MessageType::welcome, encode(welcome)}));
  ASSERT_EQ(e.a->receive()->body, encode(welcome));
  for (int i : {1, 2}) {
    ASSERT_TRUE(e.a->send(talk[i]));
    auto there = e.b->receive();
    ASSERT_TRUE(there) << there.error().line();
    EXPECT_EQ(there->body, talk[i].body);
  }
  ASSERT_TRUE(e.b->send({MessageType::committed, "c"}));
  ASSERT_EQ(e.a->receive()->body, "c");
}

// Frames that lanes work on at once are still sealed and opened each for its place, whatever their sizes, and hellos among them.
TEST(SealedStream, ManyFramesOfManySizesPassEveryArrangementInOrder) {
  const struct {
    Ends (*make)();
    Codec codec;
  } all[] = {{&serial, Codec::snappy}, {&fine, Codec::lz4}, {&threaded, Codec::zstd}, {&hybrid, Codec::snappy}, {&automatic, Codec::stored}};
  for (const auto& [make, codec] : all) {
    Ends e = make();
    std::jthread feed([&] {
      std::minstd_rand random(11);
      for (unsigned i = 0; i < 240; ++i) {
        Hello hello;
        hello.volume = Uuid::random();
        std::string body = i % 100 == 50 ? encode(hello) : i % 2 != 0 ? noise(random() % 50000, i) : std::string(random() % 200000, static_cast<char>('a' + i % 26));
        ASSERT_TRUE(e.a->send({i % 100 == 50 ? MessageType::hello : MessageType::records, body + (i % 100 == 50 ? "" : std::to_string(i))}));
      }
    });
    for (unsigned i = 0; i < 240; ++i) {
      auto m = e.b->receive();
      ASSERT_TRUE(m) << i << " " << m.error().line();
      if (i % 100 == 50) {
        EXPECT_EQ(m->type, MessageType::hello);
      } else {
        ASSERT_TRUE(m->body.ends_with(std::to_string(i))) << i;
      }
    }
    EXPECT_EQ(e.a->how_sent().codec, codec);
    EXPECT_NE(e.a->how_sent().arrangement, PipelineMode::automatic);   // it says what it chose
    const StageSums out = e.a->stages(), in = e.b->stages();
    for (Stage stage : {Stage::compress, Stage::encrypt, Stage::send}) EXPECT_GT(out.bytes_in[static_cast<std::size_t>(stage)], 0u) << name_of(stage);
    for (Stage stage : {Stage::transfer, Stage::decrypt, Stage::decompress}) EXPECT_GT(in.bytes_in[static_cast<std::size_t>(stage)], 0u) << name_of(stage);
    EXPECT_EQ(out.bytes_in[static_cast<std::size_t>(Stage::compress)], in.bytes_out[static_cast<std::size_t>(Stage::decompress)]);
  }
}

// A frame that is changed on the way is an error in its turn: what came before it is handed out, nothing after it.
TEST(SealedStream, AFlippedBitEndsEveryArrangementInItsTurn) {
  for (PipelineMode mode : {PipelineMode::serial, PipelineMode::fine, PipelineMode::threaded, PipelineMode::hybrid, PipelineMode::automatic}) {
    int s[2], t[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, t), 0);
    const KeyPair source = KeyPair::generate(), mirror = KeyPair::generate();
    auto near = Handshake::link(source.secret, mirror.shared, "lines");
    auto far = Handshake::answer_link(mirror.secret, "lines", [](const PublicKey&) -> Status { return {}; });
    ASSERT_TRUE(far->take_message(*near->next_message()));
    ASSERT_TRUE(near->take_message(*far->next_message()));
    auto a = make_sealed_stream(s[0], std::move(*near->finish()), {.sending = mode, .threads = 3});
    auto b = make_sealed_stream(t[0], std::move(*far->finish()), {.receiving = mode, .threads = 3});
    std::jthread between([&] {
      const Fd from(s[1]), to(t[1]);
      std::string all;
      char piece[65536];
      for (ssize_t n; (n = ::read(from.get(), piece, sizeof piece)) > 0;) all.append(piece, static_cast<std::size_t>(n));
      all[all.size() / 2] = static_cast<char>(all[all.size() / 2] ^ 4);
      for (std::string_view rest = all; !rest.empty();) {
        const ssize_t n = ::send(to.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
        if (n <= 0) break;   // it hung up, as it should
        rest.remove_prefix(static_cast<std::size_t>(n));
      }
      ::shutdown(to.get(), SHUT_WR);
      while (::read(to.get(), piece, sizeof piece) > 0) {}
    });
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(a->send({MessageType::records, noise(20000, 3) + std::to_string(i)}));
    a.reset();
    int good = 0;
    for (;; ++good) {
      auto m = b->receive();
      if (!m) {
        EXPECT_EQ(m.error().exit, Exit::link_down);
        break;
      }
      ASSERT_TRUE(m->body.ends_with(std::to_string(good)));
    }
    EXPECT_GE(good, 15) << name_of(mode);
    EXPECT_LE(good, 20) << name_of(mode);
    EXPECT_FALSE(b->receive());
    b->close();
    b.reset();
  }
}

TEST(Dial, AddressesAreReadStrictly) {
  EXPECT_EQ(Address::parse("host:7070")->text(), "host:7070");
  EXPECT_EQ(Address::parse("[::1]:7070")->text(), "[::1]:7070");
  EXPECT_EQ(Address::parse(":7070")->host, "");
  for (const char* bad : {"", "host", "host:", "host:x", "host:70000", "::1:7070", "a b:1", "host:1x", "h@x:1"}) EXPECT_FALSE(Address::parse(bad)) << bad;
}

TEST(Dial, WhoeverIsSilentIsNotWaitedForLonger) {
  int s[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
  const Fd near(s[0]), far(s[1]);
  auto channel = link_channel(near.get(), KeyPair::generate().secret, KeyPair::generate().shared, Patience::for_seconds(0.05));
  ASSERT_FALSE(channel);
  EXPECT_EQ(channel.error().exit, Exit::link_down);
}

Doorkeeper door_of(const KeyPair& mirror, Status answer) {
  Doorkeeper door;
  door.own = [&mirror]() -> Result<Secret> { return mirror.secret; };
  door.admit = [answer](const PublicKey&) { return answer; };
  return door;
}

TEST(Dial, AStrangerIsHungUpOnAndHearsWhatItMeans) {
  int s[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
  const KeyPair mirror = KeyPair::generate();
  std::jthread far([&] {
    const Fd end(s[1]);
    Reception reception(door_of(mirror, fail(Exit::not_allowed, "a stranger")));
    EXPECT_EQ(answer_call(end.get(), [&](std::string_view b) { return reception.take(b); }, Patience::for_seconds(60)).error().exit, Exit::not_allowed);
  });
  const Fd near(s[0]);
  auto channel = link_channel(near.get(), KeyPair::generate().secret, mirror.shared, Patience::for_seconds(60));
  ASSERT_FALSE(channel);
  EXPECT_EQ(channel.error().exit, Exit::not_allowed);
}

TEST(Dial, ALinkIsThereWhenItsFirstFrameOpens) {
  int s[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
  const KeyPair source = KeyPair::generate(), mirror = KeyPair::generate();
  Reception reception(door_of(mirror, {}));
  Result<Call> call = fail(Exit::temporary, "not yet");
  std::jthread far([&] { call = answer_call(s[1], [&](std::string_view b) { return reception.take(b); }, Patience::for_seconds(60)); });
  auto channel = link_channel(s[0], source.secret, mirror.shared, Patience::for_seconds(60));
  ASSERT_TRUE(channel) << channel.error().line();
  auto caller = make_sealed_stream(s[0], std::move(*channel));
  ASSERT_TRUE(caller->send({MessageType::list, "first"}));
  far.join();
  ASSERT_TRUE(call) << call.error().line();
  EXPECT_TRUE(reception.peer() == source.shared);
  EXPECT_EQ(reception.first().body, "first");
  // What was read is not lost, and the next frame follows it.
  auto framing = sealed_framing(std::make_unique<Channel>(call->session));
  const std::string header = call->first.substr(0, framing->header_size());
  ASSERT_TRUE(framing->body_size(header));
  auto first = decode(*framing, header, call->first.substr(header.size()));
  ASSERT_TRUE(first) << first.error().line();
  EXPECT_EQ(first->body, "first");
  auto talk = make_stream(s[1], s[1], std::move(framing));
  ASSERT_TRUE(caller->send({MessageType::list, "second"}));
  EXPECT_EQ(talk->receive()->body, "second");
  ASSERT_TRUE(talk->send({MessageType::listing, "answer"}));
  EXPECT_EQ(caller->receive()->body, "answer");
}

TEST(Dial, EachSideLearnsWhatTheOtherReads) {
  const KeyPair source = KeyPair::generate(), mirror = KeyPair::generate();
  int s[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
  Reception reception(door_of(mirror, {}));
  Result<Call> call = fail(Exit::temporary, "not yet");
  std::jthread far([&] { call = answer_call(s[1], [&](std::string_view b) { return reception.take(b); }, Patience::for_seconds(60)); });
  auto channel = link_channel(s[0], source.secret, mirror.shared, Patience::for_seconds(60));
  ASSERT_TRUE(channel) << channel.error().line();
  EXPECT_EQ((*channel)->features, Banner::own());
  ASSERT_TRUE(make_sealed_stream(s[0], std::move(*channel))->send({MessageType::list, "first"}));
  far.join();
  ASSERT_TRUE(call);
  EXPECT_EQ(call->features, Banner::own());
  ::close(s[1]);
}

// A mirror that reads less than this side writes, or one from whose line something was taken on the way.
TEST(Dial, AMirrorThatReadsLessIsHeard) {
  for (bool honest : {true, false}) {
    const KeyPair source = KeyPair::generate(), mirror = KeyPair::generate();
    int s[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
    std::jthread far([&] {
      const Fd end(s[1]);
      std::string theirs;
      for (char c = 0; c != '\n' && ::read(end.get(), &c, 1) == 1;) theirs += c;
      Banner ours;
      ours.word = Banner::Word::mirror;
      const std::string whole = ours.line();
      ours.features = {"lz4"};
      ASSERT_EQ(write_all(end.get(), ours.line()), 0);
      auto handshake = Handshake::answer_link(mirror.secret, prologue(theirs, honest ? ours.line() : whole), [](const PublicKey&) -> Status { return {}; });
      std::string message(98, 0);
      ASSERT_EQ(::recv(end.get(), message.data(), message.size(), MSG_WAITALL), 98);
      EXPECT_EQ(handshake->take_message(message.substr(2)).has_value(), honest);
      if (honest) {
        ASSERT_EQ(write_all(end.get(), handshake_frame(*handshake->next_message())), 0);
      }
    });
    const Fd near(s[0]);
    auto channel = link_channel(near.get(), source.secret, mirror.shared, Patience::for_seconds(60));
    ASSERT_EQ(channel.has_value(), honest);
    if (honest) {
      EXPECT_EQ(readable((*channel)->features, Codec::zstd), Codec::lz4);
    }
  }
}

TEST(Frames, BetweenProcessesNothingIsCompressed) {
  const Message m{MessageType::records, std::string(300, 'q')};
  auto stored = stored_framing();
  const std::string plain = *encode(*stored, m), packed = encode_frame(m);
  ASSERT_LT(packed.size(), plain.size());
  EXPECT_EQ(*stored->body_size(plain.substr(0, kFrameHeader)), m.body.size());
  EXPECT_EQ(decode(*stored, plain.substr(0, kFrameHeader), plain.substr(kFrameHeader))->body, m.body);
  EXPECT_EQ(stored->body_size(packed.substr(0, kFrameHeader)).error().exit, Exit::link_down);
}

TEST(Frames, EveryTruncationIsAnError) {
  for (const Message& m : {Message{MessageType::list, "hello"}, Message{MessageType::records, std::string(300, 'q')}}) {
    std::string frame = encode_frame(m);
    ASSERT_TRUE(hear(frame));
    for (std::size_t n = 0; n < frame.size(); ++n) {
      auto r = hear(std::string_view(frame).substr(0, n));
      ASSERT_FALSE(r) << n;
      EXPECT_EQ(r.error().exit, Exit::link_down) << n;
    }
  }
}

TEST(Frames, EveryFlippedBitIsAnError) {
  for (const Message& m : {Message{MessageType::list, "hello"}, Message{MessageType::records, std::string(300, 'q')}}) {
    const std::string frame = encode_frame(m);
    for (std::size_t bit = 0; bit < frame.size() * 8; ++bit) {
      std::string bad = frame;
      bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
      auto head = decode_frame_header(bad);
      if (!head) continue;
      if (head->wire != frame.size() - kFrameHeader) continue;   // waits for more or leaves some: found by the next checksum
      EXPECT_FALSE(decode_frame_body(bad, *head, bad.substr(kFrameHeader))) << bit;
    }
  }
}

TEST(Frames, LengthsAreCheckedBeforeTheyAreBelieved) {
  std::string frame = encode_frame({MessageType::records, std::string(300, 'q')});
  auto with = [&](std::size_t at, std::uint32_t v) {
    std::string f = frame;
    for (int i = 0; i < 4; ++i) f[at + static_cast<std::size_t>(i)] = static_cast<char>(v >> (8 * i));
    return decode_frame_header(f);
  };
  EXPECT_TRUE(decode_frame_header(frame));
  EXPECT_FALSE(with(8, kMaxBody + 1));
  EXPECT_FALSE(with(12, 300));          // "compressed" and not smaller
  EXPECT_FALSE(with(12, 0xffffffffu));
  frame = encode_frame({MessageType::list, "hello"});
  EXPECT_FALSE(with(12, 4));            // stored and of another length
}

TEST(Frames, EveryCodecGivesBackWhatItWasGivenAndNoMore) {
  for (Codec codec : {Codec::snappy, Codec::lz4, Codec::zstd}) {
    const std::string body = noise(1000, 8) + std::string(100000, 'x');
    const Packed packed = pack(body, codec);
    ASSERT_EQ(packed.codec, codec);
    EXPECT_EQ(*unpack(packed.bytes, codec, body.size()), body);
    // A length that is not the true one: neither more memory nor a shorter body.
    for (std::size_t wrong : {body.size() - 1, body.size() + 1, std::size_t{1}, kMaxBody}) EXPECT_FALSE(unpack(packed.bytes, codec, wrong)) << name_of(codec) << wrong;
    for (std::size_t n : {std::size_t{0}, packed.bytes.size() / 2, packed.bytes.size() - 1})
      EXPECT_FALSE(unpack(packed.bytes.substr(0, n), codec, body.size())) << name_of(codec) << n;
    EXPECT_EQ(pack(noise(5000, 9), codec).codec, Codec::stored) << "it does not shrink";
    EXPECT_EQ(codec_named(name_of(codec)), codec);
  }
  EXPECT_EQ(codec_named("none"), Codec::stored);
  EXPECT_FALSE(codec_named("gzip"));
}

TEST(Frames, OnlyWhatShrinksByASixteenthIsCompressed) {
  std::string half = noise(4096, 5) + std::string(4096, 'x');
  EXPECT_LT(encode_frame({MessageType::records, half}).size(), half.size());
  std::string little = noise(8192, 6) + std::string(200, 'x');
  EXPECT_EQ(encode_frame({MessageType::records, little}).size(), little.size() + kFrameHeader);
}

TEST(TokenBucketTest, KeepsTheRateWhateverTheClockDoes) {
  TokenBucket b(1'000'000);   // a microsecond per byte
  std::int64_t now = 5;
  std::uint64_t passed = 0;
  while (now < 10'000'000'000) {
    std::int64_t wait = b.wait_ns(b.piece(), now);
    if (wait == 0) passed += b.piece();
    now += wait;
  }
  EXPECT_GE(passed, 10'000'000u);
  EXPECT_LE(passed, 10'000'000u + 100'000u + 2 * b.piece());
  TokenBucket slow(3);        // fewer bytes per second than a piece
  EXPECT_GT(slow.wait_ns(slow.piece(), 0), 0);
  EXPECT_EQ(slow.wait_ns(slow.piece(), 1'000'000'000), 0);
}

}  // namespace
}  // namespace somfs::replicator
