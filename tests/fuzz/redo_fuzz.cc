// SPDX-License-Identifier: Apache-2.0
// A mirror's redo list after a crash or bit rot. As it came, and once more with its checksums made right; what is read whole is
// written again, and reads the same.
#include <fcntl.h>

#include <optional>

#include "replicator/mirror_journal.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seal.h"
#include "tests/unit/snapshot/scratch.h"

using namespace somfs;
using namespace somfs::replicator;

namespace {

void put(int dir, const std::string& bytes) {
  Fd file(::openat(dir, "redo", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  fuzz::demand(write_all(file.get(), bytes) == 0, "no room");
}

void read(int dir, const std::string& bytes) {
  put(dir, bytes);
  RedoHead head;
  std::size_t some = 0, all = 0, again = 0;
  fuzz::demand(read_redo(dir, "redo", false, &head, [&](const RedoOp&) { return ++some, Status(); }).has_value(), "a beginning is refused");
  auto copy = RedoWriter::create(dir, "copy", head);
  fuzz::demand(copy.has_value(), "no copy");
  Status whole = read_redo(dir, "redo", true, &head, [&](const RedoOp& op) {
    ++all;
    return copy->add(op);
  });
  fuzz::demand(all <= some, "a whole list holds more than its beginning");
  if (!whole) return;
  fuzz::demand(copy->finish().has_value(), "a copy is refused");
  Status read_again = read_redo(dir, "copy", true, &head, [&](const RedoOp&) { return ++again, Status(); });
  fuzz::demand(read_again.has_value() && again == all, "our own list is refused");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static snapshot::test::Scratch scratch;
  std::string bytes(fuzz::view(data, size));
  read(scratch.fd(), bytes);
  if (bytes.size() < 8) return 0;
  bytes.replace(0, 8, "somfsrd1");
  fuzz::seal_frames(bytes, 8);
  read(scratch.fd(), bytes);
  return 0;
}
