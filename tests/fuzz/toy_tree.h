// SPDX-License-Identifier: Apache-2.0
// The model's state as the tree a migration reads.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "replicator/tree.h"
#include "tests/unit/replicator/mirror_model.h"

namespace somfs::fuzz {

class ToyFile final : public replicator::TreeFile {
 public:
  ToyFile(const ObjectId& id, const replicator::model::Node& node) : ref_{id, {1, "h"}, node.attr.kind}, node_(node) {}
  const replicator::Ref& ref() const override { return ref_; }
  const Attr& attr() const override { return node_.attr; }
  Result<Xattrs> xattrs() override { return node_.xattrs; }
  Result<std::string> link_target() override { return node_.target; }
  Result<std::size_t> read(void* buf, std::size_t n, std::uint64_t off) override {
    if (off >= node_.data.size()) return 0;
    return node_.data.copy(static_cast<char*>(buf), n, off);
  }
  Result<std::optional<Extent>> next_data(std::uint64_t off) override {
    if (off >= node_.data.size()) return std::nullopt;
    return Extent{off, node_.data.size() - off};
  }
  const replicator::model::Node& node() const { return node_; }

 private:
  replicator::Ref ref_;
  const replicator::model::Node& node_;
};

class ToyTree final : public replicator::Tree {
 public:
  explicit ToyTree(const replicator::model::State& state) : state_(state) {}
  Result<replicator::TreeFilePtr> root() override { return at(state_.root); }
  Result<std::vector<replicator::ViewEntry>> list(replicator::TreeFile& dir) override {
    std::vector<replicator::ViewEntry> out;
    for (const auto& [name, id] : static_cast<ToyFile&>(dir).node().children) out.push_back({name, ref(id)});
    return out;
  }
  Result<std::optional<replicator::Ref>> lookup(replicator::TreeFile& dir, const std::string& name) override {
    const auto& children = static_cast<ToyFile&>(dir).node().children;
    auto found = children.find(name);
    if (found == children.end()) return std::nullopt;
    return ref(found->second);
  }
  Result<replicator::TreeFilePtr> open_in(replicator::TreeFile&, const replicator::ViewEntry& entry) override { return at(entry.ref.id); }
  Result<replicator::TreeFilePtr> open(const replicator::Ref& r) override { return at(r.id); }
  bool has_handles() const override { return true; }

 private:
  replicator::Ref ref(const ObjectId& id) const { return {id, {1, "h"}, state_.nodes.at(id).attr.kind}; }
  Result<replicator::TreeFilePtr> at(const ObjectId& id) const {
    auto found = state_.nodes.find(id);
    if (found == state_.nodes.end()) return replicator::TreeFilePtr();
    return std::make_unique<ToyFile>(id, found->second);
  }

  const replicator::model::State& state_;
};

}  // namespace somfs::fuzz
