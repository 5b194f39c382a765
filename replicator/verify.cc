// SPDX-License-Identifier: Apache-2.0
// Both sides walk their trees in one order (depth first, names in byte order, a directory before its entries) and read everything
// for themselves; the mirror's rows are merged with ours as they come.
#include <algorithm>

#include "common/printable.h"
#include "replicator/history.h"
#include "replicator/migration.h"
#include "replicator/state_root.h"

namespace somfs::replicator {
namespace {

constexpr std::size_t kKept = 10'000;
constexpr std::size_t kRepaired = 1u << 20;   // beyond that everything is sent again
constexpr std::size_t kOpenDirs = 64;     // deeper ones are opened again when their turn comes back

using Path = std::vector<std::string>;

std::string joined(const Path& path) {
  if (path.empty()) return ".";
  std::string out;
  for (const auto& name : path) out += (out.empty() ? "" : "/") + name;
  return out;
}

std::uint64_t hash_of(const Xattrs& xattrs) {
  std::string s;
  ByteWriter w(s);
  put_xattrs(w, xattrs);
  return hash64(s);
}

// The mirror's rows one by one.
class Rows {
 public:
  explicit Rows(Link& link) : link_(link) {}
  // Null: no more.
  Result<const InspectRow*> peek() {
    while (!ended_ && at_ == rows_.size()) {
      SOMFS_TRY_ASSIGN(Message m, link_.wait_for(MessageType::inspected));
      if (!decode(m.body, &rows_)) return fail(Exit::peer_version, "cannot talk to the mirror", {}, "its rows are malformed");
      at_ = 0;
      ended_ = rows_.empty();
      for (const InspectRow& row : rows_) SOMFS_TRY(in_order(row.path));
    }
    return ended_ ? nullptr : &rows_[at_];
  }
  void next() { ++at_; }

 private:
  // Each path once, so that what is merged with them cannot go on for ever over the same few.
  Status in_order(const Path& path) {
    if (last_ && !(*last_ < path)) return fail(Exit::peer_version, "cannot talk to the mirror", {}, "its rows are out of order");
    last_ = path;
    return {};
  }

  Link& link_;
  std::optional<Path> last_;
  std::vector<InspectRow> rows_;
  std::size_t at_ = 0;
  bool ended_ = false;
};

class Verify {
 public:
  Verify(Run& run, Rows& rows, std::uint32_t mirror_user) : run_(run), rows_(rows), mirror_user_(mirror_user) {}

  Result<VerifyReport> run() {
    SOMFS_TRY(begin());
    while (!stack_.empty()) {
      if (run_.progress.cancelled) return fail(Exit::interrupted, "interrupted");
      Frame& f = stack_.back();
      if (f.at != f.entries.size()) {
        SOMFS_TRY(step(f));
        continue;
      }
      stack_.pop_back();
      if (!path_.empty()) path_.pop_back();
    }
    SOMFS_TRY(only_mirror_until(nullptr));
    report_.equal = report_.differences.empty() && !report_.truncated;
    report_.source_tree = ours_.root();
    report_.mirror_tree = theirs_.root();
    std::sort(report_.damaged.begin(), report_.damaged.end());
    report_.damaged.erase(std::unique(report_.damaged.begin(), report_.damaged.end()), report_.damaged.end());
    return std::move(report_);
  }

 private:
  struct Frame {
    PlacePtr place;
    TreeFilePtr dir;                      // null: to be opened again
    std::vector<ViewEntry> entries;
    std::size_t at = 0;
  };

  Status begin() {
    SOMFS_TRY_ASSIGN(TreeFilePtr root, run_.tree.root());
    SOMFS_TRY(visit(*root));
    PlacePtr top = std::make_shared<Place>(Place{nullptr, {"", root->ref()}});
    return enter(std::move(top), std::move(root));
  }

  Status step(Frame& f) {
    ViewEntry entry = std::move(f.entries[f.at++]);
    path_.push_back(entry.name);
    if (!run_.excludes.empty() && run_.excludes.covers(joined(path_))) {
      path_.pop_back();
      return {};
    }
    if (!f.dir) {
      SOMFS_TRY_ASSIGN(f.dir, open_place(run_.tree, *f.place));
    }
    auto file = run_.tree.open_in(*f.dir, entry);
    if (!file) {
      if (!spares_the_rest(file.error())) return pass_on(file.error());
      InspectRow seen;
      seen.object = entry.ref.id;
      seen.trouble = file.error().line();
      SOMFS_TRY(match(std::move(seen)));
      path_.pop_back();
      return {};
    }
    SOMFS_TRY(visit(**file));
    if ((*file)->attr().kind != Kind::dir) {
      path_.pop_back();
      return {};
    }
    if (stack_.size() >= kOpenDirs) f.dir.reset();
    return enter(std::make_shared<Place>(Place{f.place, std::move(entry)}), std::move(*file));
  }

