// SPDX-License-Identifier: Apache-2.0
#include "replicator/merkle.h"

#include <cryptopp/sha.h>

#include <algorithm>
#include <utility>

namespace somfs::replicator {
namespace {

void feed(CryptoPP::SHA256& hash, std::string_view bytes) { hash.Update(reinterpret_cast<const CryptoPP::byte*>(bytes.data()), bytes.size()); }

std::string finish(CryptoPP::SHA256& hash) {
  std::string out(kHash, '\0');
  hash.Final(reinterpret_cast<CryptoPP::byte*>(out.data()));
  return out;
}

std::string node_hash(std::string_view left, std::string_view right) {
  CryptoPP::SHA256 hash;
  feed(hash, {"\x01", 1});
  feed(hash, left);
  feed(hash, right);
  return finish(hash);
}

}  // namespace

// The byte before them leaves the bytes where no word begins, and such Crypto++ takes one block at a time: they go by an aligned place.
std::string leaf_hash(std::string_view bytes) {
  constexpr std::size_t kBlock = CryptoPP::SHA256::BLOCKSIZE;
  alignas(kBlock) char place[256 * kBlock];
  CryptoPP::SHA256 hash;
  place[0] = '\0';
  std::size_t used = 1;
  do {
    const std::size_t n = std::min(sizeof place - used, bytes.size());
    std::copy_n(bytes.data(), n, place + used);
    feed(hash, {place, used + n});
    bytes.remove_prefix(n);
    used = 0;
  } while (!bytes.empty());
  return finish(hash);
}

void MerkleTree::add(std::string leaf) {
  for (std::uint64_t n = leaves_++; (n & 1) != 0; n >>= 1) {
    leaf = node_hash(full_.back(), leaf);
    full_.pop_back();
  }
  full_.push_back(std::move(leaf));
}

std::string MerkleTree::root() const {
  if (full_.empty()) {
    CryptoPP::SHA256 nothing;
    return finish(nothing);
  }
  std::string root = full_.back();
  for (auto left = full_.rbegin() + 1; left != full_.rend(); ++left) root = node_hash(*left, root);
  return root;
}

}  // namespace somfs::replicator
