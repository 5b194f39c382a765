// SPDX-License-Identifier: Apache-2.0
// Gap scan: the view against the mirror's catalog, by object id. First every listing that exists on both sides is compared, and those
// of directories only the mirror has are fetched, so that an object moved anywhere is known by its id; then records are written.
// By path, for a tree that no migration put there: everything is new, and what lies under the same path may be a basis.
// With a scope, as part of a differential: some subtrees alone are compared, and the rest is known from the dirty set.
// Memory: what differs, the directories still to be compared, and the ids of objects with several names.
#include <algorithm>

#include "replicator/keep.h"
#include "replicator/migration.h"

namespace somfs::replicator {
namespace {

constexpr std::uint64_t kMostStrays = 1u << 24;   // directories only the mirror has: what it may make us remember

class Comparison final : public ScopedComparison {
 public:
  Comparison(Run& run, bool by_content, bool by_path)
      : run_(run), keeper_(run), by_content_(by_content), by_path_(by_path), forced_(run.options.repair.begin(), run.options.repair.end()) {}
  Comparison(Run& run, Scope scope) : run_(run), keeper_(run), scope_(std::move(scope)) {}
  bool replaces_all() const override { return by_path_; }
  bool had_elsewhere(const ObjectId& id) const override { return elsewhere_.contains(id); }
  std::uint64_t to_send() const override { return changed_.size() + undecided_.size(); }

  Status ask() override {
    std::deque<PlacePtr> todo;
    if (scope_) {
      SOMFS_TRY(list_left());
      todo.insert(todo.end(), scope_->roots.begin(), scope_->roots.end());
    } else {
      SOMFS_TRY_ASSIGN(TreeFilePtr root, run_.tree.root());
      root_ = std::make_shared<Place>(Place{nullptr, {"", root->ref()}});
      todo.push_back(root_);
    }
    if (by_path_) return {};
    for (const PlacePtr& place : todo) want(place->entry.ref.id);
    while (!todo.empty()) {
      PlacePtr place = std::move(todo.front());
      todo.pop_front();
      SOMFS_TRY_ASSIGN(auto rows, run_.link.listing(place->entry.ref.id));
      std::vector<PlacePtr> below;
      SOMFS_TRY(compare(place, std::move(rows), &below, nullptr));
      for (PlacePtr& p : below) {
        want(p->entry.ref.id);
        todo.push_back(std::move(p));
      }
    }
    return list_strays();
  }

  Status send(Emitter& out) override {
    if (!scope_) {
      SOMFS_TRY(send_root(out));
      run_.progress.files_total = run_.progress.files + to_send();
    }
    for (const Changed& c : changed_)
      if (needs_signature(c)) run_.link.want_signature(c.id);
    for (const Changed& c : changed_) SOMFS_TRY(send_changed(c, out));
    changed_.clear();
    for (const Undecided& u : undecided_) SOMFS_TRY(settle(u, nullptr, out));
    undecided_.clear();
    while (!expand_.empty()) {
      Expand e = std::move(expand_.front());
      expand_.pop_front();
      SOMFS_TRY(expand(e, out));
    }
    for (const NameRecord& r : gone_) SOMFS_TRY(out.name(r.parent, r.name, {}));
    // Directories that are nowhere in the view: the catalog still has their names. Of those outside a scope it is not known; the
    // names in directories that lost their own go with them at the mirror.
    if (scope_) stray_rows_.clear();
    for (const auto& [dir, rows] : stray_rows_)
      for (const ListRow& row : rows) SOMFS_TRY(out.name(dir, row.name, {}));
    return keeper_.send(out);
  }

