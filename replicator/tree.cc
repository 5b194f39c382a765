// SPDX-License-Identifier: Apache-2.0
#include "replicator/tree.h"

#include <cerrno>

#include <algorithm>

namespace somfs::replicator {
namespace {

class SnapshotFile final : public TreeFile {
 public:
  explicit SnapshotFile(snapshot::ViewFile file) : file_(std::move(file)) {}
  const Ref& ref() const override { return file_.ref(); }
  const Attr& attr() const override { return file_.attr(); }
  Result<Xattrs> xattrs() override { return file_.xattrs(); }
  Result<std::string> link_target() override { return file_.link_target(); }
  Result<std::size_t> read(void* buf, std::size_t n, std::uint64_t off) override { return file_.read(buf, n, off); }
  Result<std::optional<Extent>> next_data(std::uint64_t off) override { return file_.next_data(off); }
  snapshot::ViewFile& file() { return file_; }

 private:
  snapshot::ViewFile file_;
};

Result<TreeFilePtr> wrap(Result<snapshot::ViewFile> file) {
  if (!file) return pass_on(std::move(file).error());
  return std::make_unique<SnapshotFile>(std::move(*file));
}

snapshot::ViewFile& of(TreeFile& file) { return static_cast<SnapshotFile&>(file).file(); }

class SnapshotTree final : public Tree {
 public:
  explicit SnapshotTree(snapshot::View& view) : view_(view) {}
  Result<TreeFilePtr> root() override { return wrap(view_.root()); }
  Result<std::vector<ViewEntry>> list(TreeFile& dir) override { return view_.list(of(dir)); }
  Result<std::optional<Ref>> lookup(TreeFile& dir, const std::string& name) override { return view_.lookup(of(dir), name); }
  Result<TreeFilePtr> open_in(TreeFile& dir, const ViewEntry& entry) override { return wrap(view_.open_in(of(dir), entry)); }
  Result<TreeFilePtr> open(const Ref& ref) override {
    SOMFS_TRY_ASSIGN(auto file, view_.open(ref));
    if (!file) return TreeFilePtr();
    // A view opens content only of what it is told to be a file or directory; a dirty set knows ids and handles alone.
    const Kind kind = file->ref().kind;
    if (ref.kind == Kind::none && (kind == Kind::file || kind == Kind::dir)) return open({ref.id, ref.handle, kind});
    return std::make_unique<SnapshotFile>(std::move(*file));
  }
  bool has_handles() const override { return view_.has_handles(); }

 private:
  snapshot::View& view_;
};

}  // namespace

std::unique_ptr<Tree> tree_of(snapshot::View& view) { return std::make_unique<SnapshotTree>(view); }

std::string Place::path() const {
  std::vector<const Place*> chain;
  for (const Place* p = this; p != nullptr && !p->entry.name.empty(); p = p->parent.get()) chain.push_back(p);
  std::string out;
  const Place* top = chain.empty() ? this : chain.back();
  if (top->parent == nullptr && !top->entry.name.empty()) out = "#" + std::to_string(top->entry.ref.id.ino);
  for (auto p = chain.rbegin(); p != chain.rend(); ++p) {
    if ((*p)->parent == nullptr) continue;
    if (!out.empty()) out += '/';
    out += (*p)->entry.name;
  }
  return out;
}

std::string path_in(const Place& dir, const std::string& name) {
  std::string path = dir.path();
  if (path.empty() || name.empty()) return path + name;
  return path + "/" + name;
}

Result<TreeFilePtr> open_place(Tree& tree, const Place& place) {
  if (place.entry.name.empty()) return tree.root();
  if (tree.has_handles() && !place.entry.ref.handle.empty()) {  // always so where there is no parent
    SOMFS_TRY_ASSIGN(TreeFilePtr file, tree.open(place.entry.ref));
    if (!file) return fail_errno("cannot open", path_in(place, {}), ENOENT);
    return file;
  }
  // From the nearest ancestor that can be reached: no recursion, paths may be thousands of levels deep.
  std::vector<const Place*> chain;
  for (const Place* p = &place; p != nullptr && !p->entry.name.empty(); p = p->parent.get()) chain.push_back(p);
  SOMFS_TRY_ASSIGN(TreeFilePtr at, tree.root());
  for (auto p = chain.rbegin(); p != chain.rend(); ++p) {
    SOMFS_TRY_ASSIGN(TreeFilePtr next, tree.open_in(*at, (*p)->entry));
    at = std::move(next);
  }
  return at;
}

bool spares_the_rest(const Error& error) {
  return error.sys == EACCES || error.sys == EPERM || error.sys == EIO || error.sys == ENOENT || error.sys == ESTALE ||
         error.sys == ELOOP || error.sys == ENXIO || error.sys == ENODATA;
}

}  // namespace somfs::replicator
