// SPDX-License-Identifier: Apache-2.0
// The brake on mass removal, judged where the mirror lies. What one epoch removes is not enough to go by: continuous replication cuts a
// long removal into many small ones. So the mirror remembers how many objects it held at most in the last hour.
// Pure: the standard library only; the wall clock is passed in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace somfs::replicator {

class Peaks {
 public:
  static constexpr std::int64_t kWindow = 3600, kPiece = 300;   // seconds

  static Peaks parse(std::string_view text);   // what cannot be read is left out
  std::string text() const;

  void add(std::int64_t now_s, std::uint64_t objects);
  std::uint64_t most(std::int64_t now_s) const;   // in the last hour; 0: nothing is known

 private:
  struct Piece {
    std::int64_t number;     // of the five minutes since 1970
    std::uint64_t objects;
  };
  static bool within(const Piece& piece, std::int64_t now_s);
  std::vector<Piece> pieces_;
};

// Why an epoch is to be held; empty: it is not. `removed`: by this epoch; `before`, `after`: objects held; `most`: in the last hour.
std::string brake(std::uint64_t removed, std::uint64_t before, std::uint64_t after, std::uint64_t most, double share);

}  // namespace somfs::replicator
