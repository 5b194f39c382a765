// SPDX-License-Identifier: Apache-2.0
#include "common/printable.h"

#include <cstdint>

namespace somfs {
namespace {

// The length of the well-formed UTF-8 sequence at the front (RFC 3629), 0 when there is none.
std::size_t utf8_length(std::string_view s) {
  auto b = [&](std::size_t i) { return static_cast<std::uint8_t>(s[i]); };
  auto tail = [&](std::size_t i) { return i < s.size() && (b(i) & 0xC0) == 0x80; };
  std::uint8_t c = b(0);
  if (c < 0x80) return 1;
  if (c >= 0xC2 && c <= 0xDF) return tail(1) ? 2 : 0;
  if (c >= 0xE0 && c <= 0xEF) {
    if (!tail(1) || !tail(2)) return 0;
    if ((c == 0xE0 && b(1) < 0xA0) || (c == 0xED && b(1) > 0x9F)) return 0;
    return 3;
  }
  if (c >= 0xF0 && c <= 0xF4) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if ((c == 0xF0 && b(1) < 0x90) || (c == 0xF4 && b(1) > 0x8F)) return 0;
    return 4;
  }
  return 0;
}

}  // namespace

std::string printable(std::string_view s) {
  static const char* hex = "0123456789abcdef";
  std::string out;
  while (!s.empty()) {
    std::size_t n = utf8_length(s);
    auto c = static_cast<std::uint8_t>(s[0]);
    bool c1 = n == 2 && c == 0xC2 && static_cast<std::uint8_t>(s[1]) < 0xA0;  // the C1 controls
    if (n == 0 || c1 || c < 0x20 || c == 0x7F || c == '\\') {
      out += "\\x";
      out += hex[c >> 4];
      out += hex[c & 15];
      s.remove_prefix(1);
    } else {
      out.append(s.substr(0, n));
      s.remove_prefix(n);
    }
  }
  return out;
}

}  // namespace somfs