 private:
  struct Meta {                        // what the mirror's catalog says of an object
    Kind kind = Kind::none;
    std::uint64_t size = 0;
    Time mtime, ctime;
    std::uint64_t attr_hash = 0;
  };
  struct Changed {                     // known to the mirror, and to be looked at
    PlacePtr dir;
    ViewEntry entry;
    ObjectId id;
    std::uint64_t size = 0;
    Time mtime;
    bool data = false;                 // its content may differ
    bool forced = false;               // whatever the catalog says: it is damaged at the mirror
    Meta before;
  };
  struct Undecided {                   // not what the mirror has under this name
    PlacePtr dir;
    ViewEntry entry;
  };
  struct Expand {                      // a directory whose entries are to be settled
    PlacePtr place;
    ObjectId mirror;                   // by path: the directory of the mirror beside it
  };

  static Meta meta_of(const ListRow& r) { return {r.kind, r.size, r.mtime, r.ctime, r.attr_hash}; }

  void want(const ObjectId& dir) {
    listed_.insert(dir);
    run_.link.want_listing(dir, scope_.has_value());
  }
  void stray(const ListRow& row) {
    elsewhere_.emplace(row.object, meta_of(row));
    if (row.kind == Kind::dir && !followed(row.object)) stray_dirs_.push_back(row.object);
  }

  // What left or joined this directory is in the dirty set name by name.
  bool followed(const ObjectId& dir) const {
    if (!scope_ || scope_->inside.contains(dir)) return false;
    auto at = run_.source.dirty->objects().find(dir);
    return at != run_.source.dirty->objects().end() && at->second.moved && !at->second.subtree;
  }

  // What the mirror has under the dirty names outside of the scope: it may have been moved inside.
  Status list_left() {
    const auto& dirty = run_.source.dirty->names();
    for (const ObjectId& dir : scope_->left) want(dir);
    for (const ObjectId& dir : scope_->left) {
      SOMFS_TRY_ASSIGN(auto rows, run_.link.listing(dir));
      for (const ListRow& row : rows)
        if (dirty.at(dir).contains(row.name)) stray(row);
    }
    return {};
  }

  // Compares one directory of both sides. Directories found the same are added to `below`. With `out` (records are being written)
  // findings are sent at once, else they are remembered.
  Status compare(const PlacePtr& place, std::vector<ListRow> rows, std::vector<PlacePtr>* below, Emitter* out) {
    const ObjectId id = place->entry.ref.id;
    auto dir = open_place(run_.tree, *place);
    Result<std::vector<ViewEntry>> entries;
    if (dir) entries = run_.tree.list(**dir);
    if (!dir || !entries) {
      Error e = dir ? entries.error() : dir.error();
      if (!spares_the_rest(e)) return pass_on(e);
      run_.unreadable(place->path(), e);
      return {};
    }
    if (run_.progress.cancelled) return fail(Exit::interrupted, "interrupted");
    run_.compared += entries->size();
    auto by_name = [](const auto& a, const auto& b) { return a.name < b.name; };
    std::sort(rows.begin(), rows.end(), by_name);
    std::sort(entries->begin(), entries->end(), by_name);
    auto row = rows.begin();
    auto drop_until = [&](const std::string* name) -> Status {
      for (; row != rows.end() && (name == nullptr || row->name < *name); ++row) {
        if (excluded(*place, row->name)) continue;
        if (out == nullptr) {
          gone_.push_back({id, row->name, {}});
          stray(*row);
        } else {
          SOMFS_TRY(out->name(id, row->name, {}));
        }
      }
      return {};
    };
    for (ViewEntry& entry : *entries) {
      SOMFS_TRY(drop_until(&entry.name));
      const bool named = row != rows.end() && row->name == entry.name;
      const ListRow* beside = named ? &*row++ : nullptr;
      if (excluded(*place, entry.name)) continue;
      if (beside == nullptr || beside->object != entry.ref.id) {
        if (beside != nullptr && out == nullptr) stray(*beside);
        Undecided u{place, std::move(entry)};
        if (out != nullptr) SOMFS_TRY(settle(u, nullptr, *out));
        else undecided_.push_back(std::move(u));
        continue;
      }
      auto file = run_.tree.open_in(**dir, entry);
      if (!file) {
        if (!spares_the_rest(file.error())) return pass_on(file.error());
        run_.unreadable(path_in(*place, entry.name), file.error());
        continue;
      }
      SOMFS_TRY(examine(place, entry, **file, meta_of(*beside), out));
      if (entry.ref.kind == Kind::dir) below->push_back(std::make_shared<Place>(Place{place, std::move(entry)}));
    }
    return drop_until(nullptr);
  }

