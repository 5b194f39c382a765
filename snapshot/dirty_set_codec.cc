// SPDX-License-Identifier: Apache-2.0
// docs/formats/journal.md, "Dirty set":
//   set     = version:u8 volume_whole:u8 count:varint object* count:varint dir*
//   object  = id flags:u8 [handle] [parent:id] count:varint extent*      flags: attr 1, xattr 2, born 4, whole 8, subtree 16,
//                                                                        moved 32, a handle follows 64, a parent follows 128
//   extent  = gap:varint length:varint        gap since the end of the one before; length 0: to the end of the file
//   dir     = id count:varint name:text*
// Objects, directories and names ascend strictly.
#include <algorithm>
#include <vector>

#include "common/bytes.h"
#include "snapshot/dirty_set.h"

namespace somfs::snapshot {
namespace {

constexpr std::uint8_t kVersion = 1;
constexpr std::size_t kIdBytes = 16;

template <typename Map>
std::vector<const typename Map::value_type*> sorted(const Map& map) {
  std::vector<const typename Map::value_type*> out;
  out.reserve(map.size());
  for (const auto& entry : map) out.push_back(&entry);
  std::sort(out.begin(), out.end(), [](auto* a, auto* b) { return a->first < b->first; });
  return out;
}

void put_object(ByteWriter& w, const ObjectId& id, const DirtyObject& o) {
  w.id(id);
  w.u8(static_cast<std::uint8_t>(o.attr | o.xattr << 1 | o.born << 2 | o.whole << 3 | o.subtree << 4 | o.moved << 5 |
                                 !o.handle.empty() << 6 | static_cast<bool>(o.parent) << 7));
  if (!o.handle.empty()) put_handle(w, o.handle);
  if (o.parent) w.id(o.parent);
  w.varint(o.extents.count());
  std::uint64_t at = 0;
  for (const auto& [start, end] : o.extents.map()) {
    w.varint(start - at);
    w.varint(end == ExtentSet::kToEnd ? 0 : end - start);
    at = end;
  }
}

DirtyObject get_object(ByteReader& r) {
  DirtyObject o;
  const std::uint8_t flags = r.u8();
  o.attr = (flags & 1) != 0;
  o.xattr = (flags & 2) != 0;
  o.born = (flags & 4) != 0;
  o.whole = (flags & 8) != 0;
  o.subtree = (flags & 16) != 0;
  o.moved = (flags & 32) != 0;
  if ((flags & 64) != 0) {
    o.handle = get_handle(r);
    if (o.handle.empty()) r.poison();
  }
  if ((flags & 128) != 0) {
    o.parent = r.id();
    if (!o.parent) r.poison();
  }
  const std::uint64_t count = r.bounded(r.left() / 2);
  std::uint64_t at = 0;
  for (std::uint64_t i = 0; i < count && r.ok(); ++i) {
    const std::uint64_t gap = r.varint(), len = r.varint();
    // Disjoint, not adjacent, and only the last one may reach to the end.
    if (at == ExtentSet::kToEnd || (i != 0 && gap == 0) || gap >= ExtentSet::kToEnd - at) r.poison();
    if (!r.ok()) break;
    const std::uint64_t start = at + gap;
    if (len != 0 && len >= ExtentSet::kToEnd - start) r.poison();
    if (!r.ok()) break;
    at = len == 0 ? ExtentSet::kToEnd : start + len;
    o.extents.add(start, at - start);
  }
  if (o.whole && !o.extents.empty()) r.poison();
  return o;
}

}  // namespace

std::string DirtySet::encode() const {
  std::string out;
  ByteWriter w(out);
  w.u8(kVersion);
  w.u8(volume_whole_);
  w.varint(objects_.size());
  for (const auto* entry : sorted(objects_)) put_object(w, entry->first, entry->second);
  w.varint(names_.size());
  for (const auto* dir : sorted(names_)) {
    w.id(dir->first);
    w.varint(dir->second.size());
    for (const auto& name : dir->second) w.text(name);
  }
  return out;
}

bool DirtySet::decode(std::string_view bytes, DirtySet* out) {
  DirtySet set(out->bounds_);
  ByteReader r(bytes);
  if (r.u8() != kVersion) return false;
  const std::uint8_t volume_whole = r.u8();
  if (volume_whole > 1) return false;
  ObjectId last;
  for (std::uint64_t n = r.bounded(r.left() / (kIdBytes + 2)); n != 0 && r.ok(); --n) {
    const ObjectId id = r.id();
    DirtyObject o = get_object(r);
    if (!r.ok() || !id || id <= last) return false;
    last = id;
    set.any_subtree_ |= o.subtree;
    set.bytes_ += cost(o);
    set.objects_.emplace(id, std::move(o));
  }
  last = {};
  for (std::uint64_t n = r.bounded(r.left() / (kIdBytes + 1)); n != 0 && r.ok(); --n) {
    const ObjectId dir = r.id();
    const std::uint64_t count = r.bounded(r.left() / 2);
    if (!r.ok() || !dir || dir <= last || count == 0) return false;
    last = dir;
    std::string_view before;
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::string_view name = r.text(kMaxName);
      if (!r.ok() || !valid_name(name) || name <= before) return false;
      before = name;
      set.dirty_name(dir, name);
    }
  }
  if (!r.at_end()) return false;
  if (volume_whole != 0) {
    if (!set.objects_.empty() || !set.names_.empty()) return false;
    set.set_volume_whole();
  }
  set.degraded_ = set.volume_whole_;
  if (set.bytes_ > set.bounds_.bytes) set.degrade();
  *out = std::move(set);
  return true;
}

}  // namespace somfs::snapshot
