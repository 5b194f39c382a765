// SPDX-License-Identifier: Apache-2.0
#include "replicator/reception.h"

#include <memory>
#include <utility>

#include "common/bytes.h"
#include "replicator/framing.h"

namespace somfs::replicator {

std::string Step::encode() const {
  std::string out;
  ByteWriter w(out);
  w.u8(static_cast<std::uint8_t>(next));
  if (!session) {
    w.raw(send);
    return out;
  }
  w.raw(session->send.key().raw());
  w.raw(session->receive.key().raw());
  w.raw(session->remote_static.raw());
  w.raw(session->hash);
  return out;
}

Result<Step> Step::decode(std::string_view bytes) {
  ByteReader r(bytes);
  const std::uint8_t next = r.u8();
  Step step{static_cast<Next>(next), {}, {}};
  const auto bad = [] { return fail(Exit::temporary, "cannot go on with a caller", {}, "a step is malformed"); };
  if (!r.ok() || next < 1 || next > 3) return bad();
  if (step.next != Next::talk) {
    step.send = bytes.substr(1);
    return step;
  }
  const std::string_view send = r.raw(Secret::kSize), receive = r.raw(Secret::kSize), peer = r.raw(32), hash = r.raw(32);
  if (!r.at_end()) return bad();
  step.session = Session{CipherState(Secret(send)), CipherState(Secret(receive)), std::string(hash), PublicKey::from_raw(peer)};
  return step;
}

Result<Step> Reception::take(std::string_view brought) {
  switch (std::exchange(due_, Due::nothing)) {   // unless it goes well
    case Due::banner: return banner(brought);
    case Due::message: return message(brought);
    case Due::frame: return frame(brought);
    case Due::nothing: break;
  }
  return fail(Exit::not_allowed, "refusing a caller", {}, "it has been judged");
}

Result<Step> Reception::banner(std::string_view line) {
  SOMFS_TRY_ASSIGN(const Banner theirs, Banner::parse(line, Role::initiator));
  pairs_ = theirs.word == Banner::Word::pair;
  Banner ours;
  ours.word = Banner::Word::mirror;
  const std::string lines = prologue(line, ours.line());
  SOMFS_TRY_ASSIGN(Secret secret, doorkeeper_.own());
  auto handshake = pairs_ ? Handshake::answer_pair(std::move(secret), lines, doorkeeper_.redeem)
                          : Handshake::answer_link(std::move(secret), lines, doorkeeper_.admit);
  if (!handshake) return pass_on(std::move(handshake).error());
  handshake_ = std::move(*handshake);
  due_ = Due::message;
  return Step{};
}

Result<Step> Reception::message(std::string_view message) {
  SOMFS_TRY(handshake_->take_message(message));
  Step step;
  if (handshake_->our_turn()) {
    SOMFS_TRY_ASSIGN(const std::string answer, handshake_->next_message());
    step.send = handshake_frame(answer);
  }
  if (!handshake_->done()) {
    due_ = Due::message;
    return step;
  }
  SOMFS_TRY_ASSIGN(Session session, handshake_->session());
  peer_ = session.remote_static;
  if (pairs_) {
    // Its last message answered ours: it is here.
    step.next = Step::Next::talk;
    step.session = std::move(session);
    return step;
  }
  session_ = std::move(session);
  step.next = Step::Next::frame;
  due_ = Due::frame;
  return step;
}

Result<Step> Reception::frame(std::string_view frame) {
  auto framing = sealed_framing(std::make_unique<Channel>(*session_));
  const std::string header(frame.substr(0, framing->header_size()));
  SOMFS_TRY_ASSIGN(const std::size_t size, framing->body_size(header));
  if (size > kMaxFirst || size != frame.size() - header.size())
    return fail(Exit::link_down, "the stream from the other side is broken", {}, "its first frame is too long, or cut off");
  SOMFS_TRY_ASSIGN(first_, decode(*framing, header, std::string(frame.substr(header.size()))));
  Step step;
  step.next = Step::Next::talk;
  step.session = std::exchange(session_, std::nullopt);
  return step;
}

}  // namespace somfs::replicator
