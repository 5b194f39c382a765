// SPDX-License-Identifier: Apache-2.0
#include "snapshot/store_log.h"
#include "snapshot/store_seen.h"
#include "tests/fuzz/fuzz.h"

using namespace somfs;
using namespace somfs::snapshot;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view bytes = fuzz::view(data, size);
  Seen seen;
  std::string out;
  LogParse parsed = parse_log(bytes, [&](LogRecord&& record) {
    seen.add(record);
    out += encode(record);
  });
  fuzz::demand(parsed.used <= bytes.size(), "more was used than there is");
  std::size_t again = 0;
  LogParse reparsed = parse_log(out, [&](LogRecord&&) { ++again; });
  fuzz::demand(reparsed.end == LogEnd::clean, "our own records are refused");
  if (auto info = decode_info(bytes)) fuzz::demand(decode_info(encode_info(*info)).has_value(), "our own description is refused");
  (void)decode_dropped(bytes);
  (void)parse_dir_name(bytes);
  (void)parse_kept_name(bytes);
  return 0;
}
