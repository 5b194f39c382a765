// SPDX-License-Identifier: Apache-2.0
// What the mirror's side with the keys lets out to the side with the connection, and when.
#include "replicator/reception.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "replicator/framing.h"
#include "replicator/keys.h"

namespace somfs::replicator {
namespace {

using Next = Step::Next;

const KeyPair kMirror = KeyPair::generate(), kSource = KeyPair::generate();

struct Door {
  Status answer;
  std::vector<std::string> tokens;
  Doorkeeper keeper() {
    Doorkeeper d;
    d.own = []() -> Result<Secret> { return kMirror.secret; };
    d.admit = [this](const PublicKey& key) -> Status {
      if (!(key == kSource.shared)) return fail(Exit::not_allowed, "a stranger");
      return answer;
    };
    d.redeem = [this](const PublicKey&, std::string_view token) -> Status {
      tokens.emplace_back(token);
      return answer;
    };
    return d;
  }
};

std::string line(Banner::Word word) {
  Banner b;
  b.word = word;
  return b.line();
}
std::string lines(Banner::Word word) { return prologue(line(word), line(Banner::Word::mirror)); }
// A message of the handshake without its length.
std::string bare(const std::string& sent) { return sent.substr(2); }

// A source that links, up to the frame it is to send first.
struct Source {
  std::optional<Handshake> handshake;
  std::unique_ptr<Framing> framing;

