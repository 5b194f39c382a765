// SPDX-License-Identifier: Apache-2.0
// What a journal's directory may hold after a crash or bit rot: segments, bodies of records, the state, pieces. As it came, and once
// more with its checksums made right.
#include "snapshot/journal_epochs.h"
#include "snapshot/journal_log.h"
#include "snapshot/journal_state.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seal.h"

using namespace somfs;
using namespace somfs::snapshot;

namespace {

void bodies(std::string_view body, DirtySet* set) {
  MarkBody mark;
  if (decode_mark(body, &mark)) set->mark(mark.object, &mark.handle, mark.subtree);
  ChangeBody change;
  if (!decode_change(body, &change)) return;
  set->add(change.get());
  std::string out;
  encode_change(out, change.get());
  fuzz::demand(decode_change(out, &change), "our own change is refused");
}

void segment(std::string_view bytes) {
  DirtySet set;
  scan_segment(bytes, [&](const SegmentHeader&, const ScannedRecord& r) {
    bodies(r.body, &set);
    return true;
  });
}

void files(std::string_view bytes) {
  JournalState state, again;
  if (JournalState::decode(bytes, &state)) fuzz::demand(JournalState::decode(state.encode(), &again), "our own state is refused");
  Piece piece, piece_again;
  DirtySet set, set_again;
  if (!decode_piece(bytes, &piece, &set)) return;
  fuzz::demand(decode_piece(encode_piece(piece, set), &piece_again, &set_again) && set_again == set, "our own piece is refused");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes = fuzz::view(data, size);
  DirtySet set;
  bodies(bytes, &set);
  segment(bytes);
  files(bytes);
  std::string sealed(bytes);
  fuzz::seal_segment(sealed);
  segment(sealed);
  sealed = bytes;
  fuzz::seal_tail(sealed);
  files(sealed);
  return 0;
}
