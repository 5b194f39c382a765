// SPDX-License-Identifier: Apache-2.0
// Whatever a stranger can say to the receiving side of a channel: frames, handshakes, banners; and the texts that people bring. The
// first byte chooses. What opens must be what was sealed, what is read must be written alike, and one flipped bit must be refused.
#include "replicator/allow_list.h"
#include "replicator/keys.h"
#include "replicator/wire.h"
#include "tests/fuzz/channel_seeds.h"
#include "tests/fuzz/fuzz.h"

using namespace somfs;
using namespace somfs::replicator;
using fuzz::demand;
using fuzz::ChannelInput;

namespace {

Result<std::string> open_one(Acceptor& acceptor, std::string_view& bytes, SealHeader& header) {
  const std::string_view head = bytes.substr(0, kSealHeader);
  SOMFS_TRY_ASSIGN(header, acceptor.header(head));
  demand(header.wire <= kMaxBody && header.frame.raw <= kMaxBody, "a header beyond the bounds passed");
  SOMFS_TRY_ASSIGN(Ticket ticket, acceptor.take(header));
  bytes.remove_prefix(head.size());
  const std::string_view body = bytes.substr(0, header.body());
  bytes.remove_prefix(body.size());
  return open(std::move(ticket), fuzz::kContext, head, body);
}

void frames(std::string_view bytes) {
  SealLimits limits;
  limits.frames = 4;
  Acceptor acceptor(fuzz::secret_of('k'), fuzz::kHash, limits);
  Counter counter(fuzz::secret_of('k'), fuzz::kHash, limits);
  while (!bytes.empty()) {
    const std::string_view before = bytes;
    SealHeader header;
    auto payload = open_one(acceptor, bytes, header);
    if (!payload) {
      demand(!acceptor.header(before.substr(0, kSealHeader)), "a refused frame is taken the second time");
      return;
    }
    auto again = seal(counter.take_rekeying(header.wire).value(), fuzz::kContext, header.frame, *payload);
    demand(again && before.starts_with(*again), "something opened that was not sealed so");
  }
}

void own_frame(std::string_view bytes) {
  if (bytes.size() < 12) return;
  auto at = [&](std::size_t i) { return static_cast<std::uint8_t>(bytes[i]); };
  const std::string_view payload = bytes.substr(12);
  SealFrame f;
  f.type = at(0);
  f.codec = at(1) % 2;
  f.group = at(2);
  f.index = at(3);
  f.count = at(4);
  f.raw = static_cast<std::uint32_t>(payload.size()) + (f.codec == 0 ? 0 : at(5));
  Counter counter(fuzz::secret_of('k'), fuzz::kHash);
  auto sealed = seal(counter.take(static_cast<std::uint32_t>(payload.size())).value(), fuzz::kContext, f, payload);
  if (!sealed) return;
  SealHeader header;
  Acceptor good(fuzz::secret_of('k'), fuzz::kHash), bad(fuzz::secret_of('k'), fuzz::kHash);
  std::string_view rest = *sealed;
  auto opened = open_one(good, rest, header);
  demand(opened && *opened == payload && rest.empty(), "our own frame is refused");
  std::string changed = *sealed;
  const std::size_t bit = (at(6) | at(7) << 8 | at(8) << 16) % (changed.size() * 8);
  changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << (bit % 8)));
  rest = changed;
  demand(!open_one(bad, rest, header), "a changed frame opens");
}

void take(HandshakeState state, std::string_view message) {
  const bool taken = state.take_message(message).has_value();
  demand(taken || (!state.remote_static() && !state.done() && !state.our_turn()), "a handshake goes on after a refusal");
  if (!taken || state.done()) return;
  // A point of low order is met when the answer needs an agreement with it: the first message of a pairing needs none.
  const bool low = !agree(fuzz::secret_of('f'), PublicKey::from_raw(message.substr(0, 32)));
  demand(state.next_message().has_value() == !low, low ? "a point of low order is answered" : "a handshake that may go on does not");
  demand(!low || (!state.remote_static() && !state.done() && !state.our_turn()), "a handshake goes on after it gave up");
}

void answer(std::string_view message) {
  HandshakeState source = fuzz::handshake(kXX, Role::initiator);
  (void)source.next_message().value();
  take(std::move(source), message);
}

void peers(std::string_view text) {
  auto list = AllowList::parse(text, "peers");
  if (!list) return;
  auto again = AllowList::parse(list->text(), "peers");
  demand(again && again->text() == list->text(), "a list of peers does not read what it wrote");
}

void codes(std::string_view text) {
  auto list = Invitations::parse(text, "codes");
  if (!list) return;
  auto again = Invitations::parse(list->text(), "codes");
  demand(again && again->text() == list->text(), "a list of codes does not read what it wrote");
}

void words(std::string_view text) {
  if (auto key = parse_public(text)) demand(public_text(*key) == text, "two texts for one key");
  if (auto key = parse_private(text)) demand(private_text(*key) == text, "two texts for one key");
  if (auto code = PairingCode::parse(text)) demand(code->text() == text, "two texts for one code");
  for (Role role : {Role::initiator, Role::responder})
    if (auto banner = Banner::parse(text, role))
      demand(Banner::parse(banner->line(), role)->features == banner->features, "a banner changes");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::view(data + 1, size - 1);
  switch (static_cast<ChannelInput>(data[0] % static_cast<unsigned>(ChannelInput::count))) {
    case ChannelInput::frames: frames(bytes); break;
    case ChannelInput::own_frame: own_frame(bytes); break;
    case ChannelInput::link: take(fuzz::handshake(kIK, Role::responder), bytes); break;
    case ChannelInput::pair: take(fuzz::handshake(kXX, Role::responder), bytes); break;
    case ChannelInput::answer: answer(bytes); break;
    case ChannelInput::peers: peers(bytes); break;
    case ChannelInput::codes: codes(bytes); break;
    case ChannelInput::words: words(bytes); break;
    case ChannelInput::count: break;
  }
  return 0;
}
