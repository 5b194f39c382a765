// SPDX-License-Identifier: Apache-2.0
#include "snapshot/journal_epochs.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "common/bytes.h"
#include "common/fd.h"

namespace somfs::snapshot {
namespace {

constexpr std::string_view kMagic = "somfsepo";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kCrc = 4, kMostBytes = 1u << 30;
constexpr std::size_t kFew = 8, kMany = 64;

}  // namespace

std::string piece_name(std::uint64_t number) { return "epoch-" + std::to_string(number); }

std::string encode_piece(const Piece& piece, const DirtySet& set) {
  std::string out(kMagic);
  ByteWriter w(out);
  w.u32(kVersion);
  w.u64(piece.number);
  w.u64(piece.order);
  w.u64(piece.first);
  w.u64(piece.last);
  w.varint(piece.replaces.size());
  for (auto r : piece.replaces) w.u64(r);
  w.text(set.encode());
  w.u32(crc32c(out));
  return out;
}

bool decode_piece(std::string_view bytes, Piece* piece, DirtySet* set) {
  if (bytes.size() < kMagic.size() + kCrc || bytes.substr(0, kMagic.size()) != kMagic) return false;
  const std::string_view checked = bytes.substr(0, bytes.size() - kCrc);
  if (ByteReader(bytes.substr(checked.size())).u32() != crc32c(checked)) return false;
  ByteReader r(checked.substr(kMagic.size()));
  if (r.u32() != kVersion) return false;
  piece->number = r.u64();
  piece->order = r.u64();
  piece->first = r.u64();
  piece->last = r.u64();
  piece->replaces.clear();
  for (std::uint64_t n = r.bounded(r.left() / 8); n != 0; --n) piece->replaces.push_back(r.u64());
  const std::string_view body = r.text(r.left());
  return r.at_end() && piece->first <= piece->last && DirtySet::decode(body, set);
}

Result<DirtySet> Epochs::read(const Piece& piece) const {
  const std::string name = piece_name(piece.number);
  SOMFS_TRY_ASSIGN(const std::string bytes, read_file(dir_fd_, name, kMostBytes));
  DirtySet set(bounds_);
  Piece found;
  if (!decode_piece(bytes, &found, &set) || found.number != piece.number)
    return fail(Exit::configuration, "cannot read the journal's epoch", name, "it is corrupt");
  return set;
}

Status Epochs::load(const std::vector<std::uint64_t>& numbers, std::uint64_t dropped_up_to) {
  std::set<std::uint64_t> gone;
  for (auto number : numbers) {
    const std::string name = piece_name(number);
    SOMFS_TRY_ASSIGN(const std::string bytes, read_file(dir_fd_, name, kMostBytes));
    Piece piece;
    DirtySet set(bounds_);
    if (!decode_piece(bytes, &piece, &set) || piece.number != number)
      return fail(Exit::configuration, "cannot read the journal's epoch", name, "it is corrupt");
    gone.insert(piece.replaces.begin(), piece.replaces.end());
    if (piece.last <= dropped_up_to) gone.insert(number);
    at_least(number + 1);
    pieces_.push_back(std::move(piece));
  }
  for (auto number : gone) remove(number);
  std::erase_if(pieces_, [&](const Piece& p) { return gone.contains(p.number); });
  std::sort(pieces_.begin(), pieces_.end(), [](const Piece& a, const Piece& b) { return a.order < b.order; });
  return {};
}

std::uint64_t Epochs::last_epoch() const {
  std::uint64_t last = 0;
  for (const auto& p : pieces_) last = std::max(last, p.last);
  return last;
}

Status Epochs::write(Piece piece, const DirtySet& set) {
  SOMFS_TRY(replace_file(dir_fd_, piece_name(piece.number), encode_piece(piece, set)));
  at_least(piece.number + 1);
  auto at = std::upper_bound(pieces_.begin(), pieces_.end(), piece, [](const Piece& a, const Piece& b) { return a.order < b.order; });
  pieces_.insert(at, std::move(piece));
  return {};
}

Status Epochs::add(std::uint64_t first, std::uint64_t last, const DirtySet& set) {
  return write(Piece{next_, next_, first, last, {}}, set);
}

Result<DirtySet> Epochs::collect(std::uint64_t after, std::uint64_t up_to) const {
  DirtySet all(bounds_);
  for (const auto& p : pieces_) {
    if (p.last <= after || p.first > up_to) continue;
    SOMFS_TRY_ASSIGN(const DirtySet set, read(p));
    all.merge(set);
  }
  return all;
}

Status Epochs::merge_some(const std::set<std::uint64_t>& acked, std::uint64_t keep_from) {
  auto apart = [&](const Piece& a, const Piece& b) {
    auto t = acked.lower_bound(a.last);
    return pieces_.size() <= kMany && t != acked.end() && *t < b.last;
  };
  for (std::size_t i = 0; pieces_.size() > kFew && i + 1 < pieces_.size();) {
    const Piece a = pieces_[i], b = pieces_[i + 1];
    if (b.last >= keep_from || apart(a, b)) {
      ++i;
      continue;
    }
    SOMFS_TRY_ASSIGN(DirtySet set, read(a));
    SOMFS_TRY_ASSIGN(const DirtySet later, read(b));
    set.merge(later);
    SOMFS_TRY(write(Piece{next_, a.order, std::min(a.first, b.first), std::max(a.last, b.last), {a.number, b.number}}, set));
    for (const auto& old : {a, b}) {
      remove(old.number);
      std::erase_if(pieces_, [&](const Piece& p) { return p.number == old.number; });
    }
  }
  return {};
}

void Epochs::drop(std::uint64_t up_to) {
  std::erase_if(pieces_, [&](const Piece& p) {
    if (p.last <= up_to) remove(p.number);
    return p.last <= up_to;
  });
}

void Epochs::remove(std::uint64_t number) { ::unlinkat(dir_fd_, piece_name(number).c_str(), 0); }

}  // namespace somfs::snapshot
