// SPDX-License-Identifier: Apache-2.0
#include "snapshot/snapshot_diff.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>
#include <vector>

namespace somfs::snapshot {

namespace {

constexpr std::size_t kPiece = 256u << 10;

std::string join(const std::string& dir, const std::string& name) { return dir.empty() ? name : dir + "/" + name; }

struct Diff {
  View& earlier;
  View& later;
  std::vector<PathChange> changes;
  // Found on one side only, by path, parents before children: what was renamed has one of each.
  struct Lone {
    std::string path;
    ObjectId id;
    Kind kind;
  };
  std::vector<Lone> removed, added;

  Result<bool> same_content(ViewFile& a, ViewFile& b) {
    if (a.attr().size != b.attr().size) return false;
    std::vector<char> x(kPiece), y(kPiece);
    for (std::uint64_t off = 0; off < a.attr().size; off += kPiece) {
      SOMFS_TRY_ASSIGN(std::size_t n, a.read(x.data(), x.size(), off));
      SOMFS_TRY_ASSIGN(std::size_t m, b.read(y.data(), y.size(), off));
      if (n != m || std::memcmp(x.data(), y.data(), n) != 0) return false;
    }
    return true;
  }

  // The same object at both instants: what differs of itself.
  Status compare(ViewFile& a, ViewFile& b, PathChange* c) {
    const Attr &x = a.attr(), &y = b.attr();
    c->kind = y.kind;
    c->attr = x.mode != y.mode || x.uid != y.uid || x.gid != y.gid || (y.kind != Kind::dir && x.mtime != y.mtime);
    if (y.kind == Kind::file && (x.size != y.size || x.mtime != y.mtime)) {
      SOMFS_TRY_ASSIGN(bool same, same_content(a, b));
      c->data = !same;
    }
    std::vector<std::string> unread_before, unread_after;
    SOMFS_TRY_ASSIGN(Xattrs p, a.xattrs(&unread_before));
    SOMFS_TRY_ASSIGN(Xattrs q, b.xattrs(&unread_after));
    c->xattr = p != q || unread_before != unread_after;
    return {};
  }

  Status walk(const std::string& path, ViewFile& a, ViewFile& b) {
    PathChange c;
    c.path = path;
    SOMFS_TRY(compare(a, b, &c));
    if (c.data || c.attr || c.xattr) changes.push_back(std::move(c));
    if (b.attr().kind != Kind::dir) return {};
    SOMFS_TRY_ASSIGN(auto before, earlier.list(a));
    SOMFS_TRY_ASSIGN(auto after, later.list(b));
    std::map<std::string, ViewEntry> old;
    for (ViewEntry& e : before) old.emplace(e.name, e);
    for (const ViewEntry& e : after) {
      auto at = old.find(e.name);
      if (at == old.end() || at->second.ref.id != e.ref.id) {
        SOMFS_TRY(lone(later, path, b, e, &added));
        continue;
      }
      SOMFS_TRY_ASSIGN(ViewFile x, earlier.open_in(a, at->second));
      SOMFS_TRY_ASSIGN(ViewFile y, later.open_in(b, e));
      SOMFS_TRY(walk(join(path, e.name), x, y));
      old.erase(at);
    }
    for (const auto& [name, e] : old) SOMFS_TRY(lone(earlier, path, a, e, &removed));
    return {};
  }

  Status lone(View& view, const std::string& dir_path, ViewFile& dir, const ViewEntry& e, std::vector<Lone>* out) {
    std::string path = join(dir_path, e.name);
    out->push_back({path, e.ref.id, e.ref.kind});
    if (e.ref.kind != Kind::dir) return {};
    SOMFS_TRY_ASSIGN(ViewFile f, view.open_in(dir, e));
    SOMFS_TRY_ASSIGN(auto entries, view.list(f));
    for (const ViewEntry& child : entries) SOMFS_TRY(lone(view, path, f, child, out));
    return {};
  }

  static Result<ViewFile> open_path(View& view, const std::string& path) {
    SOMFS_TRY_ASSIGN(ViewFile f, view.root());
    for (std::size_t at = 0; at < path.size();) {
      std::size_t slash = std::min(path.find('/', at), path.size());
      std::string name = path.substr(at, slash - at);
      SOMFS_TRY_ASSIGN(auto ref, view.lookup(f, name));
      if (!ref) return fail_errno("cannot compare", name, ENOENT);
      SOMFS_TRY_ASSIGN(f, view.open_in(f, {name, *ref}));
      at = slash + 1;
    }
    return f;
  }

  // Pairs what left one path with what came to another.
  Status match() {
    std::unordered_multimap<ObjectId, const Lone*> from;
    for (const Lone& r : removed) from.emplace(r.id, &r);
    std::unordered_map<std::string, std::string> moved_dirs;  // later path → earlier path
    for (const Lone& to : added) {
      auto was = from.find(to.id);
      if (was == from.end()) {
        changes.push_back({PathChange::What::added, to.path, {}, to.kind});
        continue;
      }
      PathChange c;
      c.what = PathChange::What::renamed;
      c.path = to.path;
      c.from = was->second->path;
      from.erase(was);
      SOMFS_TRY_ASSIGN(ViewFile a, open_path(earlier, c.from));
      SOMFS_TRY_ASSIGN(ViewFile b, open_path(later, c.path));
      SOMFS_TRY(compare(a, b, &c));
      if (c.kind == Kind::dir) moved_dirs[c.path] = c.from;
      // It only went along with its directory: that is said once, there.
      std::size_t slash = c.path.rfind('/');
      auto parent = slash == std::string::npos ? moved_dirs.end() : moved_dirs.find(c.path.substr(0, slash));
      if (parent != moved_dirs.end() && c.from == parent->second + c.path.substr(slash)) {
        if (!c.data && !c.attr && !c.xattr) continue;
        c.what = PathChange::What::modified;
        c.from.clear();
      }
      changes.push_back(std::move(c));
    }
    for (const auto& [id, r] : from) changes.push_back({PathChange::What::removed, r->path, {}, r->kind});
    return {};
  }
};

}  // namespace

Status diff(View& earlier, View& later, const std::function<void(const PathChange&)>& yield) {
  Diff d{earlier, later, {}, {}, {}};
  SOMFS_TRY_ASSIGN(ViewFile a, earlier.root());
  SOMFS_TRY_ASSIGN(ViewFile b, later.root());
  SOMFS_TRY(d.walk("", a, b));
  SOMFS_TRY(d.match());
  std::sort(d.changes.begin(), d.changes.end(), [](const PathChange& x, const PathChange& y) {
    return std::pair(x.path, x.what) < std::pair(y.path, y.what);
  });
  for (const PathChange& c : d.changes) yield(c);
  return {};
}

}  // namespace somfs::snapshot
