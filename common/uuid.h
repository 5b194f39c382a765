// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace somfs {

// 128 random bits (RFC 9562, version 4): volumes, lineages and generations are named by them.
struct Uuid {
  std::array<std::uint8_t, 16> bytes{};
  auto operator<=>(const Uuid&) const = default;
  explicit operator bool() const { return *this != Uuid{}; }
  std::string text() const;               // 8-4-4-4-12, lower case
  std::string_view raw() const { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
  static Uuid random();
  static Result<Uuid> parse(std::string_view text);
  static Uuid from_raw(std::string_view raw);  // 16 bytes, else the nil UUID
};

// The kernel's boot id (/proc/sys/kernel/random/boot_id); the nil UUID where it cannot be read.
Uuid boot_id();

}  // namespace somfs
