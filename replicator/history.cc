// SPDX-License-Identifier: Apache-2.0
#include "replicator/history.h"

#include "common/bytes.h"

namespace somfs::replicator {

EpochRoot::EpochRoot(const Uuid& volume, const Begin& begin) : head_(1, '\x02') {
  ByteWriter w(head_);
  w.raw(begin.previous.empty() ? std::string(kHash, '\0') : begin.previous);
  w.raw(volume.raw());
  w.u64(begin.epoch);
  add(encode(begin));
}

std::string EpochRoot::root() const {
  std::string all = head_;
  ByteWriter w(all);
  w.u64(tree_.leaves());
  w.raw(tree_.root());
  return sha256(all);
}

Agreement compare_history(const Welcome& mirror, const Uuid& generation, std::uint64_t epoch, std::string_view root) {
  // Another generation is compared anyway; a mirror that says it holds nothing has nothing to be wrong about.
  if (mirror.generation != generation || mirror.epoch == 0 || epoch == 0) return Agreement::unknown;
  if (mirror.epoch < epoch) return Agreement::differs;
  if (mirror.epoch > epoch || root.empty()) return Agreement::unknown;
  // It has no root where it had one: its state is older than the acknowledgement.
  return mirror.root == root ? Agreement::agrees : Agreement::differs;
}

}  // namespace somfs::replicator
