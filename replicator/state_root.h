// SPDX-License-Identifier: Apache-2.0
// The root of a state: one hash over a whole tree as a side read it, for the instant that tree shows. One leaf for each object, in the order
// of an inspection; what a comparison looks at is in it, and nothing else (docs/formats/group.md, "Roots"). Two trees have the same root when
// and only when a comparison of the two finds no difference.
#pragma once

#include <string>

#include "replicator/merkle.h"
#include "replicator/wire.h"

namespace somfs::replicator {

// Not thread-safe.
class StateRoot {
 public:
  // `owned`: false where the mirror cannot keep the owner, nor the bits that only an owner may set: they are left out on both sides.
  void add(const InspectRow& row, bool owned);
  void unreadable() { whole_ = false; }          // something was not read, or not all of it
  std::string root() const { return whole_ ? tree_.root() : std::string(); }   // empty: nothing can be said of it

 private:
  MerkleTree tree_;
  bool whole_ = true;
};

inline std::uint32_t compared_mode(std::uint32_t mode, bool owned) { return mode & (owned ? 07777 : 01777); }

}  // namespace somfs::replicator
