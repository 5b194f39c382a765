// SPDX-License-Identifier: Apache-2.0
#include "replicator/keep.h"

#include <algorithm>

namespace somfs::replicator {

void Keeper::entry(PlacePtr dir, std::string name) {
  if (!active_) return;
  Lock l(mutex_);
  wants_.push_back({std::move(dir), std::move(name)});
}

void Keeper::contents(PlacePtr dir) { entry(std::move(dir), {}); }

void Keeper::sent(const ObjectId& dir) {
  if (!active_) return;
  Lock l(mutex_);
  sent_.insert(dir);
}

Result<const std::vector<ListRow>*> Keeper::rows(const ObjectId& dir) {
  auto at = listed_.find(dir);
  if (at == listed_.end()) {
    run_.link.want_listing(dir);
    SOMFS_TRY_ASSIGN(auto came, run_.link.listing(dir));
    at = listed_.emplace(dir, std::move(came)).first;
  }
  return &at->second;
}

Result<const std::vector<ListRow>*> Keeper::beside(const Place& place) {
  std::vector<const Place*> chain;
  for (const Place* p = &place; p->parent; p = p->parent.get()) chain.push_back(p);
  SOMFS_TRY_ASSIGN(const std::vector<ListRow>* here, rows({}));
  for (auto p = chain.rbegin(); p != chain.rend(); ++p) {
    auto row = std::find_if(here->begin(), here->end(), [&](const ListRow& r) { return r.name == (*p)->entry.name; });
    if (row == here->end() || row->kind != Kind::dir) return nullptr;
    SOMFS_TRY_ASSIGN(here, rows(row->object));
  }
  return here;
}

Status Keeper::keep(const ObjectId& parent, const ListRow& top, Emitter& out) {
  std::unordered_set<ObjectId> seen;
  std::vector<std::pair<ObjectId, ListRow>> left{{parent, top}};
  while (!left.empty()) {
    auto [above, row] = std::move(left.back());
    left.pop_back();
    if (row.kind == Kind::dir) {
      Lock l(mutex_);
      if (!sent_.insert(row.object).second) continue;   // it was moved, and is where the source has it
    }
    SOMFS_TRY(out.name(above, row.name, row.object));
    if (row.kind != Kind::dir || !seen.insert(row.object).second) continue;
    SOMFS_TRY_ASSIGN(const std::vector<ListRow>* below, rows(row.object));
    for (const ListRow& r : *below) left.emplace_back(row.object, r);
    listed_.erase(row.object);
    if (seen.size() > run_.mirror_objects) return fail(Exit::peer_version, "cannot talk to the mirror", {}, "it lists more than it says it holds");
  }
  return {};
}

Status Keeper::send(Emitter& out) {
  std::vector<Want> wants;
  {
    Lock l(mutex_);
    wants = std::move(wants_);
  }
  for (const Want& want : wants) {
    SOMFS_TRY_ASSIGN(const std::vector<ListRow>* found, beside(*want.dir));
    if (found == nullptr) continue;
    const std::vector<ListRow> entries = *found;
    for (const ListRow& row : entries)
      if (want.name.empty() || row.name == want.name) SOMFS_TRY(keep(want.dir->entry.ref.id, row, out));
  }
  return {};
}

}  // namespace somfs::replicator
