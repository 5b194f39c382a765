// SPDX-License-Identifier: Apache-2.0
// The dirty set: what changed since a cut, compacted. Final-state form: which objects have dirty extents or attributes, and
// which (parent, name) pairs name something else than before; what they name now is read from the snapshot. So order inside
// an epoch does not matter, a file created and removed inside it vanishes by itself, and a renamed directory is two names.
// Pure data structure; portable core: the C++ standard library alone. Not thread-safe: the journal guards it.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>

#include "common/change.h"
#include "common/object.h"

namespace somfs::snapshot {

// Sorted, disjoint, non-adjacent extents. An extent that ends at kToEnd reaches to the end of the file, whatever that is.
class ExtentSet {
 public:
  static constexpr std::uint64_t kToEnd = ~0ull;
  void add(std::uint64_t off, std::uint64_t len);  // saturates at kToEnd
  void add(const ExtentSet& other);
  bool covers(std::uint64_t off, std::uint64_t len) const;
  bool empty() const { return by_start_.empty(); }
  std::size_t count() const { return by_start_.size(); }
  std::uint64_t bytes(std::uint64_t file_size) const;  // clipped to the size
  void coarsen(std::uint64_t grain);                   // rounds outwards to multiples of `grain` and merges
  void clear() { by_start_.clear(); }
  const std::map<std::uint64_t, std::uint64_t>& map() const { return by_start_; }  // start → end
  bool operator==(const ExtentSet&) const = default;

 private:
  std::map<std::uint64_t, std::uint64_t> by_start_;
};

struct DirtyObject {
  Handle handle;            // empty where unknown
  ExtentSet extents;        // data to be read again, clipped to the size at the cut
  bool attr = false;        // attributes changed (data changes imply it)
  bool xattr = false;
  bool born = false;        // came to be inside the window: unknown to the mirror
  bool whole = false;       // extents unknown: everything about it
  bool subtree = false;     // a directory: everything below it
  bool operator==(const DirtyObject&) const = default;
};

class DirtySet {
 public:
  struct Bounds {
    std::size_t extents_per_object = 4096;  // then coarsened, then `whole`
    std::size_t bytes = 64u << 20;          // estimated memory; then objects become whole, then directories subtree, then the volume
  };
  DirtySet() = default;
  explicit DirtySet(Bounds bounds) : bounds_(bounds) {}

  void add(const Change& change);          // replaying every change of a log gives the same set as compacting it piecewise
  void mark(const ObjectId& object, const Handle* handle);  // a mark without extents: `whole`
  void merge(const DirtySet& later);       // the union of two windows, `later` following this one
  void set_volume_whole() { volume_whole_ = true; objects_.clear(); names_.clear(); bytes_ = 0; }

  bool empty() const { return !volume_whole_ && objects_.empty() && names_.empty(); }
  bool volume_whole() const { return volume_whole_; }
  const std::unordered_map<ObjectId, DirtyObject>& objects() const { return objects_; }
  const std::unordered_map<ObjectId, std::set<std::string, std::less<>>>& names() const { return names_; }
  std::size_t estimated_bytes() const { return bytes_; }

  // docs/formats.md, "Dirty set".
  std::string encode() const;
  static bool decode(std::string_view bytes, DirtySet* out);  // false: corrupt

 private:
  void degrade();
  DirtyObject& touch(const ObjectId& object, const Handle* handle);
  Bounds bounds_;
  bool volume_whole_ = false;
  std::size_t bytes_ = 0;
  std::unordered_map<ObjectId, DirtyObject> objects_;
  std::unordered_map<ObjectId, std::set<std::string, std::less<>>> names_;
};

}  // namespace somfs::snapshot
