// SPDX-License-Identifier: Apache-2.0
// A peer's signature, searched; a peer's delta, applied to a basis. What it makes is bounded here as the mirror bounds it.
#include <cstring>

#include "replicator/delta.h"
#include "tests/fuzz/fuzz.h"

using namespace somfs;
using namespace somfs::replicator;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string_view bytes = fuzz::view(data, size).substr(1);
  const std::string basis(4096, 'b');
  if (data[0] % 2 == 0) {
    Signature s;
    if (!s.feed(bytes) || !s.finish()) return 0;
    std::string_view content = basis;
    (void)make_delta(s, [&](char* to, std::size_t n) -> Result<std::size_t> {
      n = std::min(n, content.size());
      std::memcpy(to, content.data(), n);
      content.remove_prefix(n);
      return n;
    }, [](std::string_view) -> Status { return {}; });
    return 0;
  }
  std::size_t made = 0;
  PieceSink sink = [&](std::string_view piece) -> Status {
    made += piece.size();
    if (made > (1u << 20)) return fail(Exit::temporary, "it makes more than the file holds");
    return {};
  };
  Patch patch([&](char* to, std::size_t n, std::uint64_t off) -> Result<std::size_t> {
    if (off >= basis.size()) return 0;
    n = std::min<std::uint64_t>(n, basis.size() - off);
    std::memcpy(to, basis.data() + off, n);
    return n;
  });
  const std::size_t half = bytes.size() / 2;
  if (patch.feed(bytes.substr(0, half), sink) && patch.feed(bytes.substr(half), sink)) (void)patch.finish(sink);
  return 0;
}
