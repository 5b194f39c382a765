// SPDX-License-Identifier: Apache-2.0
// The Merkle tree of RFC 6962, section 2.1, over SHA-256: a leaf is SHA-256(0x00 || bytes), a node SHA-256(0x01 || left || right); of n
// leaves the left half has the largest power of two less than n; of none the root is SHA-256 of nothing. Hashes are strings of 32 bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace somfs::replicator {

inline constexpr std::size_t kHash = 32;

std::string leaf_hash(std::string_view bytes);

// Fed leaf by leaf; keeps one hash for each level. Not thread-safe.
class MerkleTree {
 public:
  void add(std::string leaf);                    // of leaf_hash()
  std::string root() const;                      // of what was added so far
  std::uint64_t leaves() const { return leaves_; }

 private:
  std::uint64_t leaves_ = 0;                     // a set bit is a full subtree of so many leaves, on the stack, the largest first
  std::vector<std::string> full_;
};

}  // namespace somfs::replicator