  Status enter(PlacePtr place, TreeFilePtr dir) {
    auto entries = run_.tree.list(*dir);
    if (!entries) {
      if (!spares_the_rest(entries.error())) return pass_on(entries.error());
      // Of which the mirror may have said so.
      if (report_.differences.empty() || report_.differences.back().path != printable(joined(path_)) || report_.differences.back().what != "unreadable")
        differ(path_, "unreadable", dir->ref().id);
      ours_.unreadable();
      entries = std::vector<ViewEntry>();
    }
    std::sort(entries->begin(), entries->end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    stack_.push_back({std::move(place), std::move(dir), std::move(*entries), 0});
    return {};
  }

  Status visit(TreeFile& file) {
    InspectRow seen;                       // as the view has it
    seen.object = file.ref().id;
    seen.attr = file.attr();
    auto read = [&]() -> Status {
      SOMFS_TRY_ASSIGN(Xattrs xattrs, file.xattrs());
      seen.xattr_hash = hash_of(xattrs);
      if (seen.attr.kind == Kind::file) {
        SOMFS_TRY_ASSIGN(seen.content, content_hash(file, nullptr));
        report_.bytes += seen.attr.size;
      } else if (seen.attr.kind == Kind::symlink) {
        SOMFS_TRY_ASSIGN(std::string target, file.link_target());
        seen.content = sha256(target);
      }
      return {};
    }();
    if (!read && !spares_the_rest(read.error())) return read;
    if (!read) seen.trouble = read.error().line();
    ++report_.files;
    ++run_.progress.files;
    run_.progress.bytes = report_.bytes;
    return match(std::move(seen));
  }

  Status match(InspectRow seen) {
    seen.path = path_;
    const bool owned = keeps_owner(mirror_user_, seen.attr.uid);
    ours_.add(seen, owned);
    SOMFS_TRY(only_mirror_until(&path_));
    SOMFS_TRY_ASSIGN(const InspectRow* row, rows_.peek());
    if (row == nullptr || row->path != path_) {
      differ(path_, "only in source", seen.object);
      return {};
    }
    theirs_.add(*row, owned);
    compare(seen, *row, owned);
    rows_.next();
    return {};
  }

  // Rows before `path` (null: all the rest) are of things the source does not have.
  Status only_mirror_until(const Path* path) {
    while (true) {
      SOMFS_TRY_ASSIGN(const InspectRow* row, rows_.peek());
      if (row == nullptr || (path != nullptr && !(row->path < *path))) return {};
      if (run_.excludes.empty() || !run_.excludes.covers(joined(row->path))) {
        theirs_.add(*row, keeps_owner(mirror_user_, row->attr.uid));
        differ(row->path, "only in mirror", row->object);
      }
      rows_.next();
    }
  }

  void compare(const InspectRow& s, const InspectRow& r, bool owned) {
    const Attr &a = s.attr, &b = r.attr;
    if (!s.trouble.empty() || !r.trouble.empty()) return differ(path_, "unreadable", s.object);
    if (a.kind != b.kind) return differ(path_, "kind", s.object);
    if (a.size != b.size || s.content != r.content) differ(path_, "content", s.object);
    if (!owned && report_.notes.empty()) report_.notes.push_back(kNoOwners);
    if (compared_mode(a.mode, owned) != compared_mode(b.mode, owned)) differ(path_, "mode", s.object);
    if (owned && (a.uid != b.uid || a.gid != b.gid)) differ(path_, "owner", s.object);
    if (a.mtime != b.mtime) differ(path_, "mtime", s.object);
    if (a.rdev != b.rdev) differ(path_, "device", s.object);
    if (s.xattr_hash != r.xattr_hash) differ(path_, "xattrs", s.object);
    if (a.kind != Kind::dir && a.nlink != b.nlink) differ(path_, "links", s.object);
    // The same names for the same object on both sides; the root is what it is.
    if (!path_.empty() && r.object != s.object) differ(path_, "object", s.object);
  }

  void differ(const Path& path, const char* what, const ObjectId& id) {
    if (id && report_.damaged.size() < kRepaired) report_.damaged.push_back(id);
    if (report_.differences.size() < kKept) report_.differences.push_back({printable(joined(path)), what});
    else report_.truncated = true;
  }

  Run& run_;
  Rows& rows_;
  const std::uint32_t mirror_user_;
  VerifyReport report_;
  StateRoot ours_, theirs_;
  std::vector<Frame> stack_;
  Path path_;
};

}  // namespace

Result<VerifyReport> verify_tree(Tree& tree, const Source& source, Transport& transport, const VerifyOptions& options, Progress& progress) {
  Link link(transport, progress);
  Hello hello;
  hello.volume = source.volume;
  hello.generation = source.generation;
  hello.ancestors = source.ancestors;
  hello.wants = kVerify;
  hello.volume_name = options.volume_name;
  SOMFS_TRY_ASSIGN(Welcome welcome, link.greet(hello));
  SOMFS_TRY(link.send(MessageType::inspect, options.deep ? "deep" : ""));
  progress.phase = "verifying";
  MigrateOptions none;
  Run run(tree, source, none, progress, link);
  Rows rows(link);
  SOMFS_TRY_ASSIGN(VerifyReport report, Verify(run, rows, welcome.user).run());
  (void)link.send(MessageType::bye, {});   // nothing depends on it
  report.excludes = source.excludes;
  report.mirror_epoch = welcome.epoch;
  report.mirror_root = welcome.root;
  if (const Agreement a = compare_history(welcome, source.generation, source.base_epoch, source.base_root); a != Agreement::unknown)
    report.root_agrees = a == Agreement::agrees;
  return report;
}

}  // namespace somfs::replicator
