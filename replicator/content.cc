// SPDX-License-Identifier: Apache-2.0
// Reading a file's content once, from its beginning to its end.
#include <cryptopp/sha.h>

#include <algorithm>
#include <cstring>

#include "replicator/emit.h"

namespace somfs::replicator {

PieceSource content_of(TreeFile& file, std::atomic<std::uint64_t>* read_bytes, std::uint64_t from, std::uint64_t end) {
  struct At {
    std::uint64_t off = 0;
    Extent data;           // the data at or after `off`, when data_known
    bool data_known = false;
  };
  return [&file, read_bytes, end, at = At{.off = from, .data = {}}](char* to, std::size_t n) mutable -> Result<std::size_t> {
    const std::uint64_t size = std::min(file.attr().size, end);
    n = static_cast<std::size_t>(std::min<std::uint64_t>(n, size - std::min(size, at.off)));
    if (n == 0) return n;
    if (!at.data_known || at.data.end() <= at.off) {
      SOMFS_TRY_ASSIGN(auto next, file.next_data(at.off));
      at.data = next && next->len != 0 ? *next : Extent{size, ~0ull - size};
      at.data_known = true;
    }
    if (at.data.off > at.off) {
      n = static_cast<std::size_t>(std::min<std::uint64_t>(n, at.data.off - at.off));
      std::memset(to, 0, n);
    } else {
      n = static_cast<std::size_t>(std::min<std::uint64_t>(n, at.data.end() - at.off));
      SOMFS_TRY_ASSIGN(std::size_t got, file.read(to, n, at.off));
      if (got == 0) return fail_errno("cannot read", "a file that ended before its size", EIO);
      n = got;
      if (read_bytes != nullptr) *read_bytes += n;
    }
    at.off += n;
    return n;
  };
}

std::uint64_t data_bytes(TreeFile& file) {
  if (file.attr().kind != Kind::file) return 0;
  const std::uint64_t size = file.attr().size;
  std::uint64_t bytes = 0;
  for (std::uint64_t off = 0; off < size;) {
    auto next = file.next_data(off);
    if (!next || !*next || (*next)->len == 0) break;
    off = std::min((*next)->end(), size);
    bytes += off - (*next)->off;
  }
  return bytes;
}

Result<std::string> content_hash(TreeFile& file, std::atomic<std::uint64_t>* read_bytes) {
  CryptoPP::SHA256 hash;
  std::string buffer(256u << 10, '\0');
  PieceSource next = content_of(file, read_bytes);
  while (true) {
    SOMFS_TRY_ASSIGN(std::size_t n, next(buffer.data(), buffer.size()));
    if (n == 0) break;
    hash.Update(reinterpret_cast<const CryptoPP::byte*>(buffer.data()), n);
  }
  std::string digest(32, '\0');
  hash.Final(reinterpret_cast<CryptoPP::byte*>(digest.data()));
  return digest;
}

Result<bool> same_content(TreeFile& file, const Signature& signature, std::atomic<std::uint64_t>* read_bytes) {
  std::string_view rest = signature.bytes();
  bool same = true;
  SOMFS_TRY(make_signature(signature.shape(), content_of(file, read_bytes), [&](std::string_view piece) -> Status {
    same = same && rest.substr(0, piece.size()) == piece;
    rest.remove_prefix(std::min(rest.size(), piece.size()));
    return {};
  }));
  return same && rest.empty();
}

}  // namespace somfs::replicator
