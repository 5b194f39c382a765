// SPDX-License-Identifier: Apache-2.0
// The inside of Journal, shared by its sources.
//
// Two locks. `keep_mu_` orders everything slow: the state file, the pieces, the targets. `mu_` guards what the data path
// touches; nothing waits for a disk under it, but for making a segment when the spare is not ready. Lock order: keep_mu_ → mu_.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/fd.h"
#include "common/sync.h"
#include "snapshot/journal.h"
#include "snapshot/journal_epochs.h"
#include "snapshot/journal_log.h"
#include "snapshot/journal_state.h"

namespace somfs::snapshot {

struct Journal::Impl {
  Impl(Fd dir, const Clock& clock, Options options)
      : dir_(std::move(dir)), clock_(clock), options_(options),
        epochs_(dir_.get(), options.bounds), dirty_(options.bounds) {}
  ~Impl();

  // journal_open.cc
  struct Found;
  struct Replay;
  Status open(const std::string& fs_id) EXCLUDES(keep_mu_, mu_);
  Status look(Found* found) const;
  Status recover(Found& found, const std::string& fs_id) REQUIRES(keep_mu_);
  void replay(const Found& found, Replay* out) const REQUIRES(keep_mu_);
  Status keep_replayed(Replay& log) REQUIRES(keep_mu_);
  Status start_anew(const Found& found, const Replay& log) REQUIRES(keep_mu_);

  // Appending.
  void append(RecordType type, std::string_view body) REQUIRES(mu_);
  bool start_segment(std::uint64_t epoch) REQUIRES(mu_);
  void mark(const ObjectId& object, const Handle* handle) REQUIRES(mu_);
  void everything() REQUIRES(mu_);
  void lose_log(const std::string& why) REQUIRES(mu_);
  bool take_in(const Change& change) EXCLUDES(mu_);               // whether it is the epoch's first
  void note_first_change() REQUIRES(mu_);

  // Durability: everything appended up to `position`. Callers share one sync.
  void make_durable(std::uint64_t position) EXCLUDES(mu_);
  int sync_files(const std::vector<std::shared_ptr<Segment>>& files, bool names);

  // Behind the data path.
  void hand_over(bool epoch_ends) REQUIRES(mu_);
  Status settle() REQUIRES(keep_mu_) EXCLUDES(mu_);
  Status write_state() REQUIRES(keep_mu_) EXCLUDES(mu_);
  void flag_gap(bool content) REQUIRES(keep_mu_) EXCLUDES(mu_);
  void drop_acknowledged() REQUIRES(keep_mu_) EXCLUDES(mu_);
  Status tend() EXCLUDES(keep_mu_, mu_);  // one round of the keeper
  void keep(std::stop_token stop);

  const Fd dir_;
  const Clock& clock_;
  const Options options_;
  Gap gap_found_ = Gap::none;             // constant after open
  std::uint64_t complete_from_ = 0;       // constant after open: windows that begin before this epoch's end have a gap

  mutable Mutex keep_mu_;
  JournalState state_ GUARDED_BY(keep_mu_);
  mutable Epochs epochs_ GUARDED_BY(keep_mu_);
  bool closed_ GUARDED_BY(keep_mu_) = false;

  mutable Mutex mu_;
  CondVar synced_;
  struct Finished {                       // a dirty set on its way to disk
    std::uint64_t first = 0, last = 0;    // epochs
    DirtySet set;
    std::unordered_map<ObjectId, Handle> marks;     // freed behind the data path
    std::unordered_set<ObjectId> in_flight;
    std::uint64_t log_from = 0;           // segments before this one are contained; 0: unknown
    std::int64_t wall_ns = 0;             // when that segment was begun
  };
  std::deque<Finished> finished_ GUARDED_BY(mu_);
  DirtySet dirty_ GUARDED_BY(mu_);
  std::unordered_map<ObjectId, Handle> marks_ GUARDED_BY(mu_);    // of the running epoch
  std::unordered_set<ObjectId> in_flight_ GUARDED_BY(mu_);        // marked, and no change seen yet
  bool all_marked_ GUARDED_BY(mu_) = false;
  std::unordered_set<ObjectId> recovered_ GUARDED_BY(mu_);        // what the journal knew at open, until the gap scan is done
  std::shared_ptr<Segment> current_ GUARDED_BY(mu_), spare_ GUARDED_BY(mu_);
  std::vector<std::shared_ptr<Segment>> unsynced_ GUARDED_BY(mu_);  // full ones that are not durable yet
  bool names_dirty_ GUARDED_BY(mu_) = false;                      // a segment was made since the directory was synced
  bool syncing_ GUARDED_BY(mu_) = false;
  bool making_spare_ GUARDED_BY(mu_) = false;                     // by one thread: a second one's spare would replace it
  std::uint64_t next_segment_ GUARDED_BY(mu_) = 1;
  std::uint64_t log_size_ GUARDED_BY(mu_) = 0;                    // since the last hand-over
  std::uint64_t epoch_ GUARDED_BY(mu_) = 1;
  std::uint64_t seq_ GUARDED_BY(mu_) = 0, changes_ GUARDED_BY(mu_) = 0;
  struct FirstChange {
    std::uint64_t epoch = 0;
    std::int64_t wall_ns = 0;
  };
  std::deque<FirstChange> first_changes_ GUARDED_BY(mu_);         // of epochs that have any, oldest first; bounded
  Uuid volume_ GUARDED_BY(mu_), generation_ GUARDED_BY(mu_);      // for segment headers
  std::string scratch_ GUARDED_BY(mu_);
  std::string trouble_ GUARDED_BY(mu_);
  bool gap_wanted_ GUARDED_BY(mu_) = false;                       // trouble happened: the keeper flags it
  bool degraded_ GUARDED_BY(mu_) = false;
  Stats counts_ GUARDED_BY(mu_);

  // Positions in the log since open, in bytes. Written under mu_; read without it where a stale value only costs a lock.
  std::atomic<std::uint64_t> appended_{0}, last_mark_{0}, durable_{0};

  std::jthread keeper_;                   // last: ends first
};

}  // namespace somfs::snapshot
