// SPDX-License-Identifier: Apache-2.0
// What is replicated: objects and their attributes. Portable core: the C++ standard library alone.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace somfs {

// A file, directory or other inode of one volume. `birth` is its birth time in nanoseconds since 1970 where the file
// system tells it, else its generation number: with it a reused inode number is another object. A volume lies on one
// device, so the device is not part of the key. {0,0} is no object.
struct ObjectId {
  std::uint64_t ino = 0;
  std::uint64_t birth = 0;

  auto operator<=>(const ObjectId&) const = default;
  explicit operator bool() const { return ino != 0; }
};

enum class Kind : std::uint8_t { none = 0, file = 1, dir = 2, symlink = 3, fifo = 4, socket = 5, chr = 6, blk = 7 };

struct Time {
  std::int64_t sec = 0;
  std::uint32_t nsec = 0;
  auto operator<=>(const Time&) const = default;
};

// The replicated attributes, plus those that only the source's own bookkeeping uses (ctime, nlink).
struct Attr {
  Kind kind = Kind::none;
  std::uint32_t mode = 0;  // permission bits with set-id and sticky: 07777
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint64_t rdev = 0;  // chr and blk
  std::uint64_t size = 0;  // files: bytes; symlinks: target length; else 0
  Time mtime;
  Time ctime;              // never applied: how a gap scan knows a change
  std::uint32_t nlink = 0; // as an application should see it: somfs's own links not counted
  auto operator<=>(const Attr&) const = default;
};

// Extended attributes, POSIX ACLs among them (system.posix_acl_*), sorted by name.
using Xattrs = std::vector<std::pair<std::string, std::string>>;

// A kernel file handle (name_to_handle_at): how an object is opened again without a path. Empty where there is none.
struct Handle {
  int type = 0;
  std::string bytes;
  bool empty() const { return bytes.empty(); }
  bool operator==(const Handle&) const = default;
};

struct Extent {
  std::uint64_t off = 0;
  std::uint64_t len = 0;
  std::uint64_t end() const { return off + len; }
  auto operator<=>(const Extent&) const = default;
};

inline constexpr std::size_t kMaxName = 255;

// A single path component that may be handed to *at() calls: not empty, not "." or "..", no '/', no NUL, at most 255 bytes.
bool valid_name(std::string_view name);

}  // namespace somfs

template <>
struct std::hash<somfs::ObjectId> {
  std::size_t operator()(const somfs::ObjectId& id) const noexcept {
    std::uint64_t h = id.ino * 0x9E3779B97F4A7C15ull ^ (id.birth + 0x7F4A7C15ull) * 0xC2B2AE3D27D4EB4Full;
    return static_cast<std::size_t>(h ^ h >> 29);
  }
};
