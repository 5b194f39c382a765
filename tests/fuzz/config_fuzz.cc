// SPDX-License-Identifier: Apache-2.0
#include "cli/config.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto config = somfs::cli::parse_config(std::string(somfs::fuzz::view(data, size)), "somfs.conf");
  if (config) somfs::fuzz::demand(config->reserve_bytes(1ull << 40) <= 1ull << 62, "a reserve beyond all bounds");
  else somfs::fuzz::demand(!config.error().line().empty(), "an error without a line");
  const auto daemon = somfs::cli::parse_mirrord_config(std::string(somfs::fuzz::view(data, size)), "mirrord.conf");
  if (daemon) somfs::fuzz::demand(daemon->connections >= 1 && daemon->handshakes >= 1, "a daemon that takes no callers");
  return 0;
}
