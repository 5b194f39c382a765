// SPDX-License-Identifier: Apache-2.0
// Puts right what guards the bytes of a format (magic, version, checksums), so that a fuzzer reaches what lies behind it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/bytes.h"
#include "snapshot/journal_log.h"

namespace somfs::fuzz {

inline void put32(std::string& bytes, std::size_t at, std::uint32_t v) {
  std::string four;
  ByteWriter(four).u32(v);
  bytes.replace(at, four.size(), four);
}
inline std::uint32_t get32(std::string_view bytes, std::size_t at) { return ByteReader(bytes.substr(at, 4)).u32(); }

// A file that ends with the checksum of everything before.
inline void seal_tail(std::string& bytes) {
  if (bytes.size() >= 4) put32(bytes, bytes.size() - 4, crc32c(std::string_view(bytes).substr(0, bytes.size() - 4)));
}

// Frames of size, checksum and body; a size beyond the end becomes what is left.
inline void seal_frames(std::string& bytes, std::size_t at) {
  while (bytes.size() >= at + 8) {
    const auto length = static_cast<std::uint32_t>(std::min<std::size_t>(get32(bytes, at), bytes.size() - at - 8));
    put32(bytes, at, length);
    put32(bytes, at + 4, crc32c(std::string_view(bytes).substr(at + 8, length)));
    at += 8 + length;
  }
}

// A segment of the journal's log.
inline void seal_segment(std::string& bytes) {
  constexpr std::size_t header = snapshot::Segment::kHeader, least = 25;
  if (bytes.size() < header) return;
  bytes.replace(0, 12, std::string_view("somfslog\x01\0\0\0", 12));
  put32(bytes, 12, crc32c(std::string_view(bytes).substr(16, header - 16)));
  for (std::size_t at = header; at + least <= bytes.size();) {
    std::uint32_t size = get32(bytes, at);
    if (size == 0) return;
    size = static_cast<std::uint32_t>(std::clamp<std::size_t>(size, least, bytes.size() - at));
    put32(bytes, at, size);
    put32(bytes, at + 4, crc32c(std::string_view(bytes).substr(at + 8, size - 8), size));
    at += (size + 7) / 8 * 8;
  }
}

}  // namespace somfs::fuzz
