// SPDX-License-Identifier: Apache-2.0
// What the fuzzers share: their entry point, and a demand that is never compiled out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace somfs::fuzz {

inline std::string_view view(const std::uint8_t* data, std::size_t size) { return {reinterpret_cast<const char*>(data), size}; }

inline void demand(bool true_always, const char* what) {
  if (true_always) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

}  // namespace somfs::fuzz
