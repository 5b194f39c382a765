// SPDX-License-Identifier: Apache-2.0
// A run that replaces everything at the mirror removes what it does not state. What the source has and could not read must not go
// that way: what the mirror holds under the same path keeps its name, and is compared by the next run.
#pragma once

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/sync.h"
#include "replicator/emit.h"

namespace somfs::replicator {

class Keeper {
 public:
  explicit Keeper(Run& run) : run_(run), active_(run.mirror_objects != 0 && !run.options.dry_run) {}

  // From any thread, while records are made.
  void entry(PlacePtr dir, std::string name) EXCLUDES(mutex_);   // it could not be read, or not to its end
  void contents(PlacePtr dir) EXCLUDES(mutex_);                  // it was sent, but could not be listed
  void sent(const ObjectId& dir) EXCLUDES(mutex_);               // stated by this run: it has its place, and gets no other

  // When everything else was sent, and no listing is asked for.
  Status send(Emitter& out) EXCLUDES(mutex_);

 private:
  struct Want {
    PlacePtr dir;
    std::string name;          // empty: all of its entries
  };
  // The mirror's directory of the same path; null: it has none.
  Result<const std::vector<ListRow>*> beside(const Place& place);
  Result<const std::vector<ListRow>*> rows(const ObjectId& dir);
  Status keep(const ObjectId& parent, const ListRow& row, Emitter& out);

  Run& run_;
  const bool active_;
  Mutex mutex_;
  std::vector<Want> wants_ GUARDED_BY(mutex_);
  std::unordered_set<ObjectId> sent_ GUARDED_BY(mutex_);
  std::unordered_map<ObjectId, std::vector<ListRow>> listed_;
};

}  // namespace somfs::replicator
