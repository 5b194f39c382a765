// SPDX-License-Identifier: Apache-2.0
// Full: the whole tree, from the root downwards. Lanes take directories off a stack; a directory's own record is on its way before
// the directory is put there, so records of parents come first whatever the lanes do.
#include <algorithm>
#include <thread>

#include "replicator/keep.h"
#include "replicator/migration.h"

namespace somfs::replicator {
namespace {

constexpr int kLanes = 2;

class FullWalk final : public Migration {
 public:
  explicit FullWalk(Run& run) : run_(run), keeper_(run) {}
  bool replaces_all() const override { return true; }

  Status send(Emitter& out) override {
    SOMFS_TRY_ASSIGN(TreeFilePtr root, run_.tree.root());
    ObjectRecord record;
    record.id = root->ref().id;
    record.flags = kNew;
    auto top = std::make_shared<Place>(Place{nullptr, {"", root->ref()}});
    std::jthread counting;
    if (run_.progress.totals) counting = std::jthread([this, top](const std::stop_token& stop) { count(top, stop); });
    SOMFS_TRY_ASSIGN(bool sent, out.object(*root, record, {}, *top, "."));
    if (!sent) return fail(Exit::temporary, "cannot read the root of the snapshot");
    SOMFS_TRY(out.flush());
    push({top});
    root.reset();
    {
      std::vector<std::jthread> lanes;
      for (int i = 1; i < kLanes; ++i) lanes.emplace_back([this] {
        Emitter mine(run_);
        run_lane(mine);
      });
      run_lane(out);
    }
    {
      Lock l(mutex_);
      if (error_) return pass_on(*error_);
    }
    for (const Link& link : late_)
      if (linked_.at(link.object)) SOMFS_TRY(out.name(link.dir->entry.ref.id, link.name, link.object));
      else keeper_.entry(link.dir, link.name);
    return keeper_.send(out);
  }

 private:
  struct Link {
    PlacePtr dir;
    std::string name;
    ObjectId object;
  };

  void push(std::vector<PlacePtr> places) {
    Lock l(mutex_);
    todo_.insert(todo_.end(), std::make_move_iterator(places.begin()), std::make_move_iterator(places.end()));
    change_.notify_all();
  }

  // What there is to do, told at once: a sum that grows while work is done would make the share jump. It runs ahead of the lanes, which
  // find in the cache what it looked at; what it cannot read does not count.
  void count(const PlacePtr& top, const std::stop_token& stop) {
    std::uint64_t files = 1, bytes = 0;
    std::unordered_set<ObjectId> linked;
    std::vector<PlacePtr> todo{top};
    while (!todo.empty()) {
      PlacePtr place = std::move(todo.back());
      todo.pop_back();
      auto dir = open_place(run_.tree, *place);
      Result<std::vector<ViewEntry>> entries;
      if (dir) entries = run_.tree.list(**dir);
      if (!dir || !entries) continue;
      for (ViewEntry& entry : *entries) {
        if (stop.stop_requested()) return;
        if (!run_.excludes.empty() && run_.excludes.covers(path_in(*place, entry.name))) continue;
        if (entry.ref.kind == Kind::dir) {
          ++files;
          todo.push_back(std::make_shared<Place>(Place{place, std::move(entry)}));
          continue;
        }
        auto file = run_.tree.open_in(**dir, entry);
        if (!file || ((*file)->attr().nlink > 1 && !linked.insert(entry.ref.id).second)) continue;
        ++files;
        bytes += data_bytes(**file);
      }
    }
    run_.progress.files_total = files;
    run_.progress.bytes_total = bytes;
  }

  void run_lane(Emitter& out) {
    while (true) {
      PlacePtr place;
      {
        Lock l(mutex_);
        while (todo_.empty() && busy_ != 0 && !error_) change_.wait(mutex_);
        if (todo_.empty() || error_) break;
        place = std::move(todo_.back());
        todo_.pop_back();
        ++busy_;
      }
      Status s = directory(*place, place, out);
      Lock l(mutex_);
      --busy_;
      if (!s && !error_) error_ = s.error();
      change_.notify_all();
    }
    Status s = out.flush();
    Lock l(mutex_);
    if (!s && !error_) error_ = s.error();
    change_.notify_all();
  }

  Status directory(const Place& place, const PlacePtr& self, Emitter& out) {
    auto dir = open_place(run_.tree, place);
    Result<std::vector<ViewEntry>> entries;
    if (dir) entries = run_.tree.list(**dir);
    if (!dir || !entries) {
      Error e = dir ? entries.error() : dir.error();
      if (!spares_the_rest(e)) return pass_on(e);
      run_.unreadable(place.path(), e);
      keeper_.contents(self);
      return {};
    }
    if (!run_.progress.totals) run_.progress.files_total += entries->size();
    // In the order of inode numbers, which is close to that on the disk.
    std::sort(entries->begin(), entries->end(), [](const auto& a, const auto& b) { return a.ref.id < b.ref.id; });
    std::vector<PlacePtr> below;
    for (ViewEntry& entry : *entries) {
      if (run_.progress.cancelled) return fail(Exit::interrupted, "interrupted");
      if (!run_.excludes.empty() && run_.excludes.covers(path_in(place, entry.name))) continue;
      SOMFS_TRY_ASSIGN(bool sent, one(**dir, self, entry, out));
      if (sent && entry.ref.kind == Kind::dir) below.push_back(std::make_shared<Place>(Place{self, std::move(entry)}));
    }
    if (below.empty()) return {};
    SOMFS_TRY(out.flush());
    push(std::move(below));
    return {};
  }

  Result<bool> one(TreeFile& dir, const PlacePtr& place, const ViewEntry& entry, Emitter& out) {
    auto file = run_.tree.open_in(dir, entry);
    if (!file) {
      if (!spares_the_rest(file.error())) return pass_on(file.error());
      run_.unreadable(path_in(*place, entry.name), file.error());
      keeper_.entry(place, entry.name);
      return false;
    }
    const Attr& attr = (*file)->attr();
    const ObjectId id = (*file)->ref().id;
    const bool linked = attr.kind != Kind::dir && attr.nlink > 1;
    if (linked) {
      Lock l(mutex_);
      if (!linked_.emplace(id, true).second) {
        late_.push_back({place, entry.name, id});
        return false;
      }
    }
    ObjectRecord record;
    record.id = id;
    record.flags = kNew;
    record.parent = dir.ref().id;
    record.name = entry.name;
    Data data;
    data.how = Data::How::all;
    SOMFS_TRY_ASSIGN(bool sent, out.object(**file, std::move(record), data, *place, entry.name));
    if (sent && attr.kind == Kind::dir) keeper_.sent(id);
    if (!sent) keeper_.entry(place, entry.name);
    if (linked && !sent) {
      Lock l(mutex_);
      linked_[id] = false;
    }
    return sent;
  }

  Run& run_;
  Keeper keeper_;
  Mutex mutex_;
  CondVar change_;
  std::vector<PlacePtr> todo_ GUARDED_BY(mutex_);
  int busy_ GUARDED_BY(mutex_) = 0;
  std::optional<Error> error_ GUARDED_BY(mutex_);
  std::unordered_map<ObjectId, bool> linked_;    // objects with several names: whether they were born. Guarded while lanes run
  std::vector<Link> late_;                       // their further names. Guarded while lanes run
};

}  // namespace

std::unique_ptr<Migration> make_full(Run& run) { return std::make_unique<FullWalk>(run); }

}  // namespace somfs::replicator
