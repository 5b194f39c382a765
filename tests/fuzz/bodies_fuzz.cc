// SPDX-License-Identifier: Apache-2.0
// Every body a peer sends. The first byte chooses; what decodes must encode to something that decodes again.
#include "common/bytes.h"
#include "replicator/group.h"
#include "replicator/mirror.h"
#include "replicator/wire.h"
#include "tests/fuzz/fuzz.h"

using namespace somfs;
using namespace somfs::replicator;

namespace {

template <typename Body>
void round(std::string_view bytes) {
  Body body, again;
  if (decode(bytes, &body)) fuzz::demand(decode(encode(body), &again), "our own body is refused");
}

void records(std::string_view bytes) {
  RecordReader reader(bytes);
  Record r;
  std::string out;
  RecordWriter w(out);
  while (reader.next(&r)) {
    switch (r.type) {
      case RecordType::object: w.object(r.object); break;
      case RecordType::data: w.data(r.off, r.bytes); break;
      case RecordType::hole: w.hole(r.off, r.len); break;
      case RecordType::delta: w.delta(r.bytes); break;
      case RecordType::reuse: w.reuse(r.bytes); break;
      case RecordType::name: w.name(r.name); break;
    }
  }
  RecordReader again(out);
  while (again.next(&r)) {}
  fuzz::demand(again.ok(), "our own records are refused");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string_view bytes = fuzz::view(data, size).substr(1);
  switch (data[0] % 10) {
    case 0: {   // another protocol's hello is believed in nothing but its number
      Hello h, again;
      if (decode(bytes, &h) && h.protocol == kProtocol) fuzz::demand(decode(encode(h), &again), "our own hello is refused");
      break;
    }
    case 1: {
      Welcome w, again;
      if (decode(bytes, &w) && w.protocol == kProtocol) fuzz::demand(decode(encode(w), &again), "our own welcome is refused");
      break;
    }
    case 2: round<Begin>(bytes); break;
    case 3: round<Committed>(bytes); break;
    case 4: {
      std::vector<ListRow> rows, again;
      ObjectId dir;
      if (decode(bytes, &rows, &dir)) fuzz::demand(decode(encode(rows, dir), &again, &dir), "our own listing is refused");
      break;
    }
    case 5: round<std::vector<InspectRow>>(bytes); break;
    case 6: round<ErrorBody>(bytes); break;
    case 7: round<std::vector<StagedRow>>(bytes); break;
    case 8: records(bytes); break;
    case 9: round<Applied>(bytes); break;
  }
  return 0;
}
