// SPDX-License-Identifier: Apache-2.0
#include "replicator/frame.h"

#include <snappy.h>

#include <algorithm>

#include "common/bytes.h"

namespace somfs::replicator {
namespace {

constexpr std::string_view kMagic = "somf";
constexpr std::uint8_t kFrameVersion = 1;
constexpr std::size_t kSmall = 64;             // not worth a try
constexpr std::int64_t kBurstNs = 50'000'000;

std::string crc_bytes(std::string_view head, std::string_view payload) {
  std::string out;
  ByteWriter(out).u32(crc32c(payload, crc32c(head)));
  return out;
}

auto broken(const char* why) { return fail(Exit::link_down, "the stream from the other side is broken", {}, why); }

}  // namespace

Packed pack(std::string_view body) {
  Packed p;
  if (body.size() < kSmall) return p;
  snappy::Compress(body.data(), body.size(), &p.bytes);
  p.compressed = p.bytes.size() <= body.size() - body.size() / 16;
  return p;
}

Result<std::string> unpack(std::string payload, bool compressed, std::size_t raw) {
  if (!compressed) return payload;
  std::size_t length = 0;
  std::string body;
  if (!snappy::GetUncompressedLength(payload.data(), payload.size(), &length) || length != raw ||
      !snappy::Uncompress(payload.data(), payload.size(), &body))
    return broken("a compressed frame cannot be unpacked");
  return body;
}

bool known_type(std::uint8_t type) { return type != 0 && type <= static_cast<std::uint8_t>(MessageType::progress); }

std::string encode_frame(const Message& message, bool compress) {
  const std::string& body = message.body;
  const Packed packed = compress ? pack(body) : Packed{};
  const bool compressed = packed.compressed;
  const std::string& payload = compressed ? packed.bytes : body;
  std::string out;
  out.reserve(kFrameHeader + payload.size());
  ByteWriter w(out);
  w.raw(kMagic);
  w.u8(kFrameVersion);
  w.u8(static_cast<std::uint8_t>(message.type));
  w.u8(compressed ? 1 : 0);
  w.u8(0);
  w.u32(static_cast<std::uint32_t>(body.size()));
  w.u32(static_cast<std::uint32_t>(payload.size()));
  w.raw(crc_bytes(out, payload));
  w.raw(payload);
  return out;
}

Result<FrameHeader> decode_frame_header(std::string_view bytes) {
  ByteReader r(bytes.substr(0, kFrameHeader));
  if (r.raw(4) != kMagic) return broken("this is not a frame of somfs");
  if (r.u8() != kFrameVersion) return fail(Exit::peer_version, "cannot talk to the other side", {}, "its frames have another version");
  FrameHeader h;
  std::uint8_t type = r.u8(), codec = r.u8(), zero = r.u8();
  h.raw = r.u32();
  h.wire = r.u32();
  h.crc = r.u32();
  if (!r.ok()) return broken("a frame is cut off");
  if (!known_type(type)) return broken("an unknown message type");
  if (codec > 1 || zero != 0) return broken("an unknown codec");
  if (h.raw > kMaxBody) return broken("a frame is larger than the protocol allows");
  if (codec == 0 ? h.wire != h.raw : h.wire >= h.raw) return broken("the lengths of a frame contradict each other");
  h.type = static_cast<MessageType>(type);
  h.compressed = codec == 1;
  return h;
}

Result<Message> decode_frame_body(std::string_view header_bytes, const FrameHeader& header, std::string payload) {
  if (crc32c(payload, crc32c(header_bytes.substr(0, 16))) != header.crc) return broken("a frame's checksum is wrong");
  Message m{header.type, {}};
  SOMFS_TRY_ASSIGN(m.body, unpack(std::move(payload), header.compressed, header.raw));
  return m;
}

std::size_t TokenBucket::piece() const { return std::clamp<std::size_t>(rate_ / 20, 1, 64u << 10); }

std::int64_t TokenBucket::wait_ns(std::size_t bytes, std::int64_t now_ns) {
  auto cost = static_cast<std::int64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(rate_));
  if (last_ns_ < 0) credit_ns_ = kBurstNs;
  else credit_ns_ = std::min(credit_ns_ + (now_ns - last_ns_), std::max(kBurstNs, cost));
  last_ns_ = now_ns;
  if (credit_ns_ < cost) return cost - credit_ns_;
  credit_ns_ -= cost;
  return 0;
}

}  // namespace somfs::replicator
