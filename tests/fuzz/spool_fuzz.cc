// SPDX-License-Identifier: Apache-2.0
// An epoch kept for the next mirror after a crash or bit rot. As it came, and once more with its checksums made right; both ways of reading agree
// on whether it is whole, and a spool that finds it among its own neither fails nor takes it for what leads to where the mirror stands.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "replicator/spool.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seal.h"
#include "tests/unit/snapshot/scratch.h"

using namespace somfs;
using namespace somfs::replicator;

namespace {

constexpr const char* kFile = "forward/00000000000000000001";

Result<SpoolReader> opened(int dir) { return SpoolReader::open(Fd(::openat(dir, kFile, O_RDONLY | O_CLOEXEC))); }

void read(int dir, const std::string& bytes) {
  {
    Fd file(::openat(dir, kFile, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    fuzz::demand(write_all(file.get(), bytes) == 0, "no room");
  }
  auto reader = opened(dir);
  if (!reader) return;
  bool whole = false;
  for (;;) {
    auto batch = reader->next();
    if (!batch) break;
    if (*batch) continue;
    whole = true;
    break;
  }
  auto again = opened(dir);
  fuzz::demand(again.has_value(), "opened once and not again");
  std::size_t ids = 0;
  const Status touched = again->touched([&](const ObjectId&) { ++ids; });
  if (whole) fuzz::demand(touched.has_value(), "whole, but not what it touched");
  Spool spool(Spool::kDefaultBound);
  spool.enlist();
  Standing here;
  here.mirror = here.volume = here.at.generation = Uuid::from_raw("0123456789abcdef");
  here.at.epoch = 7;
  spool.align(dir, here, 0);
  const auto link = spool.after(reader->head().from);
  if (link) fuzz::demand(link->to == here.at, "a link to somewhere else");
  snapshot::DirtySet set;
  (void)spool.touched(reader->head().from, &set);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::be_quiet();
  static snapshot::test::Scratch scratch;
  (void)::mkdirat(scratch.fd(), "forward", 0700);
  std::string bytes(fuzz::view(data, size));
  read(scratch.fd(), bytes);
  if (bytes.size() < 8) return 0;
  bytes.replace(0, 8, "somfsfw1");
  fuzz::seal_frames(bytes, 8);
  read(scratch.fd(), bytes);
  return 0;
}
