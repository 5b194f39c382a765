// SPDX-License-Identifier: Apache-2.0
#include "replicator/frame.h"

#include <lz4.h>
#include <snappy.h>
#include <zstd.h>

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

Packed pack(std::string_view body, Codec codec) {
  Packed p;
  if (body.size() < kSmall) return p;
  switch (codec) {
    case Codec::stored: return p;
    case Codec::snappy: snappy::Compress(body.data(), body.size(), &p.bytes); break;
    case Codec::lz4: {
      p.bytes.resize(static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(body.size()))));
      const int n = LZ4_compress_default(body.data(), p.bytes.data(), static_cast<int>(body.size()), static_cast<int>(p.bytes.size()));
      p.bytes.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
      break;
    }
    case Codec::zstd: {
      p.bytes.resize(ZSTD_compressBound(body.size()));
      const std::size_t n = ZSTD_compress(p.bytes.data(), p.bytes.size(), body.data(), body.size(), 1);
      p.bytes.resize(ZSTD_isError(n) != 0 ? 0 : n);
      break;
    }
  }
  if (!p.bytes.empty() && p.bytes.size() <= body.size() - body.size() / 16) p.codec = codec;
  else p.bytes.clear();
  return p;
}

Result<std::string> unpack(std::string payload, Codec codec, std::size_t raw) {
  if (codec == Codec::stored) return payload;
  std::string body;
  bool good = false;
  switch (codec) {
    case Codec::snappy: {
      std::size_t length = 0;
      good = snappy::GetUncompressedLength(payload.data(), payload.size(), &length) && length == raw &&
             snappy::Uncompress(payload.data(), payload.size(), &body);
      break;
    }
    case Codec::lz4:
      body.resize(raw);
      good = LZ4_decompress_safe(payload.data(), body.data(), static_cast<int>(payload.size()), static_cast<int>(raw)) == static_cast<int>(raw);
      break;
    case Codec::zstd:
      body.resize(raw);
      good = ZSTD_decompress(body.data(), raw, payload.data(), payload.size()) == raw;
      break;
    case Codec::stored: break;
  }
  if (!good) return broken("a compressed frame cannot be unpacked");
  return body;
}

bool known_type(std::uint8_t type) { return type != 0 && type <= static_cast<std::uint8_t>(MessageType::applied); }

const char* name_of(Codec codec) {
  switch (codec) {
    case Codec::snappy: return "snappy";
    case Codec::lz4: return "lz4";
    case Codec::zstd: return "zstd";
    case Codec::stored: break;
  }
  return "none";
}

std::optional<Codec> codec_named(std::string_view name) {
  for (Codec codec : {Codec::stored, Codec::snappy, Codec::lz4, Codec::zstd})
    if (name == name_of(codec)) return codec;
  return std::nullopt;
}

std::string encode_frame(MessageType type, std::string_view body, const Packed& packed) {
  const std::string_view payload = packed.codec != Codec::stored ? std::string_view(packed.bytes) : body;
  std::string out;
  out.reserve(kFrameHeader + payload.size());
  ByteWriter w(out);
  w.raw(kMagic);
  w.u8(kFrameVersion);
  w.u8(static_cast<std::uint8_t>(type));
  w.u8(static_cast<std::uint8_t>(packed.codec));
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
  if (!known_codec(codec) || zero != 0) return broken("an unknown codec");
  if (h.raw > kMaxBody) return broken("a frame is larger than the protocol allows");
  if (codec == 0 ? h.wire != h.raw : h.wire >= h.raw) return broken("the lengths of a frame contradict each other");
  h.type = static_cast<MessageType>(type);
  h.codec = static_cast<Codec>(codec);
  return h;
}

Status check_frame(std::string_view header_bytes, const FrameHeader& header, std::string_view payload) {
  if (crc32c(payload, crc32c(header_bytes.substr(0, 16))) != header.crc) return broken("a frame's checksum is wrong");
  return {};
}

Result<Message> decode_frame_body(std::string_view header_bytes, const FrameHeader& header, std::string payload) {
  SOMFS_TRY(check_frame(header_bytes, header, payload));
  Message m{header.type, {}};
  SOMFS_TRY_ASSIGN(m.body, unpack(std::move(payload), header.codec, header.raw));
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