  explicit Source(const Secret& key = kSource.secret) {
    auto h = Handshake::link(key, kMirror.shared, lines(Banner::Word::link));
    EXPECT_TRUE(h);
    handshake = std::move(*h);
  }
  std::string opening() { return *handshake->next_message(); }
  void hear(const std::string& sent) {
    ASSERT_TRUE(handshake->take_message(bare(sent)));
    framing = sealed_framing(std::move(*handshake->finish()));
  }
  std::string frame(const Message& m) { return *encode(*framing, m); }
};

TEST(Reception, GivesTheKeysOfALinkWhenItsFirstFrameOpens) {
  Door door;
  Reception reception(door.keeper());
  Source source;
  auto step = reception.take(line(Banner::Word::link));
  ASSERT_TRUE(step) << step.error().line();
  EXPECT_EQ(step->next, Next::message);
  EXPECT_TRUE(step->send.empty());
  step = reception.take(source.opening());
  ASSERT_TRUE(step) << step.error().line();
  EXPECT_EQ(step->next, Next::frame);
  EXPECT_FALSE(step->session);
  source.hear(step->send);
  const std::string frame = source.frame({MessageType::hello, std::string(500, 'h')});
  step = reception.take(frame);
  ASSERT_TRUE(step) << step.error().line();
  ASSERT_EQ(step->next, Next::talk);
  EXPECT_TRUE(reception.peer() == kSource.shared);
  EXPECT_FALSE(reception.pairs());
  EXPECT_EQ(reception.first().type, MessageType::hello);
  EXPECT_EQ(reception.first().body, std::string(500, 'h'));
  // As they arrive on the other side, they open the frame, and seal what the source opens.
  auto arrived = Step::decode(step->encode());
  ASSERT_TRUE(arrived);
  auto framing = sealed_framing(std::make_unique<Channel>(std::move(*arrived->session)));
  const std::string header = frame.substr(0, kSealHeader);
  ASSERT_TRUE(framing->body_size(header));
  ASSERT_TRUE(decode(*framing, header, frame.substr(kSealHeader)));
  const std::string answer = *encode(*framing, {MessageType::welcome, "w"});
  ASSERT_TRUE(source.framing->body_size(answer.substr(0, kSealHeader)));
  EXPECT_EQ(decode(*source.framing, answer.substr(0, kSealHeader), answer.substr(kSealHeader))->body, "w");
  EXPECT_FALSE(reception.take(frame));
}

// Who has heard an old call, and has whatever stands between the network and this side in his hands, gets no key by repeating it.
TEST(Reception, ARepeatedCallGetsNoKey) {
  Door door;
  Source source;
  Reception first(door.keeper());
  const std::string opening = source.opening();
  ASSERT_TRUE(first.take(line(Banner::Word::link)));
  source.hear(first.take(opening)->send);
  const std::string frame = source.frame({MessageType::hello, "h"});
  ASSERT_TRUE(first.take(frame));

  for (const std::string& next : {frame, opening, std::string(kSealHeader + kAeadTag, '\0'), std::string()}) {
    Reception again(door.keeper());
    ASSERT_TRUE(again.take(line(Banner::Word::link)));
    auto step = again.take(opening);
    ASSERT_TRUE(step);
    EXPECT_FALSE(step->session);
    EXPECT_FALSE(again.take(next));
    EXPECT_FALSE(again.take(frame)) << "after a refusal";
  }
}

TEST(Reception, AStrangerIsAnsweredNothing) {
  Door door;
  Reception reception(door.keeper());
  Source stranger(KeyPair::generate().secret);
  ASSERT_TRUE(reception.take(line(Banner::Word::link)));
  auto step = reception.take(stranger.opening());
  ASSERT_FALSE(step);
  EXPECT_EQ(step.error().exit, Exit::not_allowed);
  EXPECT_FALSE(reception.take(std::string(kSealHeader + kAeadTag, '\0')));
}

TEST(Reception, PairsWithTheLastMessageOfTheHandshake) {
  Door door;
  Reception reception(door.keeper());
  const PairingCode code = PairingCode::make(kMirror.shared);
  auto source = Handshake::pair(kSource.secret, code, lines(Banner::Word::pair));
  ASSERT_TRUE(source);
  ASSERT_TRUE(reception.take(line(Banner::Word::pair)));
  auto step = reception.take(*source->next_message());
  ASSERT_TRUE(step);
  EXPECT_EQ(step->next, Next::message);
  ASSERT_TRUE(source->take_message(bare(step->send)));
  EXPECT_TRUE(door.tokens.empty());
  step = reception.take(*source->next_message());
  ASSERT_TRUE(step) << step.error().line();
  EXPECT_EQ(step->next, Next::talk);
  EXPECT_TRUE(step->session);
  EXPECT_TRUE(reception.pairs());
  EXPECT_TRUE(reception.peer() == kSource.shared);
  EXPECT_EQ(door.tokens, std::vector<std::string>{std::string(code.token())});
}

TEST(Reception, ARefusedCodeGetsNoKey) {
  Door door;
  door.answer = fail(Exit::not_allowed, "used up");
  Reception reception(door.keeper());
  auto source = Handshake::pair(kSource.secret, PairingCode::make(kMirror.shared), lines(Banner::Word::pair));
  ASSERT_TRUE(reception.take(line(Banner::Word::pair)));
  auto step = reception.take(*source->next_message());
  ASSERT_TRUE(source->take_message(bare(step->send)));
  EXPECT_FALSE(reception.take(*source->next_message()));
}

TEST(Reception, RefusesWhatIsNoBannerOfASource) {
  for (const std::string& bad : {std::string(), std::string("GET / HTTP/1.0\n"), line(Banner::Word::mirror), std::string("somfs-channel 2 link\n"),
                                 std::string(5000, 'x')}) {
    Door door;
    Reception reception(door.keeper());
    EXPECT_EQ(reception.take(bad).error().exit, Exit::peer_version) << bad.substr(0, 40);
    EXPECT_FALSE(reception.take(line(Banner::Word::link)));
  }
}

TEST(Reception, AFirstFrameIsSmallAndWhole) {
  Door door;
  for (int fault = 0; fault < 3; ++fault) {
    Reception reception(door.keeper());
    Source source;
    ASSERT_TRUE(reception.take(line(Banner::Word::link)));
    source.hear(reception.take(source.opening())->send);
    std::string large(Reception::kMaxFirst, '\0');
    random_bytes(reinterpret_cast<std::uint8_t*>(large.data()), large.size());
    std::string frame = source.frame({MessageType::hello, fault == 0 ? large : std::string("h")});
    if (fault == 1) frame.pop_back();
    if (fault == 2) frame.push_back('x');
    EXPECT_FALSE(reception.take(frame)) << fault;
  }
}

TEST(Reception, AStepArrivesAsItIsOrNotAtAll) {
  Step step;
  step.next = Next::frame;
  step.send = std::string("a\0b", 3);
  auto arrived = Step::decode(step.encode());
  ASSERT_TRUE(arrived);
  EXPECT_EQ(arrived->next, Next::frame);
  EXPECT_EQ(arrived->send, step.send);
  for (const std::string& bad : {std::string(), std::string("\0", 1), std::string("\4"), std::string("\3"), "\3" + std::string(127, 'k'), "\3" + std::string(129, 'k')})
    EXPECT_FALSE(Step::decode(bad)) << bad.size();
}

}  // namespace
}  // namespace somfs::replicator
