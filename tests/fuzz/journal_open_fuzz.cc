// SPDX-License-Identifier: Apache-2.0
// A whole journal directory: parts of the input become its files. Whatever lies there, the journal opens, records, and opens again as
// one that was closed.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

#include "snapshot/journal.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seal.h"
#include "tests/unit/snapshot/scratch.h"

using namespace somfs;
using namespace somfs::snapshot;

namespace {

// Parts are files; 128: as it came, not sealed.
void lay_out(int dir, std::string_view input) {
  constexpr const char* names[] = {"state", "log-1", "log-2", "epoch-1", "epoch-2"};
  fuzz::each_part(input, [&](std::uint8_t which, std::string bytes) {
    const std::size_t file = which % 5;
    if ((which & 128) == 0) {
      if (file == 1 || file == 2) fuzz::seal_segment(bytes);
      else fuzz::seal_tail(bytes);
    }
    Fd fd(::openat(dir, names[file], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    fuzz::demand(write_all(fd.get(), bytes) == 0, "no room");
  });
}

void use(Journal& j) {
  const std::uint64_t ended = j.rotate();
  Change c;
  c.what = ChangeKind::attr;
  c.object = {77, 7};
  j.accept(c, {});
  (void)j.dirty_since(0, ended);
  (void)j.known_since(0, ended);
  for (const TargetState& t : j.targets()) {
    (void)j.dirty_since(t.acked_epoch, ended);
    (void)j.acknowledge(t.target, t.mirror, ended);
  }
  fuzz::demand(j.flush().has_value(), "it cannot be flushed");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::be_quiet();
  static snapshot::test::Scratch scratch;
  for (const auto& e : std::filesystem::directory_iterator(scratch.path())) std::filesystem::remove_all(e);
  lay_out(scratch.fd(), fuzz::view(data, size));
  const FakeClock clock;
  Journal::Options options;
  options.segment_bytes = 4096;
  options.boot = Uuid::from_raw("bootbootbootboot");
  options.start_flusher = false;
  {
    auto j = Journal::open(scratch.fd(), "fs", clock, options);
    fuzz::demand(j.has_value(), "it does not open");
    use(**j);
    fuzz::demand((*j)->close().has_value(), "it cannot be closed");
  }
  auto j = Journal::open(scratch.fd(), "fs", clock, options);
  fuzz::demand(j.has_value() && (*j)->gap_found() == Gap::unmounted, "it was closed, and is not whole");
  return 0;
}
