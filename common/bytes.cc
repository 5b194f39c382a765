// SPDX-License-Identifier: Apache-2.0
#include "common/bytes.h"

#include <array>

namespace somfs {
namespace {

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> t{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = (c & 1) != 0 ? 0x82F63B78u ^ (c >> 1) : c >> 1;
    t[i] = c;
  }
  return t;
}
constexpr auto kTable = make_table();

std::uint32_t crc_plain(std::uint32_t c, const unsigned char* p, std::size_t n) {
  while (n-- != 0) c = kTable[(c ^ *p++) & 0xff] ^ (c >> 8);
  return c;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) std::uint32_t crc_sse42(std::uint32_t c, const unsigned char* p, std::size_t n) {
  std::uint64_t c64 = c;
  for (; n >= 8; n -= 8, p += 8) {
    std::uint64_t v;
    std::memcpy(&v, p, 8);
    c64 = __builtin_ia32_crc32di(c64, v);
  }
  c = static_cast<std::uint32_t>(c64);
  while (n-- != 0) c = __builtin_ia32_crc32qi(c, *p++);
  return c;
}
#endif

}  // namespace

std::uint32_t crc32c(std::string_view bytes, std::uint32_t seed) {
  const auto* p = reinterpret_cast<const unsigned char*>(bytes.data());
  std::uint32_t c = ~seed;
#if defined(__x86_64__)
  static const bool fast = __builtin_cpu_supports("sse4.2") != 0;
  if (fast) return ~crc_sse42(c, p, bytes.size());
#endif
  return ~crc_plain(c, p, bytes.size());
}

void put_attr(ByteWriter& w, const Attr& a) {
  w.u8(static_cast<std::uint8_t>(a.kind));
  w.varint(a.mode);
  w.varint(a.uid);
  w.varint(a.gid);
  w.varint(a.rdev);
  w.varint(a.size);
  w.i64(a.mtime.sec);
  w.u32(a.mtime.nsec);
  w.i64(a.ctime.sec);
  w.u32(a.ctime.nsec);
  w.varint(a.nlink);
}

Attr get_attr(ByteReader& r) {
  Attr a;
  std::uint8_t kind = r.u8();
  if (kind == 0 || kind > static_cast<std::uint8_t>(Kind::blk)) r.poison();
  a.kind = static_cast<Kind>(kind);
  a.mode = static_cast<std::uint32_t>(r.bounded(07777));
  a.uid = static_cast<std::uint32_t>(r.bounded(0xffffffffu));
  a.gid = static_cast<std::uint32_t>(r.bounded(0xffffffffu));
  a.rdev = r.varint();
  a.size = r.bounded(0x7fffffffffffffffull);
  a.mtime.sec = r.i64();
  a.mtime.nsec = r.u32();
  a.ctime.sec = r.i64();
  a.ctime.nsec = r.u32();
  a.nlink = static_cast<std::uint32_t>(r.bounded(0xffffffffu));
  if (a.mtime.nsec >= 1000000000u || a.ctime.nsec >= 1000000000u) r.poison();
  return a;
}

void put_handle(ByteWriter& w, const Handle& h) {
  w.u32(static_cast<std::uint32_t>(h.type));
  w.text(h.bytes);
}

Handle get_handle(ByteReader& r) {
  Handle h;
  h.type = static_cast<int>(r.u32());
  h.bytes = std::string(r.text(128));
  return h;
}

void put_xattrs(ByteWriter& w, const Xattrs& x) {
  w.varint(x.size());
  for (const auto& [name, value] : x) {
    w.text(name);
    w.text(value);
  }
}

Xattrs get_xattrs(ByteReader& r) {
  Xattrs x;
  std::uint64_t n = r.bounded(4096);
  for (std::uint64_t i = 0; i < n && r.ok(); ++i) {
    std::string name(r.text(255));
    std::string value(r.text(65536));
    if (name.empty() || name.find('\0') != std::string::npos) r.poison();
    x.emplace_back(std::move(name), std::move(value));
  }
  return x;
}

}  // namespace somfs
