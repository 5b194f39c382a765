// SPDX-License-Identifier: Apache-2.0
// What is to be done, decided apart from doing it. Pure.
#pragma once

#include <string>
#include <vector>

#include "replicator/sender.h"

namespace somfs::replicator {

enum class Strategy : std::uint8_t { full, differential, gap_scan };
const char* name_of(Strategy strategy);

struct Choice {
  Strategy strategy = Strategy::full;
  bool by_content = false;          // gap scan: sizes and times prove nothing
};
// A differential that was demanded and cannot be: Exit::temporary with the reason. `root`: the volume's.
Result<Choice> choose(const Source& source, const Welcome& welcome, const MigrateOptions& options, const ObjectId& root);

// Whatever has changed, all of it is stated: nobody need ask what has.
bool states_all(const Welcome& welcome, const MigrateOptions& options);

// Where the new objects of a dirty set are born: each after its directory, when that is new too.
struct Birth {
  ObjectId object, parent;
  std::string name;
};
std::vector<Birth> order_births(std::vector<Birth> births);

}  // namespace somfs::replicator
