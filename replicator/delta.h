// SPDX-License-Identifier: Apache-2.0
// librsync (rolling weak sums, BLAKE2 strong sums): what of a rewritten file the mirror already has.
// The signature describes the basis in blocks, the delta the new content in copies of the basis and literal bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/result.h"

namespace somfs::replicator {

using PieceSink = std::function<Status(std::string_view)>;
// Fills the buffer with up to n bytes of a content read in order; 0 at its end.
using PieceSource = std::function<Result<std::size_t>(char* to, std::size_t n)>;

inline constexpr std::uint64_t kMinDelta = 64u << 10;      // smaller files travel whole
inline constexpr std::uint64_t kMaxBlocks = 1u << 20;      // in a signature: bounds memory on both sides

// About twice the square root of the size, at least 2 KiB: signature and literals travel both, and the signature is the larger part.
// Beyond 4 TiB as large as kMaxBlocks asks for.
std::uint32_t delta_block(std::uint64_t basis_size);

// Kind of the sums (a magic number of librsync) and their lengths in bytes.
struct SignatureShape {
  std::uint32_t magic = 0, block = 0, strong = 0;
};
SignatureShape signature_shape(std::uint64_t basis_size);   // rollsum and BLAKE2: the quickest to search

// Hands the signature of a content to `out`, in pieces of at most 64 KiB.
Status make_signature(const SignatureShape& shape, const PieceSource& read, const PieceSink& out);
// The same of a content that several threads may read: that of a large one is made by halves, on two.
using RangeSource = std::function<Result<std::size_t>(char* to, std::size_t n, std::uint64_t off)>;
Status make_signature(const SignatureShape& shape, std::uint64_t size, const RangeSource& read, const PieceSink& out);

class Signature;
// Writes the delta of what `read` gives against the signature. False: given up, because too little matched; nothing was handed out then.
// Until that is decided at most kGiveUpAfter bytes are kept.
inline constexpr std::size_t kGiveUpAfter = 16u << 20;
Result<bool> make_delta(Signature& signature, const PieceSource& read, const PieceSink& out);
// The same of a content given as two parts, `back` being read and compared by a thread of its own; `front`, not empty, decides. At most
// kGiveUpAfter bytes of the second part's delta wait for the end of the first.
Result<bool> make_delta(Signature& signature, const PieceSource& front, const PieceSource& back, const PieceSink& out);
inline constexpr std::uint64_t kTwoThreads = 8u << 20;     // from this size on two are worth it

// A signature from the peer, bounded while it arrives. One whose weak sums collide so often that a search would crawl is refused.
class Signature {
 public:
  Signature();
  ~Signature();
  Signature(Signature&&) noexcept;
  Signature& operator=(Signature&&) noexcept;
  Status feed(std::string_view piece);
  Status finish();                         // after the last piece
  const std::string& bytes() const;        // as it came: equal bytes mean equal contents
  SignatureShape shape() const;

 private:
  friend Result<bool> make_delta(Signature&, const PieceSource&, const PieceSink&);
  friend Result<bool> make_delta(Signature&, const PieceSource&, const PieceSource&, const PieceSink&);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Applies a delta that arrives in pieces: basis(to, n, off) reads the old content.
class Patch {
 public:
  using Basis = std::function<Result<std::size_t>(char* to, std::size_t n, std::uint64_t off)>;
  explicit Patch(Basis basis);
  ~Patch();
  Status feed(std::string_view piece, const PieceSink& out);
  Status finish(const PieceSink& out);     // the delta must be complete

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace somfs::replicator
