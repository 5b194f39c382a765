// SPDX-License-Identifier: Apache-2.0
// The root of a state (replicator/state_root.h) of whatever holds one: a tree of the source, a mirror opened alone, a model.
#pragma once

#include <algorithm>
#include <functional>
#include <string>

#include "common/bytes.h"
#include "replicator/emit.h"
#include "replicator/mirror.h"
#include "replicator/state_root.h"
#include "replicator/tree.h"
#include "tests/unit/replicator/mirror_model.h"

namespace somfs::replicator::test {

inline std::uint64_t hash_of(const Xattrs& xattrs) {
  std::string bytes;
  ByteWriter w(bytes);
  put_xattrs(w, xattrs);
  return hash64(bytes);
}

// Walked here, not by what verify walks with.
inline std::string root_of(Tree& tree) {
  StateRoot out;
  std::vector<std::string> path;
  std::function<void(TreeFile&)> visit = [&](TreeFile& file) {
    InspectRow row;
    row.path = path;
    row.object = file.ref().id;
    row.attr = file.attr();
    row.xattr_hash = hash_of(file.xattrs().value());
    if (row.attr.kind == Kind::file) row.content = content_hash(file, nullptr).value();
    if (row.attr.kind == Kind::symlink) row.content = sha256(file.link_target().value());
    out.add(row, true);
    if (row.attr.kind != Kind::dir) return;
    auto entries = tree.list(file).value();
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    for (const ViewEntry& e : entries) {
      path.push_back(e.name);
      visit(*tree.open_in(file, e).value());
      path.pop_back();
    }
  };
  visit(*tree.root().value());
  return out.root();
}

inline std::string root_of(Mirror& mirror) {
  StateRoot out;
  Status read = mirror.inspect([&](const InspectRow& row) -> Status {
    out.add(row, true);
    return {};
  });
  return read ? out.root() : std::string();
}

inline std::string root_of(const model::State& state) {
  StateRoot out;
  InspectRow row;
  std::function<void(const ObjectId&)> visit = [&](const ObjectId& id) {
    const model::Node& n = state.nodes.at(id);
    row.object = id;
    row.attr = n.attr;
    row.xattr_hash = hash_of(n.xattrs);
    row.content = n.attr.kind == Kind::file ? sha256(n.data) : n.attr.kind == Kind::symlink ? sha256(n.target) : std::string();
    out.add(row, true);
    for (const auto& [name, child] : n.children) {
      row.path.push_back(name);
      visit(child);
      row.path.pop_back();
    }
  };
  visit(state.root);
  return out.root();
}

}  // namespace somfs::replicator::test
