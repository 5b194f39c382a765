// SPDX-License-Identifier: Apache-2.0
// What the fuzzers share: their entry point, and a demand that is never compiled out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/bytes.h"
#include "common/log.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace somfs::fuzz {

inline std::string_view view(const std::uint8_t* data, std::size_t size) { return {reinterpret_cast<const char*>(data), size}; }

inline void demand(bool true_always, const char* what) {
  if (true_always) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

// What the product logs is no finding.
inline void be_quiet() {
  [[maybe_unused]] static const bool once = (log::open("/dev/null", log::Level::error), true);
}

// An input that stands for several files or messages: a byte to say which, a length of two bytes, so many bytes.
template <typename Take>
void each_part(std::string_view input, Take take) {
  ByteReader r(input);
  while (r.left() >= 3) {
    const std::uint8_t which = r.u8();
    const std::uint16_t length = r.u16();
    take(which, std::string(r.raw(length < r.left() ? length : r.left())));
  }
}
inline void put_part(std::string& out, std::uint8_t which, std::string_view bytes) {
  ByteWriter w(out);
  w.u8(which);
  w.u16(static_cast<std::uint16_t>(bytes.size()));
  w.raw(bytes);
}

}  // namespace somfs::fuzz
