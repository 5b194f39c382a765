// SPDX-License-Identifier: Apache-2.0
#include "replicator/brake.h"

#include <algorithm>
#include <charconv>

namespace somfs::replicator {
namespace {

constexpr std::uint64_t kFloor = 100;   // removals up to here are never held for their share alone

bool too_many(std::uint64_t removed, std::uint64_t of, double share) {
  return removed > kFloor && static_cast<double>(removed) > share * static_cast<double>(of);
}

}  // namespace

// A piece from the future is of a clock that was put back.
bool Peaks::within(const Piece& piece, std::int64_t now_s) {
  return piece.number <= now_s / kPiece && (piece.number + 1) * kPiece > now_s - kWindow;
}

Peaks Peaks::parse(std::string_view text) {
  Peaks out;
  const char *at = text.data(), *end = at + text.size();
  while (at < end) {
    Piece p{};
    auto number = std::from_chars(at, end, p.number);
    if (number.ec != std::errc() || number.ptr == end || *number.ptr != ':') break;
    auto objects = std::from_chars(number.ptr + 1, end, p.objects);
    if (objects.ec != std::errc()) break;
    out.pieces_.push_back(p);
    at = objects.ptr + (objects.ptr < end ? 1 : 0);
  }
  return out;
}

std::string Peaks::text() const {
  std::string out;
  for (const Piece& p : pieces_) out += (out.empty() ? "" : " ") + std::to_string(p.number) + ":" + std::to_string(p.objects);
  return out;
}

void Peaks::add(std::int64_t now_s, std::uint64_t objects) {
  std::erase_if(pieces_, [&](const Piece& p) { return !within(p, now_s); });
  for (Piece& p : pieces_)
    if (p.number == now_s / kPiece) {
      p.objects = std::max(p.objects, objects);
      return;
    }
  pieces_.push_back({now_s / kPiece, objects});
}

std::uint64_t Peaks::most(std::int64_t now_s) const {
  std::uint64_t out = 0;
  for (const Piece& p : pieces_)
    if (within(p, now_s)) out = std::max(out, p.objects);
  return out;
}

std::string brake(std::uint64_t removed, std::uint64_t before, std::uint64_t after, std::uint64_t most, double share) {
  if (share >= 1) return {};
  if (too_many(removed, before, share)) return std::to_string(removed) + " of " + std::to_string(before) + " objects would be removed";
  if (most > after && too_many(most - after, most, share))
    return std::to_string(most - after) + " of the " + std::to_string(most) + " objects held within the last hour would be gone";
  return {};
}

}  // namespace somfs::replicator
