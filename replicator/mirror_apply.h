// SPDX-License-Identifier: Apache-2.0
// Plays a committed redo list onto tree/. Every step looks first whether it is still to be done, by the identity of inodes, so the
// whole may be repeated from its start after a crash at any point:
//   clear   whatever holds a changed name and shall not: if it lives on, it moves to stage/ROW; else it goes
//   place   what shall hold the name comes from stage/ROW, or as a further link
//   change  data, sizes, extended attributes and attributes in place; directories last, as the steps before touched their times
#pragma once

#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/result.h"
#include "replicator/mirror_catalog.h"
#include "replicator/mirror_journal.h"
#include "replicator/mirror_paths.h"

namespace somfs::replicator {

class Apply {
 public:
  // `db` shows the committed state; descriptors are borrowed.
  Apply(CatalogDb& db, int tree, int stage, int journal, std::string redo)
      : db_(db), paths_(tree, stage, db), journal_(journal), redo_(std::move(redo)) {}
  // Durable when it returns.
  Status run();

 private:
  struct NameAt {
    Row parent;
    std::string name;
    auto operator<=>(const NameAt&) const = default;
  };
  Status collect();
  Status clear();
  Status clear_name(const NameAt& n, int dir);
  Status evict(int dir, const std::string& name, const Inode& holder, bool may_be_replaced);
  Status empty_trash(bool* moved);
  Status place(const NameAt& n);
  Status change();
  Status directories();
  Status sync();
  Status clean_stage();
  bool few() const { return names_.size() + directories_.size() + changed_ <= 16; }

  CatalogDb& db_;
  TreePaths paths_;
  int journal_;
  std::string redo_;
  std::vector<NameAt> names_;
  std::vector<std::pair<Row, ObjectRecord>> directories_;   // stated in this epoch
  std::unordered_set<Row> touched_;                         // directories whose entries changed
  std::vector<std::string> trash_;                          // dead directories under stage/
  std::uint64_t trash_counter_ = 0;
  std::uint64_t changed_ = 0;
};

}  // namespace somfs::replicator
