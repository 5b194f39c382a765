// SPDX-License-Identifier: Apache-2.0
// The root of a history: one hash for every epoch that landed, computed by the source from what it sends and by the mirror from what it
// received, each for itself (docs/formats/group.md, "Roots"). An epoch's root covers the root before it, so two sides that have the same
// root have the same groups behind them, in the same order, down to the epoch where the chain began.
//
//   root = SHA-256(0x02 || root before, or 32 zeroes || volume:16 || epoch:u64 || leaves:u64 || Merkle root of the leaves)
//   leaves: the body of `begin`, then the body of each `records`, as they were sent (replicator/merkle.h)
#pragma once

#include <string>
#include <string_view>

#include "common/uuid.h"
#include "replicator/merkle.h"
#include "replicator/wire.h"

namespace somfs::replicator {

// Of one group. Not thread-safe.
class EpochRoot {
 public:
  EpochRoot(const Uuid& volume, const Begin& begin);
  void add(std::string_view records) { add_leaf(leaf_hash(records)); }
  void add_leaf(std::string leaf) { tree_.add(std::move(leaf)); }   // of a batch hashed elsewhere
  std::string root() const;

 private:
  std::string head_;                             // all before `leaves`
  MerkleTree tree_;
};

// What this side kept of the mirror's history, beside what the mirror says.
enum class Agreement : std::uint8_t {
  unknown,    // one of the two has nothing to compare
  agrees,
  differs,    // the mirror is not what it acknowledged
};
// `epoch`, `root`: the last epoch that this side knows to be acknowledged, and its root; empty where it was not kept.
Agreement compare_history(const Welcome& mirror, const Uuid& generation, std::uint64_t epoch, std::string_view root);

}  // namespace somfs::replicator
