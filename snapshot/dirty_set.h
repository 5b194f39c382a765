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
  bool moved = false;       // gained or lost a name inside the window
  ObjectId parent;          // a hint for folding: the directory that named it last, {} where unknown; no part of equality
  bool operator==(const DirtyObject& o) const {
    return handle == o.handle && extents == o.extents && attr == o.attr && xattr == o.xattr && born == o.born && whole == o.whole &&
           subtree == o.subtree && moved == o.moved;
  }
};

class DirtySet {
 public:
  struct Bounds {
    std::size_t extents_per_object = 4096;  // then coarsened, then `whole`
    std::size_t bytes = 64u << 20;          // estimated memory; then objects become whole, then directories subtree, then the volume
  };
  DirtySet() = default;
  explicit DirtySet(Bounds bounds) : bounds_(bounds) {}

  // Replaying every change of a log gives the same set as compacting it piecewise. False: the set held it already.
  bool add(const Change& change);
  void mark(const ObjectId& object, const Handle* handle, bool subtree = false);  // a mark without extents: `whole`
  void learn_handle(const ObjectId& object, const Handle& handle);  // of an object already in the set
  bool needs_handle(const ObjectId& object) const;                  // in the set, without a handle
  void suspect_all();                      // after a power loss: every object in it is `whole`, directories with dirty names too
  void merge(const DirtySet& later);       // the union of two windows, `later` following this one
  void set_volume_whole() { volume_whole_ = true; any_subtree_ = false; objects_.clear(); names_.clear(); bytes_ = 0; }

  bool empty() const { return !volume_whole_ && objects_.empty() && names_.empty(); }
  bool volume_whole() const { return volume_whole_; }
  bool degraded() const { return degraded_; }  // a bound was hit: it says more than was changed
  bool operator==(const DirtySet& o) const {
    return volume_whole_ == o.volume_whole_ && objects_ == o.objects_ && names_ == o.names_;
  }
  const std::unordered_map<ObjectId, DirtyObject>& objects() const { return objects_; }
  const std::unordered_map<ObjectId, std::set<std::string, std::less<>>>& names() const { return names_; }
  std::size_t estimated_bytes() const { return bytes_; }

  // docs/formats/journal.md, "Dirty set". Equal sets give equal bytes, but for the parent hints. The caller adds a checksum.
  std::string encode() const;
  static bool decode(std::string_view bytes, DirtySet* out);  // false: corrupt; out's bounds stay

 private:
  using Names = std::set<std::string, std::less<>>;
  static std::size_t cost(const DirtyObject& object);
  void degrade();
  void wholes();
  void fold();
  void settle(DirtyObject& object, std::size_t cost_before);  // after a change: extents within bounds, memory accounted
  bool add_name(const Change& change);
  DirtyObject& touch(const ObjectId& object, const Handle* handle);
  bool dirty_name(const ObjectId& parent, std::string_view name);
  Bounds bounds_;
  bool volume_whole_ = false;
  bool any_subtree_ = false;  // then a name change may carry an object out of what is known: it becomes whole and subtree
  bool degraded_ = false;
  std::size_t bytes_ = 0;
  std::unordered_map<ObjectId, DirtyObject> objects_;
  std::unordered_map<ObjectId, std::set<std::string, std::less<>>> names_;
};

}  // namespace somfs::snapshot
