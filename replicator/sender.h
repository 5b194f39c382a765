// SPDX-License-Identifier: Apache-2.0
// The source's side of a migration: plan against the mirror, read from the snapshot alone, send one group, have it committed.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/result.h"
#include "common/uuid.h"
#include "replicator/wire.h"
#include "snapshot/dirty_set.h"
#include "snapshot/view.h"

namespace somfs::replicator {

struct Changes {
  snapshot::DirtySet set;
  bool complete = false;                              // nothing that changed is missing from it
};

// The source as the migrator sees it: a snapshot, what changed since the target's last epoch, and who the volume is.
struct Source {
  snapshot::View* view = nullptr;
  Uuid volume, generation;
  std::vector<Uuid> ancestors;
  std::uint64_t base_epoch = 0;                       // what the target had acknowledged; 0: nothing
  std::string base_root;                              // of its history up to there, as kept with it (replicator/history.h); empty: it was not kept
  std::uint64_t epoch = 0;                            // the snapshot's
  std::optional<snapshot::DirtySet> dirty;            // what changed since base_epoch; nullopt: unknown, compare with the catalog
  bool gap = false;                                   // `dirty` is not all that changed: compare with the catalog (gap scan)
  // Where set, asked once it is known what the mirror holds: changes from the end of that epoch to the snapshot. Fills `dirty`. So a
  // run that died between the mirror's commit and this side's note of it costs no comparison.
  std::function<Result<Changes>(std::uint64_t epoch)> dirty_since;
  // Asked before something is committed that could not be read in full: the next migration to this mirror has to compare, whatever
  // becomes of this one.
  std::function<Status()> incomplete;
  bool compare_content = false;                       // the gap is of the kind where sizes and times prove nothing
  std::vector<std::string> excludes;                  // paths relative to the volume's root: that file or subtree
};

struct MigrateOptions {
  enum class Want { automatic, full, differential } want = Want::automatic;
  bool dry_run = false;
  bool confirmed = false;                             // the brake was released by a person
  double brake_share = 0.5;
  const char* wants = kMigrate;                       // what the hello says
  std::string host;
  std::string volume_name;                            // at a daemon: which of its mirrors
  std::vector<ObjectId> repair;                       // compare with the catalog, and send these whole whatever it says
};

struct MigrateReport {
  std::string strategy;                               // "full", "differential", "gap-scan"
  Uuid mirror;
  std::uint64_t epoch = 0;
  std::string root;                                   // of the history up to `epoch`, on both sides, to be kept with it; empty: this side knows none
  bool history_differs = false;                       // the mirror was not what it had acknowledged; the first of the notes says how
  std::uint64_t files = 0;                            // objects sent or changed, names changed counted apart
  std::uint64_t names = 0, removed = 0, created = 0;
  std::uint64_t subtrees = 0;                         // a differential: directories compared with all below them, as it was not known what changed there
  std::uint64_t compared = 0;                         // objects that were compared with the mirror's catalog, changed or not
  std::uint64_t bytes_source = 0;                     // read from the snapshot
  std::uint64_t bytes_wire = 0;                       // both ways; a dry run: what would be sent
  double sent_s = 0, committed_s = 0;                 // until the commit was asked for; from then until it was acknowledged
  HowSent how;
  StageTimes times{};                                 // of the stages of both sites (replicator/stage.h), on the wall
  StageBytes bytes{};                                 // ... what went into each: the mirror's as this side handed it over
  bool held = false;
  std::string held_reason;
  std::vector<std::string> unreadable;                // printable paths with reasons: Exit::partial
  std::vector<std::string> notes;                     // what a person should know of this run; what the mirror cannot keep of every file, said once
};

struct Progress {
  std::atomic<std::uint64_t> files{0}, bytes{0};      // done
  std::atomic<std::uint64_t> files_total{0}, bytes_total{0};  // as far as known; 0: unknown
  std::atomic<std::int64_t> heard_ns{0};              // monotonic: when the mirror last said something
  std::atomic<const char*> phase{""};
  std::atomic<bool> totals{false};                    // set by the caller: somebody looks, so a full copy counts what lies before it
  std::atomic<bool> cancelled{false};                 // set by the caller: the run stops with Exit::interrupted
};

// One conversation over a transport just opened; it is closed at the end. Where files were unreadable the next migration
// to this target has to compare (Source::incomplete): what changed in them is not at the mirror.
Result<MigrateReport> migrate(const Source& source, Transport& mirror, const MigrateOptions& options, Progress& progress);

// The same, and where the mirror refuses a differential because it does not know an object (or a comparison because it knows not even
// the root), again over a new transport with less trust.
using Connect = std::function<Result<std::unique_ptr<Transport>>()>;
Result<MigrateReport> migrate(const Source& source, const Connect& connect, const MigrateOptions& options, Progress& progress);

struct Difference {
  std::string path;                                   // printable
  std::string what;                                   // "content", "mode", "owner", "mtime", "xattrs", "only in source", "only in mirror", "kind", "links", "unreadable"
};
struct VerifyReport {
  bool equal = false;                                 // true only when every object of both sides was read and found the same
  std::uint64_t files = 0, bytes = 0;
  std::vector<Difference> differences;                // at most 10 000 are kept; `truncated` says there are more
  bool truncated = false;
  std::vector<std::string> excludes;                  // not compared
  std::vector<std::string> notes;                     // what else was not compared, and why
  std::vector<ObjectId> damaged;                      // objects that a repair has to send whole again
  std::uint64_t mirror_epoch = 0;                     // the mirror's last one
  std::string mirror_root;                            // of its history, as it says; empty: it knows none
  std::optional<bool> root_agrees;                    // with what this side kept of the same epoch; nullopt: one of them has nothing to compare
  // Over everything that was compared, as each side read it (replicator/state_root.h); empty: not everything could be read there.
  std::string source_tree, mirror_tree;
};
struct VerifyOptions {
  std::string volume_name;                            // as in MigrateOptions
  bool deep = false;                                  // the mirror drops what it has in memory of a file before it reads it
};
Result<VerifyReport> verify(const Source& source, Transport& mirror, const VerifyOptions& options, Progress& progress);

}  // namespace somfs::replicator
