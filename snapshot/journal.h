// SPDX-License-Identifier: Apache-2.0
// The change journal of one volume (invariant 2). An append-only log in preallocated, memory-mapped segments: an append is a copy
// into a mapped page, so it survives kill -9 without a system call; a flusher makes it durable within a second, fsync at once.
//
//   marks    activity log: the first touch of an object in an epoch. Durable before fsync returns, and before an O_SYNC or
//            O_DIRECT write is issued; else within a second. Kept across epochs until the object was quiet for one.
//   changes  exact extents and names, behind the marks.
//   epochs   rotate() ends one at a cut. Epochs are compacted to one dirty set each and kept until every target acknowledged them.
//
// Files in `dir` (docs/formats/journal.md): `state` (replaced atomically), `log-N` segments, `epoch-N` dirty sets.
// Thread-safe. Never returns an error to the data path: when the log cannot be written, the volume is flagged
// for a gap scan (durably, as soon as that can be written) and capture goes on in memory.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/change.h"
#include "common/clock.h"
#include "common/result.h"
#include "common/uuid.h"
#include "snapshot/dirty_set.h"

namespace somfs::snapshot {

// What a journal knows of the time since it was last written: decides about a gap scan at mount.
enum class Gap : std::uint8_t {
  none,       // a new volume: nothing to compare with
  unmounted,  // clean stop: changes beneath are possible since the clean mark
  killed,     // no clean stop, same boot id: the log is complete up to the kill; changes beneath since then are possible
  crashed,    // no clean stop, another boot: only what was durable is known, and the source may be older than its mirror
  rolled_back,// wall clock before the last mark, another file-system UUID, or a state that does not belong here: compare by content
  broken,     // the journal could not be read or written: compare by content
};

struct TargetState {
  std::string target;            // as the user wrote it, normalised
  Uuid mirror;                   // the mirror's own id, learnt at the first contact
  std::uint64_t acked_epoch = 0; // the mirror holds everything up to the cut that ended this epoch; 0: nothing
  std::int64_t acked_cut_ns = 0; // wall clock of that cut, for the lag; 0: unknown
  bool gap = false;              // the next migration has to compare with the mirror's catalog
  bool content = false;          // ... and contents with hashes, not only ids, sizes and times
  std::string root{};            // of the mirror's history up to acked_epoch: 32 bytes that the sender made, or empty: not known
};

class Journal final : public ChangeSink {
 public:
  struct Options {
    std::size_t segment_bytes = 4u << 20;
    std::size_t log_bytes = 64u << 20;     // beyond it the running epoch is compacted to disk, and its segments go
    Uuid boot;                             // nil: the kernel's
    unsigned flush_ms = 500;               // marks are durable within a second
    DirtySet::Bounds bounds;
    bool start_flusher = true;             // tests drive flush() themselves
    std::function<void()> on_first_change; // an epoch has its first change; called on the data path without locks, must not block
  };
  // `dir_fd`: the journal's directory. `fs_id`: identity of the backing file system and of the root, compared with the last one.
  static Result<std::unique_ptr<Journal>> open(int dir_fd, const std::string& fs_id, const Clock& clock, Options options);
  ~Journal() override;                     // without close(): as after a kill

  // ChangeSink
  void intend(const ObjectId& object, const Handle* handle, Promise promise) noexcept override;
  void accept(const Change& change, std::span<const std::byte> payload) noexcept override;
  void make_marks_durable() noexcept override;

  Uuid volume() const;                     // made at the first open
  Uuid generation() const;                 // random, new whenever this side starts a new history; with ancestors
  std::vector<Uuid> ancestors() const;
  Gap gap_found() const;                   // at open
  std::int64_t trusted_until_ns() const;   // wall clock: inodes whose ctime is not older (less a margin) are suspect after a gap
  std::uint64_t epoch() const;             // the current, unfinished one; starts at 1
  std::uint64_t last_seq() const;
  std::uint64_t changes_in_epoch() const;  // 0: a cut needs no freeze
  // Wall clock of the first change after the end of `epoch` that was seen since open, never later than it was; 0: none was.
  std::int64_t changed_since_ns(std::uint64_t epoch) const;

  // At a cut, with every mutation stopped: ends the epoch and returns its number. Cheap; compaction to disk happens behind.
  std::uint64_t rotate() noexcept;

  // Targets. An unknown target starts at acked_epoch 0 with gap = false: full.
  Result<TargetState> target(const std::string& target) const;  // not found: Exit::not_allowed
  std::vector<TargetState> targets() const;
  // Everything in (acked_epoch(target), up_to]; nullopt when it was dropped (bound) or a gap makes it incomplete.
  // The end of `up_to` is durable when this returns. Where epochs were merged it may reach further back than asked: an object
  // it calls `born` may then be known to the mirror.
  std::optional<DirtySet> dirty_since(std::uint64_t acked_epoch, std::uint64_t up_to) const;
  // The same, complete or not: what a migration after a gap sends whatever the mirror's catalog says.
  DirtySet known_since(std::uint64_t acked_epoch, std::uint64_t up_to) const;
  // The target durably holds the cut that ended `epoch`, made at `cut_ns` by the wall clock; `root` is kept with it. Epochs every target has
  // are dropped. Durable on return.
  Status acknowledge(const std::string& target, const Uuid& mirror, std::uint64_t epoch, std::int64_t cut_ns = 0, const std::string& root = {});
  Status forget(const std::string& target);

  // The gap scan's findings enter as marks; finish_gap_scan() says the scan is complete.
  void found(const ObjectId& object, const Handle* handle, bool subtree) noexcept;
  Status finish_gap_scan();
  bool gap_scan_wanted() const;            // until it is finished; false where contents are compared anyway
  // Whether what the journal recorded before this start, or marks since, explain that the object's ctime is young.
  bool explains(const ObjectId& object) const;
  void flag_gap(bool content) noexcept;    // all targets must compare at the next migration
  // That one must, known yet or not: it is about to hold less than the running epoch's beginning. Durable on return.
  Status flag_gap_of(const std::string& target);

  // Snapshot bookkeeping rides in the same state file: an opaque blob owned by the snapshot catalog.
  Status flush();                          // everything appended so far is durable
  Status close();                          // clean mark: nothing is written behind it, and acknowledge() refuses (Exit::temporary)

  struct Stats {
    std::uint64_t appended_bytes = 0, syncs = 0, marks = 0, dirty_objects = 0, dirty_names = 0;
    bool degraded = false;                 // the bound was hit: wholes, subtrees or the volume
    std::string trouble;                   // why the log could not be written, empty when all is well
  };
  Stats stats() const;

 private:
  struct Impl;
  explicit Journal(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace somfs::snapshot