  bool excluded(const Place& place, const std::string& name) const {
    if (scope_) return scope_->excluded.contains({place.entry.ref.id, name});
    return !run_.excludes.empty() && run_.excludes.covers(path_in(place, name));
  }

  // An object both sides know: whether it has to be looked at more closely. Once, whatever names it has.
  Status examine(const PlacePtr& dir, const ViewEntry& entry, TreeFile& file, const Meta& before, Emitter* out) {
    const Attr& a = file.attr();
    const ObjectId id = entry.ref.id;
    if (a.kind != Kind::dir && a.nlink > 1 && !linked_.insert(id).second) return {};
    bool attr = a.ctime != before.ctime || a.mtime != before.mtime || a.size != before.size || by_content_;
    bool data = a.kind == Kind::file && attr;
    if (run_.source.dirty) {
      auto at = run_.source.dirty->objects().find(id);
      if (at != run_.source.dirty->objects().end()) {
        attr = true;
        data = data || (a.kind == Kind::file && (at->second.whole || !at->second.extents.empty()));
      }
    }
    const bool forced = forced_.contains(id);
    if (!attr && !forced) return {};
    Changed c{dir, entry, id, a.size, a.mtime, data || (forced && a.kind == Kind::file), forced, before};
    if (out == nullptr) {
      changed_.push_back(std::move(c));
      return {};
    }
    if (needs_signature(c)) run_.link.want_signature(id);
    return send_changed(c, *out);
  }

  // A signature answers both: is the content the same, and if not, what of it is new.
  bool needs_signature(const Changed& c) const {
    if (run_.options.dry_run || c.forced || !c.data || c.size == 0 || c.before.size == 0) return false;
    return c.size >= kMinDelta || (by_content_ && c.size == c.before.size);
  }

  Status send_changed(const Changed& c, Emitter& out) {
    std::optional<Signature> signature;
    if (needs_signature(c)) {
      SOMFS_TRY_ASSIGN(signature, run_.link.next_signature());
    }
    auto opened = open_cached(c.dir, c.entry);
    if (!opened) {
      if (!spares_the_rest(opened.error())) return pass_on(opened.error());
      run_.unreadable(path_in(*c.dir, c.entry.name), opened.error());
      return {};
    }
    TreeFile& file = **opened;
    const Attr& a = file.attr();
    Data data;
    bool equal = c.size == c.before.size;
    if (c.data) {
      data.how = Data::How::all;
      bool same = false;
      if (c.size == 0 && c.before.size == 0 && !c.forced) same = true;
      if (signature && equal && (by_content_ || c.mtime == c.before.mtime)) {
        auto compared = same_content(file, *signature, &run_.bytes_source);
        if (!compared) {
          if (!spares_the_rest(compared.error())) return pass_on(compared.error());
          run_.unreadable(path_in(*c.dir, c.entry.name), compared.error());
          return {};
        }
        same = *compared;
      }
      if (same) data.how = Data::How::none;
      else if (signature && c.size >= kMinDelta) data = {Data::How::delta, nullptr, c.id, &*signature};
    }
    if (!c.forced && data.how == Data::How::none && equal && a.mtime == c.before.mtime && a.ctime == c.before.ctime) {
      // By content, and it is the same: attributes are all that may still differ.
      auto xattrs = file.xattrs();
      Result<std::string> target = std::string();
      if (a.kind == Kind::symlink) target = file.link_target();
      if (xattrs && target && attr_hash(a, *xattrs, *target) == c.before.attr_hash) return {};
    }
    ObjectRecord record;
    record.id = c.id;
    record.flags = kAttr | kXattr;
    SOMFS_TRY(out.object(file, std::move(record), data, *c.dir, c.entry.name));
    return {};
  }

