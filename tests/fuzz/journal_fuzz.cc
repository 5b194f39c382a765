// SPDX-License-Identifier: Apache-2.0
// What a journal's directory may hold after a crash or bit rot: segments, bodies of records, the state, pieces.
#include "snapshot/journal_epochs.h"
#include "snapshot/journal_log.h"
#include "snapshot/journal_state.h"
#include "tests/fuzz/fuzz.h"

using namespace somfs;
using namespace somfs::snapshot;

namespace {

void bodies(std::string_view body, DirtySet* set) {
  MarkBody mark;
  if (decode_mark(body, &mark)) set->mark(mark.object, &mark.handle, mark.subtree);
  ChangeBody change;
  if (decode_change(body, &change)) set->add(change.get());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view bytes = fuzz::view(data, size);
  DirtySet set;
  scan_segment(bytes, [&](const SegmentHeader&, const ScannedRecord& r) {
    bodies(r.body, &set);
    return true;
  });
  bodies(bytes, &set);
  JournalState state, again;
  if (JournalState::decode(bytes, &state)) fuzz::demand(JournalState::decode(state.encode(), &again), "our own state is refused");
  Piece piece;
  DirtySet of_piece;
  (void)decode_piece(bytes, &piece, &of_piece);
  return 0;
}
