// SPDX-License-Identifier: Apache-2.0
// `.somfs/snapshots/NAME/…` as the mount shows it: snapshot views behind the filter's VirtualTree.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fs/virtual_tree.h"
#include "snapshot/store.h"

namespace somfs::cli {

class SnapshotTree final : public fs::VirtualTree {
 public:
  // `list`: the snapshots as they are now (Store::list). `root_fd`, `store_fd` outlive this.
  SnapshotTree(int root_fd, int store_fd, std::function<std::vector<snapshot::SnapshotInfo>()> list);
  ~SnapshotTree() override;
  // Views are kept open for a while: those of removed snapshots are closed here.
  void let_go_of_removed();

  NodeId root() override;
  int lookup(NodeId dir, std::string_view name, NodeId* id, struct stat* attr) override;
  void forget(NodeId id, std::uint64_t count) override;
  int getattr(NodeId id, struct stat* attr) override;
  int list(NodeId dir, std::vector<Entry>* entries) override;
  int open(NodeId id, std::uint64_t* handle) override;
  void close(std::uint64_t handle) override;
  int read(std::uint64_t handle, void* buf, std::size_t n, std::uint64_t off, std::size_t* got) override;
  int readlink(NodeId id, std::string* target) override;
  int getxattr(NodeId id, std::string_view name, std::string* value) override;
  int listxattr(NodeId id, std::string* names) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace somfs::cli
