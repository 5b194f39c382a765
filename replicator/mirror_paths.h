// SPDX-License-Identifier: Apache-2.0
// From a row of the catalog to a descriptor of the inode that holds it: under stage/ while it has no place, else by its chain of
// names beneath tree/. Component-wise, links and mounts never followed, and every step is checked against the inode the catalog
// tells: what somebody planted in the tree is not found. One thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/fd.h"
#include "common/result.h"
#include "replicator/mirror_catalog.h"

namespace somfs::replicator {

using SharedFd = std::shared_ptr<Fd>;

// Opens one component beneath `dir` (openat2: beneath, no symbolic links, no magic links, no other device). Sets errno.
Fd open_beneath(int dir, const std::string& name, int flags);
// What lies at a name: nothing when there is nothing. Other errors are errors.
Result<std::optional<Inode>> look(int dir, const std::string& name);
std::string stage_name(Row row);  // the row in hexadecimal

class TreePaths {
 public:
  // Descriptors are borrowed.
  TreePaths(int tree, int stage, CatalogDb& db) : tree_(tree), stage_(stage), db_(&db) {}

  int tree() const { return tree_; }
  int stage() const { return stage_; }
  // A descriptor of a directory, readable; null when it is not where the catalog says (yet).
  Result<SharedFd> directory(Row row);
  // Opens the object wherever it lies (`flags` as for open; O_PATH always works); null when it is not found.
  Result<SharedFd> open(const ObjectRow& row, int flags);
  void keep(Row row, SharedFd fd);
  void forget(Row row) { cache_.erase(row); }

  // The modes of directories that were widened. Kept before each is, they are put back whatever happens.
  using Modes = std::map<Row, std::uint32_t>;
  static Modes modes_of(std::string_view text);
  static std::string text_of(const Modes& modes);
  // An ordinary user's: from now on it gives itself, where it has to pass, the rights that the mode of a directory of its own keeps from it.
  // `before`: what a run that did not end left widened. `keep` makes all that are widened now durable.
  void enter_all(Modes before, std::function<Status(const Modes&)> keep);
  // Such a directory has a new mode, which is the one to stay.
  void has_new_mode(Row row);
  // Puts the modes back, durably.
  Status leave_all();

 private:
  struct Entered {
    Row row;
    std::uint32_t mode;
    Fd fd;
  };
  Result<SharedFd> entered(int dir, const std::string& name, const ObjectRow& row);
  Status give_rights(Row row, Fd fd, std::uint32_t mode);
  Result<SharedFd> checked(int dir, const std::string& name, const ObjectRow& row, int flags);

  int tree_, stage_;
  CatalogDb* db_;
  std::unordered_map<Row, SharedFd> cache_;
  bool enters_ = false;
  std::vector<Entered> entered_;
  Modes modes_;
  std::function<Status(const Modes&)> keep_;
};

}  // namespace somfs::replicator
