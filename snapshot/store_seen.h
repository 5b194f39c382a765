// SPDX-License-Identifier: Apache-2.0
// What the newest snapshot's log holds already: presence only, so that a pre-image is kept once. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "snapshot/dirty_set.h"
#include "snapshot/store_log.h"

namespace somfs::snapshot {

class Seen {
 public:
  struct Object {
    bool attr = false;
    bool whole = false;
    std::uint64_t size = 0;                                  // at the cut; valid with `attr`
    std::map<std::uint64_t, std::uint64_t> chunks;            // chunk number / 64 → one bit each
    ExtentSet runs;                                           // chunks of long records: a hole may be as large as a file can be
    bool chunk(std::uint64_t index) const;
    bool untouched() const { return !whole && chunks.empty() && runs.empty(); }
    // The first chunk of [index, end) that is there, or is not; `end` where there is none.
    std::uint64_t next(std::uint64_t index, std::uint64_t end, bool there) const;
  };

  void add(const LogRecord& record);
  void merge(const Seen& other);   // the attributes of this one win
  bool name(const ObjectId& parent, std::string_view name) const;
  bool attr(const ObjectId& object) const;
  // It lost a name that it had at the cut.
  bool lost_name(const ObjectId& object) const { return lost_.contains(object); }
  const Object* find(const ObjectId& object) const;
  std::size_t bytes() const { return bytes_; }               // estimated memory

 private:
  void add_name(const ObjectId& parent, const std::string& name);
  void add_bits(Object& object, std::uint64_t word, std::uint64_t bits);
  Object& object(const ObjectId& id);

  std::unordered_map<ObjectId, std::unordered_set<std::string>> names_;
  std::unordered_set<ObjectId> lost_;
  std::unordered_map<ObjectId, Object> objects_;
  std::size_t bytes_ = 0;
};

}  // namespace somfs::snapshot
