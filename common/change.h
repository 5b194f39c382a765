// SPDX-License-Identifier: Apache-2.0
// Change: the record of one mutation that took effect; ChangeSink: who wants to know. The noun and the verb of somfs.
// Portable core: the C++ standard library alone.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "common/object.h"

namespace somfs {

enum class ChangeKind : std::uint8_t {
  write = 1,     // object, extent: bytes were written (or allocated, punched, zeroed) there
  truncate = 2,  // object, extent.off = the new size; what lies beyond is gone
  attr = 3,      // object: mode, owner or times
  xattr = 4,     // object: extended attributes or ACLs
  born = 5,      // object came to be; `kind` set. A `bind` follows where it has a name at once (O_TMPFILE has none)
  bind = 6,      // (parent, name) now names `object`; what it named before is in `old`, if anything
  unbind = 7,    // (parent, name) names nothing now; `old` is what it named
  whole = 8,     // object: it is not known what changed in it: all of it
  subtree = 9,   // object: a directory: it is not known what changed anywhere below it
};

// Sequence numbers order changes; clocks never do. `seq` is given by the sink in accept(), under the caller's object or
// namespace lock, so dependent changes are numbered in the order in which they took effect.
struct Change {
  ChangeKind what = ChangeKind::whole;
  ObjectId object;
  Extent extent;
  Kind kind = Kind::none;          // born
  ObjectId parent;                 // bind, unbind
  std::string_view name;           // bind, unbind; borrowed for the call
  ObjectId old;                    // bind, unbind
  const Handle* handle = nullptr;  // of `object`, where known; borrowed for the call
};

// How durable the first-touch mark of an operation has to be before the operation is issued.
enum class Promise : std::uint8_t {
  soon,  // within a second: plain writes
  now,   // before the call is issued: O_SYNC, O_DSYNC and O_DIRECT writes
};

// Implemented by the journal (and by whoever copies bytes). All calls are noexcept and may come from many threads; the
// caller holds the lock of the objects concerned. Replication never fails the application: nothing here returns an error.
class ChangeSink {
 public:
  virtual ~ChangeSink() = default;

  // Before the system call: `object` is about to change in this epoch. The first touch of an epoch appends a mark.
  // For names, call it for the parent directory.
  virtual void intend(const ObjectId& object, const Handle* handle, Promise promise) noexcept = 0;

  // After the system call took effect, before the reply. `payload` holds the bytes of a write: there for whoever copies them.
  virtual void accept(const Change& change, std::span<const std::byte> payload) noexcept = 0;

  // Before fsync/fdatasync returns: every mark made so far is durable when this returns.
  virtual void make_marks_durable() noexcept = 0;
};

// A source of dirty extents that has neither payload nor order (a later, faster capture): collected at a cut.
class DirtySource {
 public:
  virtual ~DirtySource() = default;
  struct Item {
    ObjectId object;
    Handle handle;
    Extent extent;
  };
  // Hands over everything dirtied since the last call; `take` may be called any number of times.
  virtual void collect(const std::function<void(const Item&)>& take) = 0;
};

// Whether mutations were held, and if not, why.
struct Held {
  enum Why {
    held,
    in_flight,  // some that ran already did not end in time
    too_long,   // the bound on the time passed
    too_many,   // the bound on what waits was reached
    ending,     // the volume ends, and lets everything go
    other       // somebody else holds or held them
  } why = held;
  explicit operator bool() const { return why == held; }
};

// Stops and releases mutations. Not tied to the FUSE gate.
class Freezer {
 public:
  virtual ~Freezer() = default;
  // Closes and waits until no mutation is half done. Not held: it is open again. It opens by itself `hold_ms` after closing,
  // whatever the caller does.
  virtual Held freeze(unsigned drain_ms, unsigned hold_ms) = 0;
  // Opens; parked operations go on in order. Not held: it had opened by itself before (the cut did not hold).
  virtual Held thaw() = 0;
};

// Attests what was promised: an answer that says "durable" may have to wait until somebody else holds it durably as well.
class Witness {
 public:
  virtual ~Witness() = default;
  // Cheap: whether any answer may have to wait at all. A caller may skip the call below when false.
  virtual bool wanted() const noexcept = 0;
  // What the answer covers is durable here, and its changes were accepted. `answer` runs once and soon: on this thread before this
  // returns, or on another when the witness holds all that was accepted before the call, or is not waited for any longer. It must
  // neither throw nor wait. The caller holds no lock, and does not wait: a freeze need not wait for it either. Whoever the witness needs
  // for its work must not ask it, or both wait until time is up.
  virtual void attest(std::function<void()> answer) noexcept = 0;
};

// Keeps what is about to be overwritten, for the newest snapshot. The caller holds the object's lock, or the namespace lock
// for names. Nothing is returned: when a pre-image cannot be kept, the snapshots that need it are dropped, and the write goes on.
class PreImages {
 public:
  virtual ~PreImages() = default;
  // Cheap: whether any snapshot exists at all. A caller may skip the calls below when false.
  virtual bool wanted() const noexcept = 0;
  // Data in [extent) of a regular file is about to change (or be cut off: extent.len may reach beyond the end).
  // `fd` can be read from.
  virtual void before_data(const ObjectId& object, int fd, Extent extent) noexcept = 0;
  // Mode, owner, times, size or extended attributes are about to change. `fd` may be an O_PATH descriptor.
  // Called before before_data as well: a write changes size and times.
  virtual void before_attr(const ObjectId& object, int fd) noexcept = 0;
  // (parent, name), which now names `child` (or nothing: {}), is about to name something else. `child_fd` is an O_PATH
  // descriptor of the child or -1. `last`: this may be the child's last name, so the store links it to keep it.
  virtual void before_name(const ObjectId& parent, int parent_fd, std::string_view name, const ObjectId& child,
                           const Handle* child_handle, int child_fd, bool last) noexcept = 0;
  // The application met a full disk: gives back the space of one snapshot. False: there is none left to give, also not by
  // somebody else who is at it.
  virtual bool make_room() noexcept { return false; }
  // How many links the store itself holds on the object: to be subtracted from st_nlink.
  virtual std::uint32_t own_links(const ObjectId& object) const noexcept = 0;
};

}  // namespace somfs
