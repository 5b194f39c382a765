// SPDX-License-Identifier: Apache-2.0
// Receiving an epoch: new and rewritten objects are born under stage/ with their data, everything else goes to the redo list; the
// catalog's open transaction follows record by record. Belongs to one thread; small new files are created by two lanes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/fd.h"
#include "common/result.h"
#include "replicator/early_sync.h"
#include "replicator/group.h"
#include "replicator/mirror_catalog.h"
#include "replicator/mirror_journal.h"
#include "replicator/mirror_paths.h"

namespace somfs::replicator {

// What an operation of the redo list does to the catalog: the same while receiving and when a held epoch is accepted.
class CatalogPlay {
 public:
  CatalogPlay(CatalogDb& db, std::uint64_t epoch, Row first_new)
      : db_(db), epoch_(static_cast<std::int64_t>(epoch)), first_new_(first_new) {}

  Status play(const RedoOp& op);
  // Afterwards: a directory has one name and hangs on the root; objects without a name are gone.
  Status settle();

  bool is_new(Row row) const { return row >= first_new_; }
  std::uint64_t created = 0, changed = 0, removed = 0;

 private:
  Status check_directories();

  CatalogDb& db_;
  std::int64_t epoch_;
  Row first_new_;
  std::unordered_set<Row> perhaps_nameless_;
  std::unordered_set<Row> bound_directories_;
};

// Content an interrupted run left: where it lies, and the move of it.
struct Leftover {
  SharedFd directory;
  std::string name;
};
using FindLeftover = std::function<Result<std::optional<Leftover>>(const ObjectId&)>;

class Receiver {
 public:
  struct Parts {
    CatalogDb* writer;         // in the epoch's transaction
    CatalogDb* reader;         // committed state
    TreePaths* paths;          // over the writer
    TreePaths* committed;      // over the reader
    RedoWriter* redo;
    CatalogPlay* play;
    FindLeftover leftover;
    Row first_new;
    bool replace_all;
  };
  explicit Receiver(Parts parts);
  ~Receiver();

  Status take(std::string_view records);
  Status finish();             // the last object is closed
  Status sync();               // everything staged is durable
  std::uint64_t staged_bytes() const { return staged_bytes_; }

 private:
  struct Piece {
    std::uint64_t off;
    std::string_view bytes;
  };
  struct Leaf;                 // a new object that is no directory, on its way into being
  struct Stream;               // one whose bytes span batches, or come as a delta

  Status on_object(ObjectRecord r);
  Status on_known(ObjectRecord r, const ObjectRow& known);
  Status on_new(ObjectRecord r);
  Status on_bytes(const Record& r);
  Status on_name(const NameRecord& r);
  Status make_directory(ObjectRecord r, Row row, Row placed_in, int dir, const std::string& name);
  Status begin_leaf(ObjectRecord r, Row row, Row placed_in, SharedFd dir, std::string name);
  Status leaf_done();          // no more records for the pending leaf
  Status run_leaves();
  Status record_leaf(Leaf& leaf);
  Status start_stream();
  Status close_stream();
  Status patch(std::string_view piece, bool end);
  Status take_leftover(std::string_view hash);
  Status bind(Row parent, const std::string& name, Row object);
  Status op(const RedoOp& op);
  void keep_for_sync(Fd fd);
  Result<Row> row_of(const ObjectId& id, bool directory);

  Parts p_;
  Row next_row_;
  bool first_ = true;
  std::vector<std::unique_ptr<Leaf>> leaves_;    // complete within this batch
  std::unique_ptr<Leaf> pending_;
  std::unique_ptr<Stream> stream_;
  std::optional<ObjectRecord> in_place_;
  std::unordered_set<Row> rewritten_, in_place_rows_;
  std::unordered_map<ObjectId, Row> directories_;
  std::vector<Fd> fresh_;
  bool many_ = false;          // too many to sync one by one
  EarlySync early_;
  std::uint64_t staged_bytes_ = 0;
};

}  // namespace somfs::replicator
