// SPDX-License-Identifier: Apache-2.0
// Finished epochs on disk: pieces, each the dirty set of one epoch, of a run of epochs, or of the part of the running epoch that was
// compacted early (docs/formats/journal.md, "Epoch"). Pieces are written once and read when asked for; merging is a union, so a piece
// that is met twice does no harm. Not thread-safe: the journal guards it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "common/result.h"
#include "snapshot/dirty_set.h"
#include "snapshot/journal.h"

namespace somfs::snapshot {

struct Piece {
  std::uint64_t number = 0;
  std::uint64_t order = 0;                // in time; a merged piece has that of its first part
  std::uint64_t first = 0, last = 0;      // epochs, inclusive
  std::vector<std::uint64_t> replaces;    // pieces it was merged from
};

std::string piece_name(std::uint64_t number);
std::string encode_piece(const Piece& piece, const DirtySet& set);
bool decode_piece(std::string_view bytes, Piece* piece, DirtySet* set);  // false: corrupt

class Epochs {
 public:
  Epochs(int dir_fd, DirtySet::Bounds bounds) : dir_fd_(dir_fd), bounds_(bounds) {}

  // Reads and checks every piece; those replaced by another, or of epochs up to `dropped_up_to`, are removed. Corrupt: an error.
  Status load(const std::vector<std::uint64_t>& numbers, std::uint64_t dropped_up_to);
  std::uint64_t next() const { return next_; }
  void at_least(std::uint64_t next) { next_ = std::max(next_, next); }
  std::uint64_t last_epoch() const;

  // Durable on return.
  Status add(std::uint64_t first, std::uint64_t last, const DirtySet& set);
  // The union of all pieces that touch the epochs (after, up_to].
  Result<DirtySet> collect(std::uint64_t after, std::uint64_t up_to) const;
  // Merges neighbours until there are few. Pieces that a target's acknowledged epoch lies between stay apart while that is
  // affordable, and those of `keep_from` on always do.
  Status merge_some(const std::set<std::uint64_t>& acked, std::uint64_t keep_from);
  void drop(std::uint64_t up_to);
  std::size_t count() const { return pieces_.size(); }

 private:
  Status write(Piece piece, const DirtySet& set);
  Result<DirtySet> read(const Piece& piece) const;
  void remove(std::uint64_t number);
  int dir_fd_;
  DirtySet::Bounds bounds_;
  std::uint64_t next_ = 1;
  std::vector<Piece> pieces_;             // by order
};

}  // namespace somfs::snapshot