  Result<TreeFilePtr> open_cached(const PlacePtr& place, const ViewEntry& entry) {
    if (last_place_ != place) {
      last_place_.reset();
      SOMFS_TRY_ASSIGN(last_dir_, open_place(run_.tree, *place));
      last_place_ = place;
    }
    return run_.tree.open_in(*last_dir_, entry);
  }

  // Directories that only the mirror has (or has elsewhere), all the way down: their objects may have been moved out.
  Status list_strays() {
    std::size_t from = 0;
    while (from < stray_dirs_.size()) {
      const std::size_t to = stray_dirs_.size();
      std::vector<ObjectId> asked;
      for (; from < to; ++from)
        if (listed_.insert(stray_dirs_[from]).second) asked.push_back(stray_dirs_[from]);
      strays_ += asked.size();
      if (strays_ > std::min(run_.mirror_objects, kMostStrays))
        return fail(Exit::peer_version, "cannot talk to the mirror", {}, "it lists more directories than it says it holds objects");
      for (const ObjectId& dir : asked) run_.link.want_listing(dir, scope_.has_value());
      for (const ObjectId& dir : asked) {
        SOMFS_TRY_ASSIGN(auto rows, run_.link.listing(dir));
        for (const ListRow& row : rows) stray(row);
        stray_rows_.emplace(dir, std::move(rows));
      }
    }
    stray_dirs_.clear();
    return {};
  }

  Status send_root(Emitter& out) {
    SOMFS_TRY_ASSIGN(TreeFilePtr root, run_.tree.root());
    ObjectRecord record;
    record.id = root->ref().id;
    record.flags = static_cast<std::uint8_t>(by_path_ ? int{kNew} : kAttr | kXattr);
    SOMFS_TRY(out.object(*root, std::move(record), {}, *root_, "."));
    if (!by_path_) {
      --run_.files;   // sent always, for no listing tells its attributes: not a finding
      return {};
    }
    run_.link.want_listing({});
    expand_.push_back({root_, {}});
    return {};
  }

  // An entry of the view whose name says something else at the mirror: moved there, or new. `beside`: by path, the mirror's row.
  Status settle(const Undecided& u, const ListRow* beside, Emitter& out) {
    const ObjectId parent = u.dir->entry.ref.id, id = u.entry.ref.id;
    auto moved = elsewhere_.find(id);
    const bool known = moved != elsewhere_.end() || linked_.contains(id);
    auto opened = open_cached(u.dir, u.entry);
    if (!opened) {
      if (!spares_the_rest(opened.error())) return pass_on(opened.error());
      run_.unreadable(path_in(*u.dir, u.entry.name), opened.error());
      if (by_path_) keeper_.entry(u.dir, u.entry.name);
      return {};
    }
    TreeFilePtr file = std::move(*opened);
    const bool dir = file->attr().kind == Kind::dir;
    if (known) {
      SOMFS_TRY(out.name(parent, u.entry.name, id));
      if (moved != elsewhere_.end()) SOMFS_TRY(examine(u.dir, u.entry, *file, moved->second, &out));
    } else {
      if (!dir && file->attr().nlink > 1) {
        auto [at, first] = births_.emplace(id, true);
        if (!first) return at->second ? out.name(parent, u.entry.name, id) : Status();
      }
      SOMFS_TRY_ASSIGN(bool sent, send_birth(u, *file, beside, out));
      if (!sent) {
        if (auto at = births_.find(id); at != births_.end()) at->second = false;
        if (by_path_) keeper_.entry(u.dir, u.entry.name);
        return {};
      }
      if (dir) keeper_.sent(id);
    }
    if (!dir) return {};
    ObjectId mirror;
    if (beside != nullptr && beside->kind == Kind::dir) {
      mirror = beside->object;
      run_.link.want_listing(mirror);
    }
    expand_.push_back({std::make_shared<Place>(Place{u.dir, u.entry}), mirror});
    return {};
  }

