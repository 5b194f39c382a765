// SPDX-License-Identifier: Apache-2.0
// The tree a migration reads: a snapshot's view, or one in a test's memory. Contracts as in snapshot/view.h: a tree may be used from
// several threads, an object from one at a time.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "snapshot/view.h"

namespace somfs::replicator {

using snapshot::Ref;
using snapshot::ViewEntry;

class TreeFile {
 public:
  virtual ~TreeFile() = default;
  virtual const Ref& ref() const = 0;
  virtual const Attr& attr() const = 0;
  virtual Result<Xattrs> xattrs() = 0;
  virtual Result<std::string> link_target() = 0;
  virtual Result<std::size_t> read(void* buf, std::size_t n, std::uint64_t off) = 0;
  virtual Result<std::optional<Extent>> next_data(std::uint64_t off) = 0;
};
using TreeFilePtr = std::unique_ptr<TreeFile>;

class Tree {
 public:
  virtual ~Tree() = default;
  virtual Result<TreeFilePtr> root() = 0;
  virtual Result<std::vector<ViewEntry>> list(TreeFile& dir) = 0;
  virtual Result<std::optional<Ref>> lookup(TreeFile& dir, const std::string& name) = 0;
  virtual Result<TreeFilePtr> open_in(TreeFile& dir, const ViewEntry& entry) = 0;
  virtual Result<TreeFilePtr> open(const Ref& ref) = 0;   // null: did not exist, or had no name, at the cut
  virtual bool has_handles() const = 0;
};

std::unique_ptr<Tree> tree_of(snapshot::View& view);   // borrowed

// A directory of the tree as it was reached: enough to open it again, and to name it in messages.
struct Place {
  std::shared_ptr<const Place> parent;   // null: the root, or reached by its handle
  ViewEntry entry;                       // the root: an empty name
  std::string path() const;              // relative to the root, as bytes; of one reached by its handle "#INODE"
};
using PlacePtr = std::shared_ptr<const Place>;

Result<TreeFilePtr> open_place(Tree& tree, const Place& place);
std::string path_in(const Place& dir, const std::string& name);

// A read error of one object: it is named and skipped. Everything else ends the run.
bool spares_the_rest(const Error& error);

}  // namespace somfs::replicator
