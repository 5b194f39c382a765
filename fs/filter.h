// SPDX-License-Identifier: Apache-2.0
// The hierarchical request filter (SOM-12): every operation that changes something passes the same ordered layers,
// then the real file system. Operation is the noun, Layer the verb.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "common/change.h"
#include "common/object.h"

namespace somfs::fs {

enum class Verb : std::uint8_t {
  write, truncate, allocate, copy_range,          // data of one object
  set_attr, set_xattr, remove_xattr, set_flags,   // attributes of one object
  create, make, symlink, tmpfile,                 // a new object, and (but for tmpfile) one name
  link, unlink, rmdir, rename,                    // names
};

// One name that an operation changes: (parent, name) named `before` and will name `after`.
struct NameChange {
  ObjectId parent;
  const Handle* parent_handle = nullptr;
  int parent_fd = -1;
  std::string_view name;
  ObjectId before;                       // {}: named nothing
  const Handle* before_handle = nullptr;
  int before_fd = -1;                    // O_PATH descriptor of `before`, or -1
  bool last = false;                     // this may be the last name of `before`
  bool excluded = false;                 // this side of a rename lies in an excluded part of the volume
  Kind after_kind = Kind::none;          // what kind of object it will name, where something moves here
  const Handle* after_handle = nullptr;
  bool uncaptured = false;               // `after` comes from an excluded part: nothing of it was captured so far
  ObjectId after;                        // {}: names nothing afterwards. For create: known only when after() runs
};

// One file request on its way through the layers. Filled by the passthrough; borrowed members live for the call.
struct Operation {
  Verb verb = Verb::write;
  ObjectId object;                       // whose data or attributes change; for create the new object, known in after()
  const Handle* handle = nullptr;        // of `object`, may be null
  int fd = -1;                           // of `object`: readable for data verbs, O_PATH may do for attributes
  Extent extent;  // write, allocate, copy_range: the range; truncate: off = new size, len = what is cut off
  bool size_may_change = false;
  Promise promise = Promise::soon;
  std::span<const std::byte> payload;    // the bytes of a write
  Kind kind = Kind::none;                // create, make, symlink, tmpfile
  NameChange names[2];                   // rename uses both (and exchanges with RENAME_EXCHANGE), the others one
  int name_count = 0;
  bool excluded = false;                 // lies in an excluded part of the volume: capture skips it
};

// before() runs with the locks of the object or the names held, and must not wait for anything outside the process;
// after() runs under the same locks, once the system call took effect, before the reply. Not called when it failed, unless
// part of it may have taken effect.
class Layer {
 public:
  virtual ~Layer() = default;
  virtual const char* name() const noexcept = 0;
  virtual void before(const Operation& op) noexcept = 0;
  virtual void after(const Operation& op) noexcept = 0;
};

// The outermost layer decides whether an operation may start: before any lock is taken. `bytes` is what parking it would
// keep in memory. Either `go` runs at once on this thread, or it is parked and runs later, in order, on the thread that
// releases it. `own` is called (once) only when it is parked: it copies what is borrowed from the caller, for `go` to use.
class Admission {
 public:
  virtual ~Admission() = default;
  virtual void pass(std::size_t bytes, const std::function<void()>& own, std::function<void()> go) = 0;
};

// before() in order, after() in reverse order: [cow][capture] with the gate as Admission in front.
class Chain {
 public:
  Chain(Admission* admission, std::vector<Layer*> layers) : admission_(admission), layers_(std::move(layers)) {}
  Admission* admission() const { return admission_; }  // null: everything passes
  void before(const Operation& op) const noexcept {
    for (Layer* l : layers_) l->before(op);
  }
  void after(const Operation& op) const noexcept {
    for (auto l = layers_.rbegin(); l != layers_.rend(); ++l) (*l)->after(op);
  }
  const std::vector<Layer*>& layers() const { return layers_; }

 private:
  Admission* admission_;
  std::vector<Layer*> layers_;
};

}  // namespace somfs::fs
