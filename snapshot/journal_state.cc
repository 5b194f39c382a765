// SPDX-License-Identifier: Apache-2.0
#include "snapshot/journal_state.h"

#include "common/bytes.h"

namespace somfs::snapshot {
namespace {

constexpr std::string_view kMagic = "somfsjst";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kCrc = 4;

}  // namespace

std::string JournalState::encode() const {
  std::string out(kMagic);
  ByteWriter w(out);
  w.u32(kVersion);
  w.raw(volume.raw());
  w.raw(generation.raw());
  w.raw(boot.raw());
  w.varint(ancestors.size());
  for (const auto& a : ancestors) w.raw(a.raw());
  w.text(fs_id);
  w.u8(static_cast<std::uint8_t>(clean | scan_pending << 1));
  w.i64(wall_ns);
  w.i64(trusted_until_ns);
  w.i64(log_wall_ns);
  w.u64(epoch);
  w.u64(seq);
  w.u64(dropped_up_to);
  w.u64(log_from);
  w.u64(next_piece);
  w.varint(targets.size());
  for (const auto& [name, t] : targets) {
    w.text(name);
    w.raw(t.state.mirror.raw());
    w.u64(t.state.acked_epoch);
    w.i64(t.state.acked_cut_ns);
    const bool has_root = t.state.root.size() == kRoot;
    w.u8(static_cast<std::uint8_t>(t.state.gap | t.state.content << 1 | has_root << 2));
    w.u64(t.gap_epoch);
    if (has_root) w.raw(t.state.root);
  }
  w.u32(crc32c(out));
  return out;
}

bool JournalState::decode(std::string_view bytes, JournalState* out) {
  if (bytes.size() < kMagic.size() + kCrc || bytes.substr(0, kMagic.size()) != kMagic) return false;
  const std::string_view checked = bytes.substr(0, bytes.size() - kCrc);
  if (ByteReader(bytes.substr(checked.size())).u32() != crc32c(checked)) return false;
  ByteReader r(checked.substr(kMagic.size()));
  if (r.u32() != kVersion) return false;
  JournalState s;
  s.volume = Uuid::from_raw(r.raw(16));
  s.generation = Uuid::from_raw(r.raw(16));
  s.boot = Uuid::from_raw(r.raw(16));
  for (std::uint64_t n = r.bounded(kMostAncestors); n != 0 && r.ok(); --n) s.ancestors.push_back(Uuid::from_raw(r.raw(16)));
  s.fs_id = std::string(r.text(kMostName));
  const std::uint8_t flags = r.u8();
  s.clean = (flags & 1) != 0;
  s.scan_pending = (flags & 2) != 0;
  s.wall_ns = r.i64();
  s.trusted_until_ns = r.i64();
  s.log_wall_ns = r.i64();
  s.epoch = r.u64();
  s.seq = r.u64();
  s.dropped_up_to = r.u64();
  s.log_from = r.u64();
  s.next_piece = r.u64();
  for (std::uint64_t n = r.bounded(kMostTargets); n != 0 && r.ok(); --n) {
    KnownTarget t;
    t.state.target = std::string(r.text(kMostName));
    t.state.mirror = Uuid::from_raw(r.raw(16));
    t.state.acked_epoch = r.u64();
    t.state.acked_cut_ns = r.i64();
    const std::uint8_t of_target = r.u8();
    t.state.gap = (of_target & 1) != 0;
    t.state.content = (of_target & 2) != 0;
    t.gap_epoch = r.u64();
    if ((of_target & 4) != 0) t.state.root = std::string(r.raw(kRoot));
    s.targets[t.state.target] = t;
  }
  if (!r.at_end() || !s.volume || !s.generation || s.epoch == 0) return false;
  *out = std::move(s);
  return true;
}

void JournalState::renew_generation() {
  if (generation) ancestors.push_back(generation);
  if (ancestors.size() > kMostAncestors) ancestors.erase(ancestors.begin());
  generation = Uuid::random();
}

}  // namespace somfs::snapshot
