// SPDX-License-Identifier: Apache-2.0
// What a worker brings to the daemon, and what it is answered: the steps of a reception in any order and of any content; a true link's first
// frame, with whatever in it, whole or with one bit flipped; and the steps as the worker reads them. The first byte chooses.
#include "replicator/framing.h"
#include "replicator/reception.h"
#include "tests/fuzz/channel_seeds.h"
#include "tests/fuzz/fuzz.h"

using namespace somfs;
using namespace somfs::replicator;
using fuzz::demand;

namespace {

Doorkeeper doorkeeper() {
  Doorkeeper d;
  d.own = [] { return Result<Secret>(fuzz::secret_of('r')); };
  d.admit = [](const PublicKey& key) -> Status {
    if (key == public_key(fuzz::secret_of('i'))) return {};
    return fail(Exit::not_allowed, "unknown");
  };
  d.redeem = [](const PublicKey&, std::string_view token) -> Status {
    if (token == std::string(PairingCode::kToken, 't')) return {};
    return fail(Exit::not_allowed, "unknown");
  };
  return d;
}

void same_again(const Step& step) {
  const std::string text = step.encode();
  auto again = Step::decode(text);
  demand(again && again->encode() == text, "a step does not read what it wrote");
  demand(step.session.has_value() == (step.next == Step::Next::talk), "keys leave before the caller is known, or not then");
}

void any_order(std::string_view bytes) {
  Reception reception(doorkeeper());
  bool over = false;
  fuzz::each_part(bytes, [&](std::uint8_t, const std::string& brought) {
    auto step = reception.take(brought);
    demand(!over || !step, "a reception goes on after its end");
    over = over || !step || step->next == Step::Next::talk;
    demand(!step || step->next != Step::Next::talk, "a caller without a key was let in");
    if (step) same_again(*step);
  });
}

void first_frame(std::string_view bytes) {
  ByteReader r(bytes);
  const std::uint8_t type = r.u8(), flip = r.u8();
  const std::uint16_t where = r.u16();
  if (!r.ok() || type == 0 || type > static_cast<std::uint8_t>(MessageType::alive)) return;
  const Message sent{static_cast<MessageType>(type), std::string(r.raw(r.left()))};
  Reception reception(doorkeeper());
  Banner source, mirror;
  source.word = Banner::Word::link;
  mirror.word = Banner::Word::mirror;
  demand(reception.take(source.line()).has_value(), "a banner is refused");
  Handshake handshake = Handshake::link(fuzz::secret_of('i'), public_key(fuzz::secret_of('r')), prologue(source.line(), mirror.line())).value();
  auto step = reception.take(handshake.next_message().value());
  demand(step && step->next == Step::Next::frame, "a known source is refused");
  same_again(*step);
  demand(handshake_length(std::string_view(step->send).substr(0, 2)).value() == step->send.size() - 2, "an answer's length is wrong");
  demand(handshake.take_message(std::string_view(step->send).substr(2)).has_value(), "the answer is refused");
  auto framing = sealed_framing(handshake.finish().value());
  std::string frame = encode(*framing, sent).value();
  const bool whole = flip % 2 == 0;
  if (!whole) frame[where % frame.size()] = static_cast<char>(frame[where % frame.size()] ^ (1 << (flip / 2 % 8)));
  auto talk = reception.take(frame);
  demand(whole || !talk, "a changed frame opens");
  if (!talk) return;
  demand(talk->next == Step::Next::talk && reception.first().type == sent.type && reception.first().body == sent.body, "another message opened");
  demand(reception.peer() == public_key(fuzz::secret_of('i')) && !reception.pairs(), "it is another caller");
  same_again(*talk);
  demand(!reception.take(frame), "a reception goes on after its end");
}

void read_step(std::string_view bytes) {
  auto step = Step::decode(bytes);
  if (step) demand(step->encode() == bytes, "two texts for one step");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::view(data + 1, size - 1);
  switch (data[0] % 3) {
    case 0: any_order(bytes); break;
    case 1: first_frame(bytes); break;
    default: read_step(bytes); break;
  }
  return 0;
}
