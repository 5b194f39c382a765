// SPDX-License-Identifier: Apache-2.0
// A message as it travels over a byte stream (docs/formats/wire.md, "Frames"), and the bucket that paces the bytes. Pure.
//
//   offset  0  "somf"      magic
//           4  u8          version of the frame: 1
//           5  u8          message type
//           6  u8          codec: 0 stored, 1 Snappy, 2 LZ4 (one block), 3 Zstandard (one frame)
//           7  u8          0
//           8  u32         raw length: of the body, at most kMaxBody
//          12  u32         wire length: of the payload that follows; stored: the raw length, else less
//          16  u32         CRC-32C of bytes 0..15 and the payload
//          20  payload
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"
#include "replicator/wire.h"

namespace somfs::replicator {

inline constexpr std::size_t kFrameHeader = 20;

struct FrameHeader {
  MessageType type = MessageType::bye;
  Codec codec = Codec::stored;
  std::uint32_t raw = 0, wire = 0, crc = 0;
};

// What both kinds of frames do with a body.
struct Packed {
  Codec codec = Codec::stored;   // stored: it did not shrink by a sixteenth, and `bytes` is empty
  std::string bytes;
};
Packed pack(std::string_view body, Codec codec);
// Exactly `raw` bytes come out, or an error.
Result<std::string> unpack(std::string payload, Codec codec, std::size_t raw);
bool known_type(std::uint8_t type);
inline bool known_codec(std::uint8_t codec) { return codec <= static_cast<std::uint8_t>(Codec::zstd); }

std::string encode_frame(MessageType type, std::string_view body, const Packed& packed);   // body at most kMaxBody
inline std::string encode_frame(const Message& m, Codec codec = Codec::snappy) { return encode_frame(m.type, m.body, pack(m.body, codec)); }
// Checks everything that can be checked before the payload is read; nothing may be allocated for it earlier.
Result<FrameHeader> decode_frame_header(std::string_view bytes);
// Whether the payload is the one that was sent.
Status check_frame(std::string_view header_bytes, const FrameHeader& header, std::string_view payload);
Result<Message> decode_frame_body(std::string_view header_bytes, const FrameHeader& header, std::string payload);

// Lets `rate` bytes pass per second, with a burst of a twentieth of a second. The caller brings the time.
class TokenBucket {
 public:
  explicit TokenBucket(std::uint64_t rate) : rate_(rate) {}
  std::size_t piece() const;                                     // how much to write at once so that the pace is even
  std::int64_t wait_ns(std::size_t bytes, std::int64_t now_ns);  // 0: take them now, and they are counted; else ask again after that time

 private:
  std::uint64_t rate_;
  std::int64_t credit_ns_ = 0;   // time earned and not yet spent on bytes
  std::int64_t last_ns_ = -1;
};

}  // namespace somfs::replicator