  Result<bool> send_birth(const Undecided& u, TreeFile& file, const ListRow* beside, Emitter& out) {
    ObjectRecord record;
    record.id = u.entry.ref.id;
    record.flags = kNew;
    record.parent = u.dir->entry.ref.id;
    record.name = u.entry.name;
    Data data;
    data.how = Data::How::all;
    std::optional<Signature> signature;
    const bool large = file.attr().kind == Kind::file && file.attr().size >= kMinDelta;
    if (large && beside != nullptr && beside->kind == Kind::file && beside->size >= kMinDelta && !run_.options.dry_run) {
      run_.link.want_signature(beside->object);
      SOMFS_TRY(run_.link.settle_listings());
      SOMFS_TRY_ASSIGN(signature, run_.link.next_signature());
    }
    if (signature) data = {Data::How::delta, nullptr, beside->object, &*signature};
    return out.object(file, std::move(record), data, *u.dir, u.entry.name);
  }

  Status expand(const Expand& e, Emitter& out) {
    std::vector<ListRow> rows;
    if (by_path_) {
      if (e.mirror || e.place == root_) {
        SOMFS_TRY_ASSIGN(rows, run_.link.listing(e.mirror));
      }
    } else if (auto at = stray_rows_.find(e.place->entry.ref.id); at != stray_rows_.end()) {
      rows = std::move(at->second);
      stray_rows_.erase(at);
    }
    if (!by_path_) {
      std::vector<PlacePtr> below;
      SOMFS_TRY(compare(e.place, std::move(rows), &below, &out));
      for (PlacePtr& p : below) expand_.push_back({std::move(p), {}});
      return {};
    }
    auto dir = open_place(run_.tree, *e.place);
    Result<std::vector<ViewEntry>> entries;
    if (dir) entries = run_.tree.list(**dir);
    if (!dir || !entries) {
      Error error = dir ? entries.error() : dir.error();
      if (!spares_the_rest(error)) return pass_on(error);
      run_.unreadable(e.place->path(), error);
      if (by_path_) keeper_.contents(e.place);
      return {};
    }
    run_.compared += entries->size();
    run_.progress.files_total += entries->size();
    std::unordered_map<std::string, const ListRow*> by_name;
    for (const ListRow& row : rows) by_name.emplace(row.name, &row);
    for (ViewEntry& entry : *entries) {
      if (run_.progress.cancelled) return fail(Exit::interrupted, "interrupted");
      if (excluded(*e.place, entry.name)) continue;
      auto row = by_name.find(entry.name);
      SOMFS_TRY(settle({e.place, std::move(entry)}, row == by_name.end() ? nullptr : row->second, out));
    }
    return {};
  }

  Run& run_;
  Keeper keeper_;
  const bool by_content_ = false, by_path_ = false;
  const std::unordered_set<ObjectId> forced_;
  const std::optional<Scope> scope_;
  PlacePtr root_;
  std::unordered_set<ObjectId> listed_;                         // directories of the mirror asked for: a circle ends here
  std::vector<ObjectId> stray_dirs_;
  std::uint64_t strays_ = 0;                                    // listed so far
  std::unordered_map<ObjectId, std::vector<ListRow>> stray_rows_;
  std::unordered_map<ObjectId, Meta> elsewhere_;                // objects of the mirror that are not where they were
  std::unordered_set<ObjectId> linked_;                         // objects with several names that were examined: both sides know them
  std::unordered_map<ObjectId, bool> births_;                   // new ones with several names: whether they could be read
  std::vector<Changed> changed_;
  std::vector<Undecided> undecided_;
  std::vector<NameRecord> gone_;
  std::deque<Expand> expand_;
  PlacePtr last_place_;
  TreeFilePtr last_dir_;
};

}  // namespace

std::unique_ptr<Migration> make_comparison(Run& run, bool by_content, bool by_path) {
  return std::make_unique<Comparison>(run, by_content, by_path);
}

std::unique_ptr<ScopedComparison> make_comparison(Run& run, Scope scope) { return std::make_unique<Comparison>(run, std::move(scope)); }

}  // namespace somfs::replicator
