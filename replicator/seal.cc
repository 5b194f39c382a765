// SPDX-License-Identifier: Apache-2.0
#include "replicator/seal.h"

#include "common/bytes.h"
#include "replicator/noise.h"
#include "replicator/wire.h"

namespace somfs::replicator {
namespace {

constexpr std::string_view kMagic = "somS";
constexpr std::uint8_t kVersion = 1;

auto broken(const char* why) { return fail(Exit::link_down, "the stream from the other side is broken", {}, why); }

std::string encode(const SealHeader& h) {
  std::string out;
  ByteWriter w(out);
  w.raw(kMagic);
  w.u8(kVersion);
  w.u8(h.frame.type);
  w.u8(h.frame.codec);
  w.u8(h.key);
  w.u64(h.counter);
  w.u64(h.frame.group);
  w.u32(h.frame.index);
  w.u32(h.frame.count);
  w.u32(h.frame.raw);
  w.u32(h.wire);
  return out;
}

bool lengths_agree(const SealFrame& f, std::uint32_t wire) {
  return f.raw <= kMaxBody && (f.codec == 0 ? wire == f.raw : wire < f.raw) && (f.count == 0 || f.index < f.count);
}

std::string associated(std::string_view hash, const SealContext& context, std::string_view header) {
  std::string out(hash);
  return out.append(context.volume.raw()).append(context.lineage.raw()).append(header);
}

}  // namespace

FrameKeys::FrameKeys(Secret key, std::string hash, SealLimits limits)
    : limits_(limits), key_(std::make_shared<Ticket::Key>(Ticket::Key{std::move(key), std::move(hash), 0})) {}

bool FrameKeys::due(std::uint64_t bytes) const { return frames_ >= limits_.frames || bytes > limits_.bytes - bytes_; }

void FrameKeys::rekey() {
  if (frames_ == 0) return;
  key_ = std::make_shared<Ticket::Key>(Ticket::Key{next_key(key_->secret), key_->hash, static_cast<std::uint8_t>(key_->number + 1)});
  frames_ = bytes_ = 0;
}

Result<Ticket> FrameKeys::take(std::uint32_t bytes) {
  if (counter_ == limits_.counters) return broken("the connection has carried as many frames as it may");
  if (due(bytes)) return broken("a key has sealed as much as it may");
  ++frames_;
  bytes_ += bytes;
  return Ticket(key_, counter_++, bytes);
}

Result<Ticket> Counter::take(std::uint32_t bytes) {
  Lock l(mutex_);
  return keys_.take(bytes);
}

Result<Ticket> Counter::take_rekeying(std::uint32_t bytes) {
  Lock l(mutex_);
  if (keys_.due(bytes)) keys_.rekey();
  return keys_.take(bytes);
}

void Counter::rekey() {
  Lock l(mutex_);
  keys_.rekey();
}

Result<SealHeader> Acceptor::header(std::string_view bytes) {
  if (broken_) return broken("a frame before was refused");
  broken_ = true;   // until this one is found good
  ByteReader r(bytes);
  if (r.raw(kMagic.size()) != kMagic) return broken("this is not a sealed frame of somfs");
  if (r.u8() != kVersion) return fail(Exit::peer_version, "cannot talk to the other side", {}, "its frames have another version");
  SealHeader h;
  h.frame.type = r.u8();
  h.frame.codec = r.u8();
  h.key = r.u8();
  h.counter = r.u64();
  h.frame.group = r.u64();
  h.frame.index = r.u32();
  h.frame.count = r.u32();
  h.frame.raw = r.u32();
  h.wire = r.u32();
  if (!r.at_end()) return broken("a frame is cut off");
  if (h.counter < keys_.next()) return broken("a frame came twice, or was replayed");
  if (h.counter > keys_.next()) return broken("a frame is missing before this one");
  if (h.frame.raw > kMaxBody) return broken("a frame is larger than the protocol allows");
  if (!lengths_agree(h.frame, h.wire)) return broken("the numbers in a frame contradict each other");
  broken_ = false;
  return h;
}

Result<Ticket> Acceptor::take(const SealHeader& header) {
  if (broken_) return broken("a frame before was refused");
  broken_ = true;
  if (header.counter != keys_.next()) return broken("a frame came twice, or was replayed");
  if (header.key != keys_.number()) keys_.rekey();
  if (header.key != keys_.number()) return broken("a frame is sealed with a key whose turn it is not");
  SOMFS_TRY_ASSIGN(Ticket ticket, keys_.take(header.wire));
  broken_ = false;
  return ticket;
}

Result<std::string> seal(Ticket ticket, const SealContext& context, const SealFrame& frame, std::string_view payload) {
  const auto wire = static_cast<std::uint32_t>(payload.size());
  if (payload.size() > ticket.bytes_ || !lengths_agree(frame, wire))
    return fail(Exit::temporary, "cannot send", {}, "the numbers of a frame contradict each other");
  std::string out = encode(SealHeader{frame, ticket.key_->number, ticket.counter_, wire});
  const std::string covered = associated(ticket.key_->hash, context, out);
  out.reserve(out.size() + payload.size() + kAeadTag);
  aead_seal(ticket.key_->secret, ticket.counter_, covered, payload, out);
  return out;
}

Result<std::string> open(Ticket ticket, const SealContext& context, std::string_view header, std::string_view body) {
  std::string payload;
  if (body.size() != ticket.bytes_ + kAeadTag ||
      !aead_open(ticket.key_->secret, ticket.counter_, associated(ticket.key_->hash, context, header), body, payload))
    return broken("a frame is not as it was sent, or not meant for this connection");
  return payload;
}

}  // namespace somfs::replicator
