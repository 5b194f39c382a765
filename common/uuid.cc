// SPDX-License-Identifier: Apache-2.0
#include "common/uuid.h"

#include <fcntl.h>
#include <sys/random.h>

#include <cstdlib>
#include <cstring>

#include "common/fd.h"

namespace somfs {

Uuid Uuid::random() {
  Uuid u;
  std::size_t got = 0;
  while (got < u.bytes.size()) {
    ssize_t n = ::getrandom(u.bytes.data() + got, u.bytes.size() - got, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) std::abort();  // a Linux without random numbers cannot name anything safely
    got += static_cast<std::size_t>(n);
  }
  u.bytes[6] = static_cast<std::uint8_t>((u.bytes[6] & 0x0f) | 0x40);
  u.bytes[8] = static_cast<std::uint8_t>((u.bytes[8] & 0x3f) | 0x80);
  return u;
}

std::string Uuid::text() const {
  static const char* hex = "0123456789abcdef";
  std::string s;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) s += '-';
    s += hex[bytes[i] >> 4];
    s += hex[bytes[i] & 15];
  }
  return s;
}

Result<Uuid> Uuid::parse(std::string_view text) {
  Uuid u;
  std::size_t n = 0;
  bool low = false;
  for (char c : text) {
    if (c == '-' && !low) continue;
    int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (v < 0 || n >= u.bytes.size()) return fail(Exit::configuration, "not a UUID", std::string(text));
    if (!low) u.bytes[n] = static_cast<std::uint8_t>(v << 4);
    else u.bytes[n++] |= static_cast<std::uint8_t>(v);
    low = !low;
  }
  if (n != u.bytes.size()) return fail(Exit::configuration, "not a UUID", std::string(text));
  return u;
}

Uuid Uuid::from_raw(std::string_view raw) {
  Uuid u;
  if (raw.size() == u.bytes.size()) std::memcpy(u.bytes.data(), raw.data(), raw.size());
  return u;
}

Uuid boot_id() {
  Fd fd(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  char b[37] = {};
  std::size_t got = 0;
  if (!fd || read_all(fd.get(), b, 36, &got) != 0) return {};
  auto u = Uuid::parse(std::string_view(b, got));
  return u ? *u : Uuid{};
}

}  // namespace somfs
