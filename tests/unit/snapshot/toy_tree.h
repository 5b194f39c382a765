// SPDX-License-Identifier: Apache-2.0
// A toy file system for properties of the dirty set: it changes at random, writes the log a journal would see, and can be
// patched from a past state to the present one with nothing but a dirty set to say where to look.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/change.h"
#include "snapshot/dirty_set.h"

namespace somfs::snapshot::test {

// A change that owns what it names.
struct LoggedChange {
  Change change;
  std::string name;
  Handle handle;
  Change get() const {
    Change c = change;
    c.name = name;
    c.handle = handle.empty() ? nullptr : &handle;
    return c;
  }
};

struct ToyObject {
  bool dir = false;
  std::string data;
  int attr = 0, xattr = 0;
  bool operator==(const ToyObject&) const = default;
};

class ToyTree {
 public:
  static constexpr ObjectId kRoot{1, 1};
  ToyTree() { objects_[kRoot].dir = true; }

  // One random mutation, chosen by `dice`; its changes are appended to `log`.
  void mutate(std::uint64_t dice, std::vector<LoggedChange>& log);
  // Brings this tree, as it was, to `now` by looking only where `dirty` says.
  void patch(const DirtySet& dirty, const ToyTree& now);
  // Drops what no name leads to.
  void sweep();
  bool operator==(const ToyTree& o) const { return objects_ == o.objects_ && names_ == o.names_; }

 private:
  using Name = std::pair<ObjectId, std::string>;
  struct Dice {
    std::uint64_t state;
    std::uint64_t next();
    std::uint64_t below(std::uint64_t n) { return next() % n; }
  };
  void create(Dice& dice, bool dir, std::vector<LoggedChange>* log);
  void link_or_rename(Dice& dice, bool rename, std::vector<LoggedChange>& log);
  void remove(Dice& dice, std::vector<LoggedChange>& log);
  void change_data(Dice& dice, std::vector<LoggedChange>& log);
  void change_unseen_below(Dice& dice, std::vector<LoggedChange>& log);
  ObjectId pick(Dice& dice, bool dir) const;                 // reachable; {} if none
  std::vector<ObjectId> below(const ObjectId& dir) const;    // objects beneath, itself excluded
  bool is_empty(const ObjectId& dir) const;
  void take_subtree(const ObjectId& dir, const ToyTree& now);
  std::map<ObjectId, ToyObject> objects_;
  std::map<Name, ObjectId> names_;
  std::uint64_t next_ino_ = 2;
};

}  // namespace somfs::snapshot::test
