// SPDX-License-Identifier: Apache-2.0
#include "replicator/plan.h"

#include <unordered_map>

namespace somfs::replicator {

const char* name_of(Strategy strategy) {
  switch (strategy) {
    case Strategy::full: return "full";
    case Strategy::differential: return "differential";
    case Strategy::gap_scan: return "gap-scan";
  }
  return "";
}

Result<Choice> choose(const Source& source, const Welcome& welcome, const MigrateOptions& options, const ObjectId& root) {
  std::string why_not;
  auto all_of = [&](const snapshot::DirtySet& dirty) {
    auto top = dirty.objects().find(root);
    return dirty.volume_whole() || (top != dirty.objects().end() && top->second.subtree);
  };
  if (!welcome.volume || welcome.epoch == 0) why_not = "the mirror holds nothing of this volume yet";
  else if (welcome.generation != source.generation) why_not = "the mirror was written by another generation of this volume";
  else if (welcome.epoch != source.base_epoch)
    why_not = "the mirror holds epoch " + std::to_string(welcome.epoch) + ", this side last knew " + std::to_string(source.base_epoch);
  else if (!source.dirty || source.gap) why_not = "it is not known what changed since";
  else if (all_of(*source.dirty)) why_not = "too much changed to know it name by name";

  if (options.want == MigrateOptions::Want::differential && !why_not.empty())
    return fail(Exit::temporary, "a differential migration is not possible", {}, why_not, "leave --differential out");
  if (options.want == MigrateOptions::Want::full) return Choice{Strategy::full, false};
  if (why_not.empty()) return Choice{Strategy::differential, false};
  // A tree that no migration made is compared by path; after the first epoch an empty mirror has nothing to compare with.
  if (!welcome.foreign_tree && (welcome.epoch == 0 || welcome.files == 0)) return Choice{Strategy::full, false};
  return Choice{Strategy::gap_scan, source.compare_content || welcome.epoch > source.base_epoch};
}

bool states_all(const Welcome& welcome, const MigrateOptions& options) {
  return options.want == MigrateOptions::Want::full || (options.want == MigrateOptions::Want::automatic && welcome.epoch == 0 && !welcome.foreign_tree);
}

std::vector<Birth> order_births(std::vector<Birth> births) {
  std::unordered_map<ObjectId, std::size_t> at;
  for (std::size_t i = 0; i < births.size(); ++i) at.emplace(births[i].object, i);
  std::vector<bool> done(births.size(), false);
  std::vector<Birth> out;
  out.reserve(births.size());
  std::vector<std::size_t> chain;
  for (std::size_t i = 0; i < births.size(); ++i) {
    // Upwards to the first directory that is old or ordered already; a tree has no circle, the bound is against a broken one.
    for (std::size_t k = i; !done[k] && chain.size() <= births.size();) {
      chain.push_back(k);
      auto up = at.find(births[k].parent);
      if (up == at.end()) break;
      k = up->second;
    }
    for (; !chain.empty(); chain.pop_back()) {
      if (done[chain.back()]) continue;
      done[chain.back()] = true;
      out.push_back(std::move(births[chain.back()]));
    }
  }
  return out;
}

}  // namespace somfs::replicator
