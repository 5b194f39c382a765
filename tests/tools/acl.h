// SPDX-License-Identifier: Apache-2.0
// The value of system.posix_acl_access and _default: u32 version 2, then per entry u16 tag, u16 permissions, u32 id, little-endian
// (linux/posix_acl_xattr.h).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "common/bytes.h"

namespace somfs::tools {

namespace acl {
inline constexpr std::uint16_t user_obj = 1, user = 2, group_obj = 4, group = 8, mask = 16, other = 32;
}

struct AclEntry {
  std::uint16_t tag = 0;
  std::uint16_t permissions = 0;
  std::uint32_t id = 0xFFFFFFFF;
};

inline std::string acl_bytes(std::initializer_list<AclEntry> entries) {
  std::string bytes;
  ByteWriter w(bytes);
  w.u32(2);
  for (const AclEntry& e : entries) {
    w.u16(e.tag);
    w.u16(e.permissions);
    w.u32(e.id);
  }
  return bytes;
}

}  // namespace somfs::tools
