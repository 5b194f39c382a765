// SPDX-License-Identifier: Apache-2.0
// Differential: what a dirty set names, and nothing else. Flat in the size of the tree where objects are reached by handle. Where it
// names a subtree (a directory from outside of what is recorded, or too many changes for its bound), that subtree is compared.
#include <algorithm>
#include <set>

#include "replicator/migration.h"
#include "replicator/plan.h"

namespace somfs::replicator {
namespace {

using snapshot::DirtyObject;

// Finds objects by id: by handle, or by one walk that remembers where the dirty ones are.
class Finder {
 public:
  Finder(Run& run, const snapshot::DirtySet& dirty) : run_(run), dirty_(dirty) {}

  // Null: not in the view.
  Result<PlacePtr> place(const ObjectId& id) {
    if (!root_) {
      SOMFS_TRY_ASSIGN(TreeFilePtr root, run_.tree.root());
      root_ = std::make_shared<Place>(Place{nullptr, {"", root->ref()}});
    }
    if (root_->entry.ref.id == id) return root_;
    auto at = dirty_.objects().find(id);
    if (run_.tree.has_handles() && at != dirty_.objects().end() && !at->second.handle.empty())
      // Only files have extents: knowing the kind saves opening it once to ask.
      return std::make_shared<Place>(
          Place{nullptr, {"#", {id, at->second.handle, at->second.extents.empty() ? Kind::none : Kind::file}}});
    if (!walked_) SOMFS_TRY(walk());
    auto found = places_.find(id);
    return found == places_.end() ? PlacePtr() : found->second;
  }

  // Null: not in the view, which is no error.
  Result<TreeFilePtr> open(const ObjectId& id, PlacePtr* where) {
    SOMFS_TRY_ASSIGN(*where, place(id));
    if (!*where) return TreeFilePtr();
    if ((*where)->entry.name != "#") return open_place(run_.tree, **where);
    return run_.tree.open((*where)->entry.ref);
  }

 private:
  Status walk() {
    walked_ = true;
    std::vector<PlacePtr> todo{root_};
    while (!todo.empty()) {
      PlacePtr place = std::move(todo.back());
      todo.pop_back();
      auto dir = open_place(run_.tree, *place);
      Result<std::vector<ViewEntry>> entries;
      if (dir) entries = run_.tree.list(**dir);
      if (!dir || !entries) {
        run_.unreadable(place->path(), dir ? entries.error() : dir.error());
        continue;
      }
      for (ViewEntry& e : *entries) {
        const ObjectId id = e.ref.id;
        const bool wanted = dirty_.objects().contains(id) || dirty_.names().contains(id);
        if (!wanted && e.ref.kind != Kind::dir) continue;
        auto here = std::make_shared<Place>(Place{place, std::move(e)});
        if (wanted) places_.emplace(id, here);
        if (here->entry.ref.kind == Kind::dir) todo.push_back(here);
      }
      if (run_.progress.cancelled) return fail(Exit::interrupted, "interrupted");
    }
    return {};
  }

  Run& run_;
  const snapshot::DirtySet& dirty_;
  PlacePtr root_;
  bool walked_ = false;
  std::unordered_map<ObjectId, PlacePtr> places_;
};

class Differential final : public Migration {
 public:
  explicit Differential(Run& run) : run_(run), dirty_(*run.source.dirty), finder_(run, dirty_) {}

  Status ask() override {
    SOMFS_TRY(find_excluded());
    SOMFS_TRY(find_subtrees());
    for (const auto& [dir, names] : dirty_.names()) SOMFS_TRY(plan_names(dir, names));
    for (const auto& [id, object] : dirty_.objects())
      if (object.whole && !object.born && !dirty_.names().contains(id)) SOMFS_TRY(plan_names(id, {}));
    SOMFS_TRY(ask_listings());
    births_ = order_births(std::move(births_));
    return {};
  }

  Status send(Emitter& out) override {
    std::vector<std::pair<ObjectId, const DirtyObject*>> changed;
    for (const auto& [id, object] : dirty_.objects())
      if (!object.born && !excluded_.contains(id) && !birthplaces_.contains(id) && !inside_.contains(id)) changed.emplace_back(id, &object);
    std::sort(changed.begin(), changed.end());
    run_.progress.files_total = births_.size() + changed.size() + (below_ ? below_->to_send() : 0);
    if (!run_.options.dry_run)
      for (const Birth& b : births_)
        if (basis_.contains(b.object)) run_.link.want_signature(basis_.at(b.object));
    for (const Birth& b : births_) SOMFS_TRY(send_birth(b, out));
    if (below_) SOMFS_TRY(below_->send(out));
    for (const NameRecord& r : names_) SOMFS_TRY(out.name(r.parent, r.name, r.object));
    for (const auto& [id, object] : changed) SOMFS_TRY(send_changed(id, *object, out));
    return {};
  }

