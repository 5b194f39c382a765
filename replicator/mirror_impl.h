// SPDX-License-Identifier: Apache-2.0
// What the files of the mirror share; nobody else includes it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "replicator/history.h"
#include "replicator/mirror.h"
#include "replicator/mirror_apply.h"
#include "replicator/mirror_catalog.h"
#include "replicator/mirror_journal.h"
#include "replicator/mirror_paths.h"
#include "replicator/mirror_stage.h"
#include "replicator/spool.h"

namespace somfs::replicator {

// What interrupted runs left in resume/N/{redo,stage}: whole files, found by the source's object id.
class Leftovers {
 public:
  Status load(int state);
  std::size_t count() const { return files_.size(); }
  Result<std::optional<Leftover>> find(const ObjectId& id);
  Result<std::vector<StagedRow>> rows();
  // Puts journal/`redo` and stage/ aside; a new empty stage/ is there afterwards.
  static Status put_aside(int state, const std::string& redo);
  Status clear(int state);

 private:
  struct Place {
    Row parent = 0;              // 0: in the stage itself
    std::string name;
  };
  struct Run {
    std::string directory;       // relative to the state directory
    std::map<Row, Place> directories;
  };
  struct File {
    std::size_t run = 0;
    Place place;
    ObjectId inode;
    Attr attr;
  };
  int state_ = -1;
  std::vector<Run> runs_;
  std::map<ObjectId, File> files_;
};

struct Mirror::Impl {
  struct Epoch {
    Begin begin;
    std::uint64_t run = 0;
    RedoWriter redo;
    TreePaths paths, committed;
    std::optional<CatalogPlay> play;
    std::optional<Receiver> receiver;
    EpochRoot history;
  };

  Fd directory, lock, state, tree, stage, journal;
  std::unique_ptr<CatalogDb> writer, reader;
  Leftovers leftovers;
  Uuid mirror, volume, generation;
  std::string ancestors, fenced;         // raw; the second: generations that a person decided against, newest first
  std::string host;
  std::uint64_t committed = 0, applied = 0, held = 0, run = 0;
  bool pending = false, foreign = false;
  std::string held_reason;
  std::optional<double> most_share;      // who speaks now may not release the brake: the share that counts at most
  std::string history_root;              // of the history up to `committed`; empty: not known
  Hello hello;
  std::unique_ptr<Epoch> epoch;
  std::optional<Error> dead;             // after a failed commit or apply: reopen
  std::shared_ptr<Spool> spool;          // null: no mirror comes after this one

  Status open(const std::string& directory, Mode mode);
  Status open_directory(const std::string& path, Mode mode);
  Status open_state();
  Status load_meta();
  Status initialize();                   // a new catalog: identity, root, what tree/ holds already
  Status adopt();
  Status recover();
  Status apply_pending();
  Status empty_stage();
  // What an unfinished epoch left: kept for a resume, or given up where room is short.
  Status give_up(const std::string& redo, bool keep);
  Status usable() const;
  Standing standing() const;
  void realign();                        // what the spool knows, after anything but an epoch
  bool follows(const Hello& source) const;
  Status write_meta(const RedoHead& head, bool something, const std::string& root_of_it);
  Result<std::string> brake(const Begin& begin, const CatalogPlay& play);
  Status check_space(std::uint64_t in_place);
  using Acknowledge = std::function<void(Committed&)>;
  Result<Committed> commit(const Acknowledge& acknowledge);
  Result<Committed> land(const RedoHead& head, bool something, const CatalogPlay& play, const std::string& root_of_it, const Acknowledge& acknowledge);
  Status decide_held(bool accept);
  void abort(bool keep = true) noexcept;
};

}  // namespace somfs::replicator
