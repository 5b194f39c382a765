// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/snapshot/toy_tree.h"

#include <algorithm>

namespace somfs::snapshot::test {
namespace {

LoggedChange about(ChangeKind what, const ObjectId& object) {
  LoggedChange c;
  c.change.what = what;
  c.change.object = object;
  c.handle = Handle{1, "h" + std::to_string(object.ino)};
  return c;
}

LoggedChange naming(ChangeKind what, const ObjectId& object, const ObjectId& parent, std::string name, const ObjectId& old) {
  LoggedChange c = about(what, object);
  if (!object) c.handle = {};
  c.change.parent = parent;
  c.change.old = old;
  c.name = std::move(name);
  return c;
}

}  // namespace

std::uint64_t ToyTree::Dice::next() {
  std::uint64_t z = (state += 0x9E3779B97F4A7C15ull);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

std::vector<ObjectId> ToyTree::below(const ObjectId& dir) const {
  std::vector<ObjectId> out, todo{dir};
  while (!todo.empty()) {
    const ObjectId d = todo.back();
    todo.pop_back();
    for (auto at = names_.lower_bound({d, ""}); at != names_.end() && at->first.first == d; ++at) {
      out.push_back(at->second);
      if (objects_.at(at->second).dir) todo.push_back(at->second);
    }
  }
  return out;
}

ObjectId ToyTree::pick(Dice& dice, bool dir) const {
  std::vector<ObjectId> fits;
  if (dir) fits.push_back(kRoot);
  for (const auto& id : below(kRoot))
    if (objects_.at(id).dir == dir) fits.push_back(id);
  return fits.empty() ? ObjectId{} : fits[dice.below(fits.size())];
}

bool ToyTree::is_empty(const ObjectId& dir) const {
  auto at = names_.lower_bound({dir, ""});
  return at == names_.end() || at->first.first != dir;
}

void ToyTree::create(Dice& dice, bool dir, std::vector<LoggedChange>* log) {
  const Name name{pick(dice, true), std::string(1, static_cast<char>('a' + dice.below(6)))};
  if (names_.contains(name)) return;
  const ObjectId id{next_ino_++, 7};
  objects_[id].dir = dir;
  names_[name] = id;
  if (log == nullptr) return;
  log->push_back(about(ChangeKind::born, id));
  log->push_back(naming(ChangeKind::bind, id, name.first, name.second, {}));
}

void ToyTree::link_or_rename(Dice& dice, bool rename, std::vector<LoggedChange>& log) {
  if (names_.empty()) return;
  auto from = std::next(names_.begin(), static_cast<std::ptrdiff_t>(dice.below(names_.size())));
  const Name source = from->first;
  const ObjectId id = from->second;
  const bool dir = objects_.at(id).dir;
  const Name to{pick(dice, true), std::string(1, static_cast<char>('a' + dice.below(6)))};
  if (to == source || (dir && !rename)) return;
  const auto inside = below(id);
  if (dir && (to.first == id || std::find(inside.begin(), inside.end(), to.first) != inside.end())) return;
  ObjectId old;
  if (auto at = names_.find(to); at != names_.end()) {
    old = at->second;
    if (!rename || old == id || objects_.at(old).dir != dir || (dir && !is_empty(old))) return;
  }
  names_[to] = id;
  log.push_back(naming(ChangeKind::bind, id, to.first, to.second, old));
  if (!rename) return;
  names_.erase(source);
  log.push_back(naming(ChangeKind::unbind, {}, source.first, source.second, id));
}

void ToyTree::remove(Dice& dice, std::vector<LoggedChange>& log) {
  if (names_.empty()) return;
  auto at = std::next(names_.begin(), static_cast<std::ptrdiff_t>(dice.below(names_.size())));
  if (objects_.at(at->second).dir && !is_empty(at->second)) return;
  log.push_back(naming(ChangeKind::unbind, {}, at->first.first, at->first.second, at->second));
  names_.erase(at);
}

void ToyTree::change_data(Dice& dice, std::vector<LoggedChange>& log) {
  const ObjectId id = pick(dice, false);
  if (!id) return;
  ToyObject& o = objects_.at(id);
  const std::uint64_t off = dice.below(40), len = 1 + dice.below(12);
  LoggedChange c = about(ChangeKind::write, id);
  switch (dice.below(6)) {
    case 0:
      o.data.resize(off);
      c.change.what = ChangeKind::truncate;
      c.change.extent.off = off;
      break;
    case 1:
      o.attr++;
      c.change.what = ChangeKind::attr;
      break;
    case 2:
      o.xattr++;
      c.change.what = ChangeKind::xattr;
      break;
    case 3:
      o.data = std::string(len, '!');
      c.change.what = ChangeKind::whole;
      break;
    default:
      if (o.data.size() < off + len) o.data.resize(off + len);
      for (std::uint64_t i = off; i < off + len; ++i) o.data[i] = static_cast<char>('0' + dice.below(64));
      c.change.extent = {off, len};
  }
  log.push_back(c);
}

void ToyTree::change_unseen_below(Dice& dice, std::vector<LoggedChange>& log) {
  const ObjectId dir = pick(dice, true);
  for (const auto& id : below(dir)) {
    if (dice.below(2) != 0) objects_.at(id).attr += 100;
    if (dice.below(2) != 0 && !objects_.at(id).dir) objects_.at(id).data += "unseen";
  }
  log.push_back(about(ChangeKind::subtree, dir));
}

void ToyTree::mutate(std::uint64_t dice_seed, std::vector<LoggedChange>& log) {
  Dice dice{dice_seed};
  switch (dice.below(40)) {
    case 0: change_unseen_below(dice, log); break;
    case 1: case 2: case 3: case 4: case 5: case 6: case 7: create(dice, false, &log); break;
    case 8: case 9: case 10: case 11: create(dice, true, &log); break;
    case 12: case 13: link_or_rename(dice, false, log); break;
    case 14: case 15: case 16: case 17: case 18: case 19: link_or_rename(dice, true, log); break;
    case 20: case 21: case 22: case 23: remove(dice, log); break;
    default: change_data(dice, log);
  }
}

void ToyTree::take_subtree(const ObjectId& dir, const ToyTree& now) {
  for (auto at = names_.lower_bound({dir, ""}); at != names_.end() && at->first.first == dir;) at = names_.erase(at);
  for (auto at = now.names_.lower_bound({dir, ""}); at != now.names_.end() && at->first.first == dir; ++at) {
    names_[at->first] = at->second;
    objects_[at->second] = now.objects_.at(at->second);
    take_subtree(at->second, now);
  }
}

void ToyTree::patch(const DirtySet& dirty, const ToyTree& now) {
  if (dirty.volume_whole()) {
    *this = now;
    return;
  }
  for (const auto& [dir, names] : dirty.names())
    for (const auto& name : names) {
      auto at = now.names_.find({dir, name});
      if (at == now.names_.end()) names_.erase({dir, name});
      else names_[{dir, name}] = at->second;
    }
  for (const auto& [id, d] : dirty.objects()) {
    auto at = now.objects_.find(id);
    auto mine = objects_.find(id);
    if (at == now.objects_.end()) continue;
    if (mine != objects_.end()) {
      ToyObject& o = mine->second;
      if (d.whole) o = at->second;
      if (d.attr) {
        o.attr = at->second.attr;
        o.data.resize(at->second.data.size());
      }
      if (d.xattr) o.xattr = at->second.xattr;
      for (const auto& [start, end] : d.extents.map())
        for (std::uint64_t i = start; i < std::min<std::uint64_t>(end, o.data.size()); ++i) o.data[i] = at->second.data[i];
    }
    if (d.subtree && at->second.dir) take_subtree(id, now);
  }
  for (const auto& [name, id] : names_)  // unknown so far: taken in full
    if (!objects_.contains(id)) objects_[id] = now.objects_.at(id);
}

void ToyTree::sweep() {
  std::set<ObjectId> keep{kRoot};
  for (const auto& id : below(kRoot)) keep.insert(id);
  std::erase_if(objects_, [&](const auto& o) { return !keep.contains(o.first); });
  std::erase_if(names_, [&](const auto& n) { return !keep.contains(n.first.first); });
}

}  // namespace somfs::snapshot::test
