// SPDX-License-Identifier: Apache-2.0
// Plays a committed redo list onto tree/. Every step looks first whether it is still to be done, by the identity of inodes, so the
// whole may be repeated from its start after a crash at any point:
//   clear   whatever holds a changed name and shall not: if it lives on, it moves to stage/ROW; else it goes
//   place   what shall hold the name comes from stage/ROW, or as a further link
//   change  data, sizes, extended attributes and attributes in place; directories last, as the steps before touched their times
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/result.h"
#include "common/sync.h"
#include "replicator/mirror_catalog.h"
#include "replicator/mirror_journal.h"
#include "replicator/mirror_paths.h"

namespace somfs::replicator {

// Removes names beside the thread that looks for them: most of the time goes to the file system. In the order given.
class Remover {
 public:
  ~Remover();
  // The descriptor is kept until the name is gone.
  void remove(const SharedFd& dir, std::string name);
  // All that was given is gone, or the first failure.
  Status finish();

 private:
  struct Batch {
    SharedFd dir;
    std::vector<std::string> names;
  };
  void run();
  void hand_over();
  static std::optional<Error> remove_all(const Batch& batch);

  Batch next_;
  Mutex mutex_;
  CondVar change_;
  std::deque<Batch> queue_ GUARDED_BY(mutex_);
  bool busy_ GUARDED_BY(mutex_) = false, ended_ GUARDED_BY(mutex_) = false;
  std::optional<Error> error_ GUARDED_BY(mutex_);
  std::size_t given_ = 0;
  std::thread thread_;                                      // where there are many
};

class Apply {
 public:
  // `db` shows the committed state; descriptors are borrowed.
  Apply(CatalogDb& db, int tree, int stage, int journal, std::string redo)
      : db_(db), paths_(tree, stage, db), journal_(journal), redo_(std::move(redo)) {}
  // Durable when it returns. An ordinary user's: `widened` by a run before, and how to keep what this one widens (TreePaths::enter_all()).
  Status run(TreePaths::Modes widened, std::function<Status(const TreePaths::Modes&)> keep);

 private:
  struct NameAt {
    Row parent;
    std::string name;
    auto operator<=>(const NameAt&) const = default;
  };
  Status play();
  Status collect();
  Status clear();
  Status clear_name(const NameAt& n, const SharedFd& dir);
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
  Remover remover_;
};

}  // namespace somfs::replicator
