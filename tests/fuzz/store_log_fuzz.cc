// SPDX-License-Identifier: Apache-2.0
// A snapshot's log, its description, the list of dropped ones, names in the store's directory. As they came, and once more with their
// checksums made right.
#include "snapshot/store_log.h"
#include "snapshot/store_seen.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seal.h"

using namespace somfs;
using namespace somfs::snapshot;

namespace {

void records(std::string_view bytes) {
  Seen seen, merged;
  std::string out;
  LogParse parsed = parse_log(bytes, [&](LogRecord&& record) {
    seen.add(record);
    out += encode(record);
  });
  merged.merge(seen);
  fuzz::demand(parsed.used <= bytes.size(), "more was used than there is");
  LogParse again = parse_log(out, [](LogRecord&&) {});
  fuzz::demand(again.end == LogEnd::clean, "our own records are refused");
}

void files(std::string_view bytes) {
  if (auto info = decode_info(bytes)) fuzz::demand(decode_info(encode_info(*info)).has_value(), "our own description is refused");
  auto dropped = decode_dropped(bytes);
  fuzz::demand(decode_dropped(encode_dropped(dropped)).size() == dropped.size(), "our own list is refused");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes = fuzz::view(data, size);
  records(bytes);
  files(bytes);
  if (auto entry = parse_dir_name(bytes)) fuzz::demand(parse_dir_name(dir_name(*entry)).has_value(), "our own name is refused");
  if (auto id = parse_kept_name(bytes)) fuzz::demand(parse_kept_name(kept_name(*id)) == id, "our own link is refused");
  std::string sealed(bytes);
  fuzz::seal_frames(sealed, 0);
  records(sealed);
  sealed = bytes;
  fuzz::seal_tail(sealed);
  files(sealed);
  return 0;
}