 private:
  bool born(const ObjectId& id) const {
    auto at = dirty_.objects().find(id);
    return at != dirty_.objects().end() && at->second.born;
  }

  // It gained a name, and nothing more is known of it: it may come from where nothing is recorded.
  static bool stranger(const DirtyObject& o) { return o.whole && o.moved && !o.born; }

  // To be sent as new. Where the mirror knows it after all, that replaces what it has.
  bool unborn(const Ref& ref) const {
    auto at = dirty_.objects().find(ref.id);
    if (at == dirty_.objects().end()) return false;
    const DirtyObject& o = at->second;
    return o.born || (stranger(o) && (ref.kind != Kind::dir || o.subtree) && below_ && !below_->had_elsewhere(ref.id));
  }

  bool compared_below(const ObjectId& dir) const { return inside_.contains(dir) || tops_.contains(dir); }

  Status find_subtrees() {
    bool strangers = false;
    for (const auto& [id, object] : dirty_.objects()) {
      strangers = strangers || stranger(object);
      if (!object.subtree || excluded_.contains(id) || inside_.contains(id)) continue;
      PlacePtr where;
      SOMFS_TRY_ASSIGN(TreeFilePtr dir, finder_.open(id, &where));
      if (!dir || dir->attr().kind != Kind::dir) continue;
      tops_.emplace(id, where);
      SOMFS_TRY(look_below(where));
    }
    if (tops_.empty() && !strangers) return {};
    Scope scope;
    for (const auto& [id, place] : tops_) scope.roots.push_back(place);
    for (const auto& [dir, names] : dirty_.names())
      if (!compared_below(dir) && !excluded_.contains(dir) && !born(dir)) scope.left.push_back(dir);
    scope.inside = inside_;
    scope.excluded = excluded_names_;
    run_.subtrees = tops_.size();
    below_ = make_comparison(run_, std::move(scope));
    return below_->ask();
  }

  // What of the dirty set lies beneath: the comparison takes care of it. What cannot be listed is named there.
  Status look_below(const PlacePtr& top) {
    std::vector<PlacePtr> todo{top};
    while (!todo.empty()) {
      PlacePtr place = std::move(todo.back());
      todo.pop_back();
      auto dir = open_place(run_.tree, *place);
      Result<std::vector<ViewEntry>> entries;
      if (dir) entries = run_.tree.list(**dir);
      if (!dir || !entries) {
        Error e = dir ? entries.error() : dir.error();
        if (!spares_the_rest(e)) return pass_on(e);
        continue;
      }
      for (ViewEntry& e : *entries) {
        const ObjectId id = e.ref.id;
        if (excluded_names_.contains({place->entry.ref.id, e.name})) continue;
        if (dirty_.objects().contains(id) || dirty_.names().contains(id)) inside_.insert(id);
        if (e.ref.kind != Kind::dir || tops_.erase(id) != 0) continue;   // below that one was looked before
        todo.push_back(std::make_shared<Place>(Place{place, std::move(e)}));
      }
      if (run_.progress.cancelled) return fail(Exit::interrupted, "interrupted");
    }
    return {};
  }

  // Nothing beneath an excluded name travels; ids alone are in the dirty set, so the excluded ones are collected.
  Status find_excluded() {
    for (const std::string& path : run_.excludes.paths()) {
      SOMFS_TRY_ASSIGN(TreeFilePtr at, run_.tree.root());
      for (std::size_t from = 0; at != nullptr;) {
        const std::size_t slash = std::min(path.find('/', from), path.size());
        const std::string name = path.substr(from, slash - from);
        if (at->attr().kind != Kind::dir) break;
        if (slash == path.size()) excluded_names_.emplace(at->ref().id, name);
        SOMFS_TRY_ASSIGN(auto ref, run_.tree.lookup(*at, name));
        if (!ref) break;
        SOMFS_TRY_ASSIGN(at, run_.tree.open_in(*at, {name, *ref}));
        from = slash + 1;
        if (slash != path.size()) continue;
        SOMFS_TRY(exclude_below(std::move(at)));
        break;
      }
    }
    for (const auto& [id, elsewhere] : excluded_links_)
      if (elsewhere == 0) excluded_.insert(id);
    return {};
  }

