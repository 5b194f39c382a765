// SPDX-License-Identifier: Apache-2.0
#include "snapshot/dirty_set.h"
#include "tests/fuzz/fuzz.h"

using namespace somfs;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  snapshot::DirtySet set, again, merged;
  if (!snapshot::DirtySet::decode(fuzz::view(data, size), &set)) return 0;
  fuzz::demand(snapshot::DirtySet::decode(set.encode(), &again) && again == set, "a set is not what it was");
  merged.merge(set);
  merged.suspect_all();
  return 0;
}
