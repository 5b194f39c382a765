// SPDX-License-Identifier: Apache-2.0
// What a mirror keeps for the mirrors that come after it: the groups of its epochs as they came, one file an epoch, until all of those have them
// (docs/formats/mirror.md, "Spool"). A file is durable before its epoch is committed; where it cannot be, or the bound is met, only the ids of the
// objects that the epoch states are kept, and at the worst nothing: then the next mirror is compared instead. Nothing that happens here fails an epoch.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "common/fd.h"
#include "common/result.h"
#include "common/sync.h"
#include "common/uuid.h"
#include "replicator/wire.h"
#include "snapshot/dirty_set.h"

namespace somfs::replicator {

// The end of one epoch in the history of a volume.
struct Position {
  std::uint64_t epoch = 0;
  Uuid generation;
  bool operator==(const Position&) const = default;
  std::string text() const { return std::to_string(epoch) + " of " + generation.text(); }
};

// Where a mirror stands, and under which lineage.
struct Standing {
  Uuid mirror, volume;               // nil: nothing was ever committed there
  Position at;                       // committed, and applied
  std::vector<Uuid> ancestors;
  std::string host, excludes;        // as the source said them
  bool foreign = false;              // tree/ is not what an epoch made of it: the catalog was built anew
};

struct SpoolHead {
  bool whole = false;                // all of its records follow; else what they touched
  Position from;                     // what the records are to be added to
  Begin begin;                       // ... and make of it
  Position to() const { return {begin.epoch, begin.generation}; }
};

// One file, from its beginning. What is damaged or not complete is an error before anybody is told that it ends.
class SpoolReader {
 public:
  static Result<SpoolReader> open(Fd file);
  const SpoolHead& head() const { return head_; }
  // The next batch of records; nullopt: that was all.
  Result<std::optional<std::string>> next();
  // The ids of the objects that it states, in place of next(): batches are skipped, unread.
  Status touched(const std::function<void(const ObjectId&)>& id);

 private:
  explicit SpoolReader(Fd file) : file_(std::move(file)) {}
  Result<std::uint8_t> piece(bool read_batches);   // its tag; the payload is in block_
  Fd file_;
  SpoolHead head_;
  std::string block_;
  std::uint64_t pieces_ = 0;
};

class Spool {
 public:
  // `bound`: bytes. It takes at most half of the room that would be free without it, too.
  explicit Spool(std::uint64_t bound) : bound_(bound) {}

  // ---- for the mirror, by whoever has it open
  // After it was opened. `state`: its directory. `held`: the epoch that waits for a decision, 0: none.
  void align(int state, const Standing& now, std::uint64_t held);
  void begin(const Begin& begin);
  void take(std::string_view records);
  void seal();                       // before the commit
  void committed(const Standing& now);
  void forget();                     // the epoch was given up
  void leave();                      // it is held, or nobody knows whether it is committed: the next align() finds out

  // ---- for those that forward. Thread-safe
  struct Link {
    std::uint64_t number = 0;        // of its file
    Position from, to;
    bool whole = false;
    std::uint64_t bytes = 0;
  };
  std::optional<Standing> standing() const EXCLUDES(mutex_);   // nullopt: the mirror has not been opened so far
  std::uint64_t bytes() const EXCLUDES(mutex_);
  // A file is kept until everybody who enlisted has passed it. Who does not stand at any needs none.
  int enlist() EXCLUDES(mutex_);
  void stands(int reader, const std::optional<Position>& at) EXCLUDES(mutex_);   // nullopt: not known, everything is kept
  std::optional<Link> after(const Position& at) const EXCLUDES(mutex_);
  bool whole_from(const Position& at) const EXCLUDES(mutex_);  // all that follows can be sent as it came
  Result<SpoolReader> open(const Link& link) const EXCLUDES(mutex_);
  // Objects that were stated since. False: it is not known.
  bool touched(const Position& since, snapshot::DirtySet* out) const EXCLUDES(mutex_);
  void damaged(const Link& link) EXCLUDES(mutex_);             // it, and what is before it, is not to be used again
  // Waits until something has changed since `*seen`, which is brought up to date, or somebody wakes everybody.
  void wait(std::uint64_t* seen, std::chrono::steady_clock::time_point until) const EXCLUDES(mutex_);
  void wake() EXCLUDES(mutex_);

  // Removes what an earlier configuration left in a mirror nobody comes after.
  static void discard(const std::string& mirror);

  static constexpr std::uint64_t kDefaultBound = 1ull << 30;
  static constexpr std::size_t kMostTouched = 1u << 20;        // ids kept of one file

 private:
  struct Part {                      // of the epoch under way
    Fd file;
    std::uint64_t number = 0, pieces = 0, bytes = 0;
    SpoolHead head;
    std::unordered_set<ObjectId> touched;
    bool sealed = false, lost = false;   // lost: not even the ids are known
  };
  static std::string name_of(std::uint64_t number);
  Status put(std::string_view payload);
  Status put_head();
  Status put_touched();
  void only_touched();               // of the part
  void lose_part();
  void make_room() EXCLUDES(mutex_);
  std::uint64_t limit() const REQUIRES(mutex_);
  Status collect(const Link& link, std::unordered_set<ObjectId>* ids) const REQUIRES(mutex_);
  Status thin(std::size_t index) REQUIRES(mutex_);
  void cut(std::size_t links) REQUIRES(mutex_);     // the first so many go
  void prune() REQUIRES(mutex_);
  void read_directory(std::uint64_t held) REQUIRES(mutex_);
  std::optional<std::size_t> index_of(const Position& at) const REQUIRES(mutex_);

  const std::uint64_t bound_;
  std::optional<Part> part_;         // of whoever has the mirror
  std::atomic<std::uint64_t> part_bytes_{0};

  mutable Mutex mutex_;
  mutable CondVar news_;
  std::uint64_t changes_ GUARDED_BY(mutex_) = 0;
  Fd dir_ GUARDED_BY(mutex_);
  bool aligned_ GUARDED_BY(mutex_) = false;
  std::optional<Standing> standing_ GUARDED_BY(mutex_);
  std::vector<Link> links_ GUARDED_BY(mutex_);      // one after the other, up to where the mirror stands
  std::uint64_t next_ GUARDED_BY(mutex_) = 1;
  std::map<int, std::optional<Position>> readers_ GUARDED_BY(mutex_);
};

}  // namespace somfs::replicator