  // A file with a name outside as well does travel.
  void exclude_file(const TreeFile& file) { --excluded_links_.try_emplace(file.ref().id, file.attr().nlink).first->second; }

  Status exclude_below(TreeFilePtr top) {
    if (top->attr().kind != Kind::dir) {
      exclude_file(*top);
      return {};
    }
    excluded_.insert(top->ref().id);
    std::vector<TreeFilePtr> todo;
    todo.push_back(std::move(top));
    while (!todo.empty()) {
      TreeFilePtr dir = std::move(todo.back());
      todo.pop_back();
      SOMFS_TRY_ASSIGN(auto entries, run_.tree.list(*dir));
      for (const ViewEntry& e : entries) {
        const bool is_dir = e.ref.kind == Kind::dir;
        if (!is_dir && !dirty_.objects().contains(e.ref.id)) continue;
        SOMFS_TRY_ASSIGN(TreeFilePtr below, run_.tree.open_in(*dir, e));
        if (is_dir) excluded_.insert(e.ref.id);
        else exclude_file(*below);
        if (is_dir) todo.push_back(std::move(below));
      }
    }
    return {};
  }

  Status plan_names(const ObjectId& id, const std::set<std::string, std::less<>>& names) {
    if (excluded_.contains(id) || compared_below(id)) return {};
    PlacePtr where;
    SOMFS_TRY_ASSIGN(TreeFilePtr dir, finder_.open(id, &where));
    if (dir && dir->attr().kind != Kind::dir) return {};
    if (!dir) {
      // The directory is gone; the mirror's catalog still has its names. One born meanwhile the mirror never knew.
      if (!born(id))
        for (const auto& name : names) names_.push_back({id, name, {}});
      return {};
    }
    auto at = dirty_.objects().find(id);
    const bool compare = at != dirty_.objects().end() && at->second.whole && !at->second.born;
    if (compare) {
      SOMFS_TRY_ASSIGN(auto entries, run_.tree.list(*dir));
      std::unordered_map<std::string, ObjectId> here;
      for (const auto& e : entries) here.emplace(e.name, e.ref.id);
      compare_.emplace(id, Compared{where, std::move(here)});
    }
    bool wants_basis = false;
    for (const auto& name : names) {
      SOMFS_TRY_ASSIGN(auto ref, run_.tree.lookup(*dir, name));
      SOMFS_TRY(plan_name(*dir, where, name, ref, &wants_basis));
    }
    if (wants_basis || compare) listings_.push_back(id);
    return {};
  }

  Status plan_name(TreeFile& dir, const PlacePtr& where, const std::string& name, const std::optional<Ref>& ref, bool* wants_basis) {
    const ObjectId parent = dir.ref().id;
    if (excluded_names_.contains({parent, name})) return {};
    if (!ref) {
      if (!born(parent)) names_.push_back({parent, name, {}});
      return {};
    }
    if (inside_.contains(ref->id) || !unborn(*ref) || !birthplaces_.emplace(ref->id, Birthplace{where, {name, *ref}}).second) {
      names_.push_back({parent, name, ref->id});
      return {};
    }
    births_.push_back({ref->id, parent, name});
    if (ref->kind != Kind::file || born(parent)) return {};
    auto file = run_.tree.open_in(dir, {name, *ref});
    if (!file || (*file)->attr().size < kMinDelta) return {};   // if it cannot be opened, that is said when it is sent
    *wants_basis = true;
    large_births_.emplace(std::make_pair(parent, name), ref->id);
    return {};
  }

  // A file saved by rename: what the mirror has under its name is the basis. A directory that is wholly suspect: names compared.
  Status ask_listings() {
    for (const ObjectId& dir : listings_) run_.link.want_listing(dir);
    for (const ObjectId& dir : listings_) {
      SOMFS_TRY_ASSIGN(auto rows, run_.link.listing(dir));
      auto compared = compare_.find(dir);
      std::set<std::string> same;
      for (const ListRow& row : rows) {
        auto large = large_births_.find({dir, row.name});
        if (large != large_births_.end() && row.kind == Kind::file && row.size >= kMinDelta && row.object != large->second)
          basis_[large->second] = row.object;
        if (compared == compare_.end()) continue;
        auto now = compared->second.here.find(row.name);
        if (now == compared->second.here.end()) extra_name(dir, row.name, {});
        else if (now->second == row.object) same.insert(row.name);
      }
      if (compared == compare_.end()) continue;
      for (const auto& [name, id] : compared->second.here) {
        if (same.contains(name)) continue;
        auto names = dirty_.names().find(dir);
        if (names != dirty_.names().end() && names->second.contains(name)) continue;
        PlacePtr where = compared->second.place;
        SOMFS_TRY_ASSIGN(TreeFilePtr file, open_place(run_.tree, *where));
        SOMFS_TRY_ASSIGN(auto ref, run_.tree.lookup(*file, name));
        bool ignored = false;
        SOMFS_TRY(plan_name(*file, where, name, ref, &ignored));
      }
    }
    return {};
  }

