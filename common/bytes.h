// SPDX-License-Identifier: Apache-2.0
// Little-endian byte strings: a writer that appends and a reader that cannot read past its end.
// Portable core: the C++ standard library alone. Every format of somfs (docs/formats.md) is built from these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "common/object.h"

namespace somfs {

class ByteWriter {
 public:
  explicit ByteWriter(std::string& out) : out_(out) {}

  void u8(std::uint8_t v) { out_.push_back(static_cast<char>(v)); }
  void u16(std::uint16_t v) { fixed(v); }
  void u32(std::uint32_t v) { fixed(v); }
  void u64(std::uint64_t v) { fixed(v); }
  void i64(std::int64_t v) { fixed(static_cast<std::uint64_t>(v)); }
  void varint(std::uint64_t v) {  // LEB128, at most ten bytes
    while (v >= 0x80) {
      u8(static_cast<std::uint8_t>(v) | 0x80);
      v >>= 7;
    }
    u8(static_cast<std::uint8_t>(v));
  }
  void raw(std::string_view bytes) { out_.append(bytes); }
  void text(std::string_view bytes) {  // varint length, bytes
    varint(bytes.size());
    raw(bytes);
  }
  void id(const ObjectId& id) {
    u64(id.ino);
    u64(id.birth);
  }
  std::size_t size() const { return out_.size(); }

 private:
  template <typename T>
  void fixed(T v) {
    char b[sizeof v];
    for (std::size_t i = 0; i < sizeof v; ++i) b[i] = static_cast<char>(v >> (8 * i));
    out_.append(b, sizeof v);
  }
  std::string& out_;
};

// After any failed read, ok() is false for good and every further read gives zeroes and empty strings: check once, at the end,
// before believing anything.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : rest_(bytes) {}
  explicit ByteReader(std::span<const std::byte> bytes)
      : rest_(reinterpret_cast<const char*>(bytes.data()), bytes.size()) {}

  bool ok() const { return ok_; }
  bool at_end() const { return ok_ && rest_.empty(); }
  std::size_t left() const { return rest_.size(); }
  void poison() {
    ok_ = false;
    rest_ = {};
  }

  std::uint8_t u8() { return fixed<std::uint8_t>(); }
  std::uint16_t u16() { return fixed<std::uint16_t>(); }
  std::uint32_t u32() { return fixed<std::uint32_t>(); }
  std::uint64_t u64() { return fixed<std::uint64_t>(); }
  std::int64_t i64() { return static_cast<std::int64_t>(u64()); }
  std::uint64_t varint() {
    std::uint64_t v = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
      std::uint8_t b = u8();
      if (!ok_ || (shift == 63 && b > 1)) break;
      v |= static_cast<std::uint64_t>(b & 0x7f) << shift;
      if ((b & 0x80) == 0) return v;
    }
    poison();
    return 0;
  }
  // A varint that must not exceed `most`: lengths and counts are bounded before anything is allocated.
  std::uint64_t bounded(std::uint64_t most) {
    std::uint64_t v = varint();
    if (v > most) {
      poison();
      return 0;
    }
    return v;
  }
  std::string_view raw(std::size_t n) {
    if (!ok_ || n > rest_.size()) {
      poison();
      return {};
    }
    std::string_view r = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return r;
  }
  std::string_view text(std::size_t most) { return raw(bounded(most)); }
  ObjectId id() {
    ObjectId i;
    i.ino = u64();
    i.birth = u64();
    return i;
  }

 private:
  template <typename T>
  T fixed() {
    std::string_view b = raw(sizeof(T));
    T v = 0;
    for (std::size_t i = 0; i < b.size(); ++i)
      v = static_cast<T>(v | static_cast<T>(static_cast<T>(static_cast<unsigned char>(b[i])) << (8 * i)));
    return v;
  }
  std::string_view rest_;
  bool ok_ = true;
};

// CRC-32C (Castagnoli, RFC 3720 appendix B.4), hardware-assisted where the processor has it.
std::uint32_t crc32c(std::string_view bytes, std::uint32_t seed = 0);

void put_attr(ByteWriter& w, const Attr& a);
Attr get_attr(ByteReader& r);
void put_handle(ByteWriter& w, const Handle& h);
Handle get_handle(ByteReader& r);  // at most 128 bytes, as the kernel's MAX_HANDLE_SZ
void put_xattrs(ByteWriter& w, const Xattrs& x);
Xattrs get_xattrs(ByteReader& r);  // at most 4096 names of 255 bytes, values of 64 KiB (the kernel's XATTR_SIZE_MAX)

}  // namespace somfs
