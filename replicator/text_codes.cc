// SPDX-License-Identifier: Apache-2.0
#include "replicator/text_codes.h"

#include <cstdint>

#include "replicator/crypto.h"
#include "replicator/wire.h"

namespace somfs::replicator {
namespace {

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::string_view kBase32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
constexpr std::string_view kHex = "0123456789abcdef";
constexpr std::size_t kBytes = 32, kChecksum = 4, kCharacters = (kBytes + kChecksum) * 4 / 3;

std::string checksum(std::string_view prefix, std::string_view bytes) {
  std::string all(prefix);
  all.reserve(prefix.size() + bytes.size());
  all += bytes;
  std::string digest = sha256(all);
  wipe(all);
  digest.resize(kChecksum);
  return digest;
}

}  // namespace

std::string coded_text(std::string_view prefix, std::string_view bytes32) {
  std::string bytes;
  bytes.reserve(kBytes + kChecksum);
  bytes.append(bytes32).append(checksum(prefix, bytes32));
  std::string out;
  out.reserve(prefix.size() + kCharacters);
  out += prefix;
  for (std::size_t i = 0; i + 3 <= bytes.size(); i += 3) {
    std::uint32_t v = 0;
    for (std::size_t k = 0; k < 3; ++k) v = v << 8 | static_cast<std::uint8_t>(bytes[i + k]);
    for (unsigned shift : {18u, 12u, 6u, 0u}) out += kBase64[v >> shift & 63];
  }
  wipe(bytes);
  return out;
}

bool read_coded_text(std::string_view prefix, std::string_view text, std::string& bytes32) {
  bytes32.clear();
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  if (text.size() != kCharacters) return false;
  bytes32.reserve(kBytes + kChecksum);
  for (std::size_t i = 0; i < text.size(); i += 4) {
    std::uint32_t v = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      const std::size_t digit = kBase64.find(text[i + k]);
      if (digit == std::string_view::npos) return wipe(bytes32), false;
      v = v << 6 | static_cast<std::uint32_t>(digit);
    }
    for (unsigned shift : {16u, 8u, 0u}) bytes32 += static_cast<char>(v >> shift & 0xff);
  }
  const std::string_view all = bytes32;
  if (!equal_bytes(checksum(prefix, all.substr(0, kBytes)), all.substr(kBytes))) return wipe(bytes32), false;
  bytes32.resize(kBytes);
  return true;
}

std::string base32(std::string_view bytes, std::size_t characters) {
  std::string out;
  std::uint32_t bits = 0;
  unsigned held = 0;
  for (char c : bytes) {
    bits = bits << 8 | static_cast<std::uint8_t>(c);
    for (held += 8; held >= 5 && out.size() < characters; held -= 5) out += kBase32[bits >> (held - 5) & 31];
  }
  return out;
}

std::string hex(std::string_view bytes) {
  std::string out;
  for (char c : bytes) {
    out += kHex[static_cast<std::uint8_t>(c) >> 4];
    out += kHex[static_cast<std::uint8_t>(c) & 15];
  }
  return out;
}

std::optional<std::string> from_hex(std::string_view text) {
  std::string out;
  if (text.size() % 2 != 0) return std::nullopt;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const std::size_t high = kHex.find(text[i]), low = kHex.find(text[i + 1]);
    if (high == std::string_view::npos || low == std::string_view::npos) return std::nullopt;
    out += static_cast<char>(high << 4 | low);
  }
  return out;
}

}  // namespace somfs::replicator