  void extra_name(const ObjectId& dir, const std::string& name, const ObjectId& object) {
    auto names = dirty_.names().find(dir);
    if (names != dirty_.names().end() && names->second.contains(name)) return;
    if (!excluded_names_.contains({dir, name})) names_.push_back({dir, name, object});
  }

  Status send_birth(const Birth& b, Emitter& out) {
    std::optional<Signature> signature;
    if (!run_.options.dry_run && basis_.contains(b.object)) {
      SOMFS_TRY_ASSIGN(signature, run_.link.next_signature());
    }
    const Birthplace& at = birthplaces_.at(b.object);
    if (last_place_ != at.dir) {
      SOMFS_TRY_ASSIGN(last_dir_, open_place(run_.tree, *at.dir));
      last_place_ = at.dir;
    }
    auto file = run_.tree.open_in(*last_dir_, at.entry);
    if (!file) {
      if (!spares_the_rest(file.error())) return pass_on(file.error());
      run_.unreadable(path_in(*at.dir, b.name), file.error());
      return {};
    }
    ObjectRecord record;
    record.id = b.object;
    record.flags = kNew;
    record.parent = b.parent;
    record.name = b.name;
    Data data;
    data.how = signature ? Data::How::delta : Data::How::all;
    data.signature = signature ? &*signature : nullptr;
    if (signature) data.basis = basis_.at(b.object);
    SOMFS_TRY(out.object(**file, std::move(record), data, *at.dir, b.name));
    return {};
  }

  Status send_changed(const ObjectId& id, const DirtyObject& object, Emitter& out) {
    PlacePtr where;
    auto found = finder_.open(id, &where);
    if (!found) {
      if (!spares_the_rest(found.error())) return pass_on(found.error());
      run_.unreadable(where ? path_in(*where, {}) : "#" + std::to_string(id.ino), found.error());
      return {};
    }
    TreeFilePtr file = std::move(*found);
    if (!file) return {};
    ObjectRecord record;
    record.id = id;
    record.flags = kAttr;
    if (object.xattr || object.whole) record.flags |= kXattr;
    Data data;
    std::optional<Signature> signature;
    if (file->attr().kind == Kind::file && object.whole) {
      data.how = Data::How::all;
      if (file->attr().size >= kMinDelta && !run_.options.dry_run) {
        run_.link.want_signature(id);
        SOMFS_TRY_ASSIGN(signature, run_.link.next_signature());
      }
      if (signature) data = {Data::How::delta, nullptr, id, &*signature};
    } else if (file->attr().kind == Kind::file && !object.extents.empty()) {
      data.how = Data::How::extents;
      data.extents = &object.extents;
    }
    SOMFS_TRY(out.object(*file, std::move(record), data, *where, {}));
    return {};
  }

  struct Birthplace {
    PlacePtr dir;
    ViewEntry entry;
  };
  struct Compared {
    PlacePtr place;
    std::unordered_map<std::string, ObjectId> here;
  };

  Run& run_;
  const snapshot::DirtySet& dirty_;
  Finder finder_;
  std::unordered_map<ObjectId, PlacePtr> tops_;          // directories marked with all below them, none beneath another
  std::unordered_set<ObjectId> inside_;                  // what of the dirty set lies beneath those
  std::unique_ptr<ScopedComparison> below_;
  std::unordered_set<ObjectId> excluded_;
  std::unordered_map<ObjectId, std::uint64_t> excluded_links_;   // dirty files with excluded names: how many others they have
  std::set<std::pair<ObjectId, std::string>> excluded_names_;
  std::vector<NameRecord> names_;
  std::vector<Birth> births_;
  std::unordered_map<ObjectId, Birthplace> birthplaces_;
  std::vector<ObjectId> listings_;
  std::unordered_map<ObjectId, Compared> compare_;
  std::map<std::pair<ObjectId, std::string>, ObjectId> large_births_;
  std::unordered_map<ObjectId, ObjectId> basis_;
  PlacePtr last_place_;
  TreeFilePtr last_dir_;
};

}  // namespace

std::unique_ptr<Migration> make_differential(Run& run) { return std::make_unique<Differential>(run); }

}  // namespace somfs::replicator
