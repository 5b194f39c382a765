// SPDX-License-Identifier: Apache-2.0
// Objects and names of the source on their way to the mirror: reads them from the tree and writes group records, in batches.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/sync.h"
#include "replicator/delta.h"
#include "replicator/group.h"
#include "replicator/history.h"
#include "replicator/link.h"
#include "replicator/sender.h"
#include "replicator/tree.h"

namespace somfs::replicator {

// Paths relative to the root that are neither sent nor removed, each with everything beneath it.
class Excludes {
 public:
  explicit Excludes(const std::vector<std::string>& paths);
  bool empty() const { return paths_.empty(); }
  bool covers(const std::string& path) const;
  const std::vector<std::string>& paths() const { return paths_; }
  std::string joined() const;                    // newline-separated, sorted

 private:
  std::vector<std::string> paths_;
};

struct StagedFile {
  std::uint64_t size = 0;
  Time mtime, ctime;
  std::string hash;
};

// What one attempt shares. Its parts synchronise themselves; what is not atomic or guarded is constant while records are made.
class Run {
 public:
  Run(Tree& t, const Source& s, const MigrateOptions& o, Progress& p, Link& l)
      : tree(t), source(s), options(o), progress(p), link(l), excludes(s.excludes) {}

  Tree& tree;
  const Source& source;
  const MigrateOptions& options;
  Progress& progress;
  Link& link;
  const Excludes excludes;
  std::uint64_t mirror_objects = 0;              // what it says it holds
  std::uint32_t mirror_user = 0;                 // whom it runs as
  std::atomic<bool> foreign_owners{false};       // something was sent that cannot belong there to whom it belongs here
  std::unordered_map<ObjectId, StagedFile> staged;
  std::unordered_set<ObjectId> skip;             // could not be read to their end in an earlier attempt
  std::optional<EpochRoot> history;              // of what is sent, in its order: who holds the turn adds to it

  std::atomic<std::uint64_t> files{0}, names{0}, removed{0}, bytes_source{0}, bytes_records{0};
  std::atomic<std::uint64_t> subtrees{0}, compared{0};   // below marks, and objects looked at on both sides

  void unreadable(const std::string& path, const Error& error) EXCLUDES(mutex_);
  std::vector<std::string> take_unreadable() EXCLUDES(mutex_);
  bool any_unreadable() EXCLUDES(mutex_);
  // Part of it is at the mirror and the rest cannot follow: this attempt ends, the next one skips it.
  void torn(const ObjectId& id) EXCLUDES(mutex_);
  std::vector<ObjectId> take_torn() EXCLUDES(mutex_);

  // Sending: whole batches, one sender at a time. Who holds the turn keeps others from sending between its batches.
  void take_turn(const void* who) EXCLUDES(mutex_);
  void give_turn(const void* who) noexcept EXCLUDES(mutex_);
  Status send_batch(std::string bytes, std::string leaf);   // with the turn held; `leaf`: the batch's hash

 private:
  Mutex mutex_;
  CondVar turn_free_;
  const void* turn_ GUARDED_BY(mutex_) = nullptr;
  std::vector<std::string> unreadable_ GUARDED_BY(mutex_);
  std::vector<ObjectId> torn_ GUARDED_BY(mutex_);
};

// How the bytes of a file travel.
struct Data {
  enum class How : std::uint8_t {
    none,      // attributes only
    extents,   // in place: these ranges, with holes as holes
    all,       // everything: a new file, or a rewritten one
    delta,     // everything, against `basis` when `signature` helps
  } how = How::none;
  const snapshot::ExtentSet* extents = nullptr;
  ObjectId basis;
  Signature* signature = nullptr;
};

// Records of one thread. An object larger than a batch keeps the turn until it is complete, so its records stay together.
class Emitter {
 public:
  explicit Emitter(Run& run) : run_(run) {}
  ~Emitter() { run_.give_turn(this); }
  Emitter(const Emitter&) = delete;
  Emitter& operator=(const Emitter&) = delete;

  // (dir, name) is what messages call it. `record` has id, flags, parent and name; attributes, target and (kNew or kXattr) extended attributes are read from the file.
  // False: it could not be read; it was named and nothing about it was sent.
  // An object that may be known to the mirror and fails when part of it has been sent ends the attempt: Run::torn.
  Result<bool> object(TreeFile& file, ObjectRecord record, const Data& data, const Place& dir, const std::string& name);
  Status name(const ObjectId& parent, const std::string& name, const ObjectId& object);
  Status flush();                                // everything so far is on its way

 private:
  // A second one of the same object, for a thread of its own; null where there is none to be had.
  using Again = std::function<Result<TreeFilePtr>()>;
  Status write_object(TreeFile& file, ObjectRecord& record, const Data& data, const Again& again);
  Status write_ranges(TreeFile& file, const snapshot::ExtentSet* ranges, bool holes);
  Status write_range(TreeFile& file, std::uint64_t from, std::uint64_t to, bool holes);
  Result<bool> write_delta(TreeFile& file, ObjectRecord& record, const Data& data, const Again& again);
  Result<bool> write_reuse(TreeFile& file, const ObjectRecord& record);
  Status spill();
  bool full() const { return out_.size() >= kBatch; }

  static constexpr std::size_t kBatch = 768u << 10, kPiece = 256u << 10;
  Run& run_;
  std::string out_, buffer_;
  bool spilled_ = false;                         // part of the current object has been sent
  std::vector<NameRecord> unborn_;               // new objects that could not be read to their end: their names go again
};

// The content of a file in order, or of [from, end) of it, holes as zeroes that are not read.
PieceSource content_of(TreeFile& file, std::atomic<std::uint64_t>* read_bytes, std::uint64_t from = 0, std::uint64_t end = ~0ull);
std::uint64_t data_bytes(TreeFile& file);   // holes left out, as far as can be told
Result<std::string> content_hash(TreeFile& file, std::atomic<std::uint64_t>* read_bytes);   // SHA-256
// Whether the file's content is the one the signature was made of, when the sizes agree.
Result<bool> same_content(TreeFile& file, const Signature& signature, std::atomic<std::uint64_t>* read_bytes);

}  // namespace somfs::replicator
