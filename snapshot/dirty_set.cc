// SPDX-License-Identifier: Apache-2.0
#include "snapshot/dirty_set.h"

#include <algorithm>
#include <unordered_set>
#include <utility>
#include <vector>

namespace somfs::snapshot {
namespace {

constexpr std::uint64_t kFirstGrain = 64u << 10, kLastGrain = 1ull << 30;
// Estimates of what an entry of each map takes, allocator overhead included.
constexpr std::size_t kObjectCost = sizeof(ObjectId) + sizeof(DirtyObject) + 32, kExtentCost = 64;
constexpr std::size_t kDirCost = sizeof(ObjectId) + 96, kNameCost = 80;

bool raise(bool& flag) { return !std::exchange(flag, true); }

}  // namespace

std::size_t DirtySet::cost(const DirtyObject& object) {
  return kObjectCost + object.handle.bytes.size() + object.extents.count() * kExtentCost;
}

DirtyObject& DirtySet::touch(const ObjectId& object, const Handle* handle) {
  auto [at, fresh] = objects_.try_emplace(object);
  DirtyObject& o = at->second;
  if (fresh) bytes_ += cost(o);
  if (handle != nullptr && o.handle.empty() && !handle->empty()) {
    o.handle = *handle;
    bytes_ += handle->bytes.size();
  }
  return o;
}

void DirtySet::settle(DirtyObject& object, std::size_t cost_before) {
  if (object.whole) {
    object.extents.clear();
  } else if (object.extents.count() > bounds_.extents_per_object) {
    degraded_ = true;
    // Down to half, so that the next extents do not coarsen again at once.
    const std::size_t aim = std::max<std::size_t>(1, bounds_.extents_per_object / 2);
    for (std::uint64_t grain = kFirstGrain; object.extents.count() > aim && grain <= kLastGrain; grain *= 2)
      object.extents.coarsen(grain);
    if (object.extents.count() > aim) {
      object.whole = true;
      object.extents.clear();
    }
  }
  bytes_ = bytes_ - cost_before + cost(object);
}

bool DirtySet::dirty_name(const ObjectId& parent, std::string_view name) {
  auto [dir, fresh_dir] = names_.try_emplace(parent);
  if (fresh_dir) bytes_ += kDirCost;
  if (dir->second.find(name) != dir->second.end()) return false;
  dir->second.emplace(name);
  bytes_ += kNameCost + name.size();
  return true;
}

bool DirtySet::add_name(const Change& change) {
  bool fresh = dirty_name(change.parent, change.name);
  fresh |= raise(touch(change.parent, nullptr).attr);  // its mtime
  auto renamed = [&](const ObjectId& id, const Handle* handle, bool named) {
    if (!id) return;
    DirtyObject& o = touch(id, handle);
    const std::size_t before = cost(o);
    fresh |= raise(o.attr);
    fresh |= raise(o.moved);
    const ObjectId parent = named ? change.parent : o.parent == change.parent ? ObjectId{} : o.parent;
    fresh |= std::exchange(o.parent, parent) != parent;
    if (any_subtree_) {
      fresh |= raise(o.whole);
      fresh |= raise(o.subtree);
    }
    settle(o, before);
  };
  renamed(change.old, change.what == ChangeKind::unbind && change.object == change.old ? change.handle : nullptr, false);
  if (change.what == ChangeKind::bind) renamed(change.object, change.handle, true);
  return fresh;
}

bool DirtySet::add(const Change& change) {
  if (volume_whole_) return false;
  bool fresh = false;
  if (change.what == ChangeKind::bind || change.what == ChangeKind::unbind) {
    fresh = add_name(change);
  } else if (change.object) {
    const std::size_t count = objects_.size();
    DirtyObject& o = touch(change.object, change.handle);
    const std::size_t before = cost(o);
    fresh = objects_.size() != count;
    auto data = [&](std::uint64_t off, std::uint64_t len) {
      fresh |= raise(o.attr);
      if (o.whole || o.extents.covers(off, len)) return;
      o.extents.add(off, len);
      fresh = true;
    };
    switch (change.what) {
      case ChangeKind::write: data(change.extent.off, change.extent.len); break;
      case ChangeKind::truncate: data(change.extent.off, ExtentSet::kToEnd); break;
      case ChangeKind::attr: fresh |= raise(o.attr); break;
      case ChangeKind::xattr: fresh |= raise(o.xattr); fresh |= raise(o.attr); break;
      case ChangeKind::born: fresh |= raise(o.born); fresh |= raise(o.attr); break;
      case ChangeKind::subtree: fresh |= raise(o.subtree); any_subtree_ = true; [[fallthrough]];
      default: fresh |= raise(o.whole); break;
    }
    settle(o, before);
  }
  if (bytes_ > bounds_.bytes) degrade();
  return fresh;
}

void DirtySet::mark(const ObjectId& object, const Handle* handle, bool subtree) {
  Change change;
  change.what = subtree ? ChangeKind::subtree : ChangeKind::whole;
  change.object = object;
  change.handle = handle;
  add(change);
}

void DirtySet::learn_handle(const ObjectId& object, const Handle& handle) {
  if (needs_handle(object)) touch(object, &handle);
}

bool DirtySet::needs_handle(const ObjectId& object) const {
  auto at = objects_.find(object);
  return at != objects_.end() && at->second.handle.empty();
}

void DirtySet::suspect_all() {
  for (const auto& [dir, names] : names_) touch(dir, nullptr);
  for (auto& [id, o] : objects_) {
    const std::size_t before = cost(o);
    o.whole = true;
    settle(o, before);
  }
}

void DirtySet::merge(const DirtySet& later) {
  degraded_ |= later.degraded_;
  if (later.volume_whole_) set_volume_whole();
  if (volume_whole_) return;
  // A folded `later` may have moved objects without saying so.
  if (later.any_subtree_)
    for (auto& [id, o] : objects_) o.parent = {};
  for (const auto& [dir, names] : later.names_)
    for (const auto& name : names) dirty_name(dir, name);
  for (const auto& [id, from] : later.objects_) {
    DirtyObject& o = touch(id, &from.handle);
    const std::size_t before = cost(o);
    o.attr |= from.attr;
    o.xattr |= from.xattr;
    o.born |= from.born;
    o.whole |= from.whole;
    o.subtree |= from.subtree;
    o.moved |= from.moved;
    if (from.moved && (from.parent || (o.parent && later.names_.contains(o.parent)))) o.parent = from.parent;
    if (from.moved && any_subtree_) o.whole = o.subtree = true;
    if (!o.whole) o.extents.add(from.extents);
    settle(o, before);
  }
  any_subtree_ |= later.any_subtree_;
  if (bytes_ > bounds_.bytes) degrade();
}

// Each step aims at three quarters of the bound, so that the next change does not walk the whole set again.
void DirtySet::degrade() {
  const std::size_t aim = bounds_.bytes / 4 * 3;
  degraded_ = true;
  wholes();
  if (bytes_ > aim) fold();
  if (bytes_ > aim) set_volume_whole();
}

void DirtySet::wholes() {
  for (auto& [id, o] : objects_) {
    if (o.extents.empty()) continue;
    const std::size_t before = cost(o);
    o.whole = true;
    settle(o, before);
  }
}

// Directories whose names changed, or that are known to hold dirty objects, become `subtree` and take those objects in.
void DirtySet::fold() {
  std::unordered_set<ObjectId> dirs;
  for (const auto& [dir, names] : names_) dirs.insert(dir);
  for (const auto& [id, o] : objects_)
    if (o.parent) dirs.insert(o.parent);
  for (const auto& dir : dirs) {
    DirtyObject& o = touch(dir, nullptr);
    o.attr = o.whole = o.subtree = true;
    any_subtree_ = true;
  }
  names_.clear();
  // Hints of objects moved more than once may be stale; one that leads round in a circle leads to no directory that stays.
  std::vector<ObjectId> inside;
  constexpr int kDeepest = 4096;
  for (const auto& [id, o] : objects_) {
    int depth = 0;
    const DirtyObject* up = &o;
    while (up->parent && depth < kDeepest) {
      up = &objects_.at(up->parent);
      ++depth;
    }
    if (depth > 0 && depth < kDeepest) inside.push_back(id);
  }
  for (const auto& id : inside) objects_.erase(id);
  bytes_ = 0;
  for (const auto& [id, o] : objects_) bytes_ += cost(o);
}

}  // namespace somfs::snapshot
