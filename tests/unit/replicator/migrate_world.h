// SPDX-License-Identifier: Apache-2.0
// A real directory whose changes are recorded as the capture would, its snapshots, and a mirror reached over any transport.
#pragma once

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <thread>

#include "common/fd.h"
#include "replicator/migration.h"
#include "replicator/mirror.h"
#include "replicator/sender.h"
#include "snapshot/store.h"
#include "snapshot/store_impl.h"
#include "tests/unit/snapshot/store_harness.h"

namespace somfs::replicator::test {

using snapshot::DirtySet;
using snapshot::test::Volume;

// A volume whose operations are recorded as the capture would, and a mirror beside it.
class World {
 public:
  World() { volume_.open_store(); }

  std::string path(const std::string& name) const { return volume_.base + "/v/" + name; }
  std::string mirror() const { return volume_.base + "/m"; }
  std::string seen(const std::string& name) const { return mirror() + "/tree/" + name; }
  DirtySet::Bounds bounds;
  DirtySet dirty{bounds};
  bool preserves = false;   // what the operations below overwrite is kept for the snapshots, as the mount does: these may be read while they go on

  ObjectId id(const std::string& name) const {
    auto i = inode_at(AT_FDCWD, path(name));
    return i ? i->id : ObjectId{};
  }
  void note(ChangeKind what, const ObjectId& object, Extent extent = {}) {
    Change c;
    c.what = what;
    c.object = object;
    c.extent = extent;
    add(c);
  }
  void bound(const std::string& name, const ObjectId& object, const ObjectId& old) {
    Change c;
    c.what = object ? ChangeKind::bind : ChangeKind::unbind;
    c.object = object;
    c.old = old;
    std::size_t slash = name.rfind('/');
    c.parent = id(slash == std::string::npos ? "." : name.substr(0, slash));
    std::string last = name.substr(slash == std::string::npos ? 0 : slash + 1);
    c.name = last;
    add(c);
  }
  // After anything that makes `name`.
  void made(const std::string& name) {
    note(ChangeKind::born, id(name));
    bound(name, id(name), {});
  }
  void mkdir(const std::string& name) {
    if (preserves) volume_.mkdir("/" + name);
    else ASSERT_EQ(::mkdir(path(name).c_str(), 0755), 0) << name;
    made(name);
  }
  void write(const std::string& name, const std::string& bytes, std::uint64_t off = 0) {
    const bool fresh = !id(name);
    if (preserves) {
      if (fresh) volume_.create("/" + name);
      volume_.write("/" + name, off, bytes);
      if (fresh) made(name);
      return note(ChangeKind::write, id(name), {off, bytes.size()});
    }
    Fd fd(::open(path(name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    ASSERT_TRUE(fd) << name;
    ASSERT_EQ(pwrite_all(fd.get(), bytes, off), 0);
    if (fresh) made(name);
    note(ChangeKind::write, id(name), {off, bytes.size()});
  }
  void truncate(const std::string& name, std::uint64_t size) {
    if (preserves) volume_.truncate("/" + name, size);
    else ASSERT_EQ(::truncate(path(name).c_str(), static_cast<off_t>(size)), 0);
    note(ChangeKind::truncate, id(name), {size, 0});
  }
  void rename(const std::string& from, const std::string& to) {
    ObjectId moved = id(from), old = id(to);
    if (preserves) volume_.rename("/" + from, "/" + to);
    if (preserves ? id(to) != moved : ::rename(path(from).c_str(), path(to).c_str()) != 0) return;
    if (moved == old) return;
    bound(from, {}, moved);
    bound(to, moved, old);
  }
  void link(const std::string& from, const std::string& to) {
    if (preserves && id(to)) return;
    if (preserves) volume_.link("/" + from, "/" + to);
    if (preserves ? !id(to) : ::link(path(from).c_str(), path(to).c_str()) != 0) return;
    bound(to, id(to), {});
  }
  void remove(const std::string& name) {
    ObjectId old = id(name);
    if (!old) return;
    if (preserves) volume_.unlink("/" + name, inode_at(AT_FDCWD, path(name))->attr.kind == Kind::dir);
    if (preserves ? bool(id(name)) : ::unlink(path(name).c_str()) != 0 && ::rmdir(path(name).c_str()) != 0) return;
    bound(name, {}, old);
  }

  // From where nothing is recorded, as the capture tells it.
  void arrived(const std::string& from, const std::string& to) {
    ObjectId moved = id(from), old = id(to);
    if (::rename(path(from).c_str(), path(to).c_str()) != 0 || moved == old) return;
    note(inode_at(AT_FDCWD, path(to))->attr.kind == Kind::dir ? ChangeKind::subtree : ChangeKind::whole, moved);
    bound(to, moved, old);
  }
  // To where nothing is recorded.
  void left(const std::string& from, const std::string& to) {
    ObjectId moved = id(from);
    if (::rename(path(from).c_str(), path(to).c_str()) == 0) bound(from, {}, moved);
  }

  enum class Knows { dirty, nothing };
  using Adjust = std::function<void(Source&, MigrateOptions&)>;

  // Takes a snapshot and migrates it over what `connect` gives. What the mirror acknowledged is remembered.
  Result<MigrateReport> attempt(Knows knows, const Adjust& adjust, const Connect& connect) {
    ++epoch_;
    const std::string name = "e" + std::to_string(epoch_);
    volume_.snapshot(name, epoch_);
    auto view = snapshot::View::open(volume_.root.get(), volume_.dir.get(), name).value();
    Source source = source_of(*view);
    source.base_epoch = acked_;
    source.base_root = kept_root;
    source.epoch = epoch_;
    if (knows == Knows::dirty) source.dirty = dirty;
    MigrateOptions options;
    options.brake_share = 1;
    if (adjust) adjust(source, options);
    last_ = name;
    Result<MigrateReport> report;
    if (!wrap) {
      report = replicator::migrate(source, connect, options, progress);
    } else {
      std::unique_ptr<Tree> tree = wrap(tree_of(*view));
      auto transport = connect().value();
      report = migrate_tree(*tree, source, *transport, options, progress, Distrust::nothing);
    }
    if (report && !options.dry_run && !report->held) {
      // An older one where nothing had changed. What is kept is kept as a journal keeps it.
      if (report->epoch > acked_ || !report->root.empty()) kept_root = report->root;
      acked_ = report->epoch;
      dirty = DirtySet(bounds);
    }
    return report;
  }

  // Mirrors that serve in threads of this process, until the end of `servers`.
  Connect in_process(std::vector<std::jthread>* servers) const {
    return [this, servers]() -> Result<std::unique_ptr<Transport>> {
      servers->clear();   // the one before lets go of the mirror first
      auto [mine, theirs] = make_pair_in_process();
      servers->push_back(server(std::move(theirs)));
      return std::move(mine);
    };
  }
  std::jthread server(std::unique_ptr<Transport> transport) const {
    return std::jthread([this, t = std::shared_ptr<Transport>(std::move(transport))] {
      (void)serve(*t, [&](const Hello&) { return Mirror::open(mirror(), Mirror::Mode::create); });
      t->close();
    });
  }

  MigrateReport migrate(Knows knows = Knows::dirty, const Adjust& adjust = {}) {
    std::vector<std::jthread> servers;
    auto report = attempt(knows, adjust, in_process(&servers));
    EXPECT_TRUE(report) << report.error().line();
    if (!report) return {};
    EXPECT_TRUE(report->unreadable.empty()) << report->unreadable.front();
    if (!report->root.empty() && !report->held) {
      servers.clear();
      auto m = Mirror::open(mirror(), Mirror::Mode::existing);
      EXPECT_TRUE(m && (*m)->welcome().root == report->root) << "the two sides have another root each";
    }
    return *report;
  }

  std::uint64_t epoch() const { return epoch_; }
  std::uint64_t acknowledged() const { return acked_; }
  std::string kept_root;                                              // with what was acknowledged
  Progress progress;
  std::function<std::unique_ptr<Tree>(std::unique_ptr<Tree>)> wrap;   // what is migrated in place of the view
  ChangeSink* sink = nullptr;                                         // sees every change too

  Result<VerifyReport> verify_with(const Connect& connect, const std::vector<std::string>& excludes = {}) {
    auto view = snapshot::View::open(volume_.root.get(), volume_.dir.get(), last_).value();
    Source source = source_of(*view);
    source.excludes = excludes;
    source.base_epoch = acked_;
    source.base_root = kept_root;
    auto transport = connect().value();
    return replicator::verify(source, *transport, {}, progress);
  }
  VerifyReport verify(const std::vector<std::string>& excludes = {}) {
    std::vector<std::jthread> servers;
    auto report = verify_with(in_process(&servers), excludes);
    EXPECT_TRUE(report) << report.error().line();
    return report.value_or(VerifyReport());
  }
  void expect_equal(const std::string& when = {}) {
    VerifyReport r = verify();
    EXPECT_TRUE(r.equal) << when;
    EXPECT_TRUE(!r.source_tree.empty() && r.source_tree == r.mirror_tree) << when << ": the roots of the trees differ";
    EXPECT_NE(r.root_agrees, std::optional<bool>(false)) << when << ": the roots of the histories differ";
    for (std::size_t i = 0; i < std::min<std::size_t>(r.differences.size(), 10); ++i)
      ADD_FAILURE() << when << ": " << r.differences[i].path << ": " << r.differences[i].what;
  }

  // For whoever lands epochs by other means: the next epoch's snapshot, and a view of the last one.
  std::uint64_t cut() {
    last_ = "e" + std::to_string(++epoch_);
    volume_.snapshot(last_, epoch_);
    return epoch_;
  }
  std::unique_ptr<snapshot::View> view() const { return snapshot::View::open(volume_.root.get(), volume_.dir.get(), last_).value(); }
  Source identity() const {
    Source s;
    s.volume = id_;
    s.generation = generation_;
    return s;
  }

 private:
  void add(const Change& change) {
    Fd fd;
    Handle handle;
    Change c = change;
    if (c.object) handle = handle_by_id_[c.object];
    for (const ObjectId& o : {c.object, c.parent}) {
      if (!o || !handle_by_id_[o].empty()) continue;
      handle_by_id_[o] = find_handle(o);
    }
    if (c.object) handle = handle_by_id_[c.object];
    c.handle = handle.empty() ? nullptr : &handle;
    dirty.add(c);
    if (sink != nullptr) {
      if (c.object) sink->intend(c.object, c.handle, Promise::soon);
      if (c.parent) sink->intend(c.parent, &handle_by_id_[c.parent], Promise::soon);
      sink->accept(c, {});
    }
    if (c.parent) dirty.learn_handle(c.parent, handle_by_id_[c.parent]);
  }
  Handle find_handle(const ObjectId& object) const {
    Handle found;
    std::function<void(int)> walk = [&](int fd) {
      if (inode_of(fd)->id == object) found = handle_of(fd);
      if (!found.empty() || inode_of(fd)->attr.kind != Kind::dir) return;
      Fd dir(::open(proc_path(fd).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      for (const auto& n : snapshot::names_in(dir.get())) {
        Fd child(::openat(dir.get(), n.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
        if (child && n != ".somfs") walk(child.get());
      }
    };
    walk(volume_.root.get());
    return found;
  }
  Source source_of(snapshot::View& view) const {
    Source s;
    s.view = &view;
    s.volume = id_;
    s.generation = generation_;
    return s;
  }

  Volume volume_;
  Uuid id_ = Uuid::random(), generation_ = Uuid::random();
  std::uint64_t epoch_ = 0, acked_ = 0;
  std::string last_;
  std::map<ObjectId, Handle> handle_by_id_;
};

inline std::string noise(std::size_t n, unsigned seed) {
  std::mt19937_64 r(seed);
  std::string s(n, '\0');
  for (char& c : s) c = static_cast<char>(r());
  return s;
}

inline void fill(World& w) {
  w.mkdir("d");
  w.mkdir("d/e");
  w.write("d/small", "hello");
  w.write("d/e/large", noise(3 << 20, 1));
  w.write("empty", "");
  w.write("d/old", noise(200000, 2));
  w.link("d/small", "d/e/again");
  ::symlink("../nowhere", w.path("d/sym").c_str());
  w.made("d/sym");
}

}  // namespace somfs::replicator::test
