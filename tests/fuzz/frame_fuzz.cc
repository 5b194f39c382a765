// SPDX-License-Identifier: Apache-2.0
// A frame from the wire: as it came, and once more with its checksum made right, so that what lies behind it is reached.
#include "common/bytes.h"
#include "replicator/frame.h"
#include "tests/fuzz/fuzz.h"

using namespace somfs;

namespace {

void decode(std::string bytes) {
  auto header = replicator::decode_frame_header(bytes);
  if (!header) return;
  fuzz::demand(header->raw <= replicator::kMaxBody && header->wire <= replicator::kMaxBody, "a header beyond the bounds passed");
  std::string payload = bytes.substr(replicator::kFrameHeader);
  if (payload.size() != header->wire) return;
  auto message = replicator::decode_frame_body(std::string_view(bytes).substr(0, replicator::kFrameHeader), *header, payload);
  if (!message) return;
  fuzz::demand(message->body.size() == header->raw, "a body is not as long as its header says");
  auto again = replicator::encode_frame(*message);
  fuzz::demand(replicator::decode_frame_header(again).has_value(), "our own frame is refused");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string bytes(fuzz::view(data, size));
  decode(bytes);
  if (bytes.size() < replicator::kFrameHeader) return 0;
  bytes.replace(0, 5, std::string("somf\x01"));
  auto put = [&](std::size_t at, std::uint32_t v) {
    std::string four;
    ByteWriter(four).u32(v);
    bytes.replace(at, 4, four);
  };
  const std::size_t payload = bytes.size() - replicator::kFrameHeader;
  put(12, static_cast<std::uint32_t>(payload));
  if (bytes[6] == 0) put(8, static_cast<std::uint32_t>(payload));
  put(16, crc32c(std::string_view(bytes).substr(replicator::kFrameHeader), crc32c(std::string_view(bytes).substr(0, 16))));
  decode(bytes);
  return 0;
}
