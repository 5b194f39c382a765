// SPDX-License-Identifier: Apache-2.0
// What a mirror keeps for the next ones: as it came, found again after a crash, bounded, and never more than what was committed.
#include <gtest/gtest.h>

#include "common/bytes.h"
#include "replicator/mirror_catalog.h"
#include "tests/unit/replicator/chain_world.h"
#include "tests/unit/sync_calls.h"

namespace somfs::replicator {
namespace {

using chain::Origin;
using chain::Site;

Position at(std::uint64_t epoch) { return {epoch, epoch == 0 ? Uuid{} : model::hello().generation}; }

struct SpoolTest : testing::Test {
  Site a;
  Origin o;
  Spool& spool() { return a.desk->spool(); }
  std::string forward() const { return a.dir.path + "/.somfs-mirror/forward/"; }
  std::vector<std::string> files() const {
    std::vector<std::string> out;
    for (const auto& e : std::filesystem::directory_iterator(forward())) out.push_back(e.path());
    std::sort(out.begin(), out.end());
    return out;
  }
  static std::string content(const std::string& path) { return read_file(AT_FDCWD, path, 64u << 20).value(); }
  static void put(const std::string& path, std::string_view bytes) {
    Fd f(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ASSERT_EQ(write_all(f.get(), bytes), 0);
  }
  void reopen() {
    a.boot();
    spool().enlist();
    const Status s = a.desk->look();
    ASSERT_TRUE(s) << s.error().line();
  }
};

TEST_F(SpoolTest, KeepsAnEpochAsItCame) {
  spool().enlist();
  o.change();
  ASSERT_TRUE(o.commit(a));
  o.change(20);
  const Begin begin = o.begin(1);
  const std::string one = o.records(), two = [] {
    std::string s;
    RecordWriter w(s);
    NameRecord n;
    n.parent = model::State().root;
    n.name = "never there";
    w.name(n);
    return s;
  }();
  {
    auto m = a.desk->open().value();
    ASSERT_TRUE(m->greet(model::hello()));
    ASSERT_TRUE(m->begin(begin));
    ASSERT_TRUE(m->receive(one));
    ASSERT_TRUE(m->receive(two));
    EXPECT_FALSE(spool().after(at(1))) << "it is not committed";
    ASSERT_TRUE(m->commit());
  }
  for (int again = 0; again < 2; ++again) {
    const auto link = spool().after(at(1));
    ASSERT_TRUE(link);
    EXPECT_EQ(link->to, at(2));
    EXPECT_TRUE(link->whole);
    EXPECT_TRUE(spool().whole_from(at(0)));
    auto reader = spool().open(*link);
    ASSERT_TRUE(reader) << reader.error().line();
    EXPECT_EQ(encode(reader->head().begin), encode(begin));
    EXPECT_EQ(reader->head().from, at(1));
    EXPECT_EQ(reader->next().value(), one);
    EXPECT_EQ(reader->next().value(), two);
    EXPECT_EQ(reader->next().value(), std::nullopt);
    snapshot::DirtySet touched;
    ASSERT_TRUE(spool().touched(at(1), &touched));
    std::set<ObjectId> stated;
    RecordReader records(one);
    for (Record r; records.next(&r);)
      if (r.type == RecordType::object) stated.insert(r.object.id);
    EXPECT_FALSE(stated.empty());
    EXPECT_EQ(touched.objects().size(), stated.size());
    for (const ObjectId& id : stated) EXPECT_TRUE(touched.objects().contains(id) && touched.objects().at(id).whole);
    reopen();
  }
}

// Paths beneath the mirror's state, in the order in which they were synced.
struct Synced {
  explicit Synced(const Site& site) {
    const std::string state = site.dir.path + "/.somfs-mirror/";
    test::on_sync([this, state](int fd, test::Sync what) {
      char path[PATH_MAX];
      const ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
      const std::string name(path, n > 0 ? static_cast<std::size_t>(n) : 0);
      if (what == test::Sync::file && name.starts_with(state)) names.push_back(name.substr(state.size()));
    });
  }
  ~Synced() { test::on_sync({}); }
  std::size_t first(const std::string& prefix, std::size_t from = 0) const {
    while (from < names.size() && !names[from].starts_with(prefix)) ++from;
    return from;
  }
  std::vector<std::string> names;
};

TEST_F(SpoolTest, IsDurableBeforeTheEpochIsCommitted) {
  spool().enlist();
  o.change();
  Synced synced(a);
  ASSERT_TRUE(o.commit(a));
  const std::size_t file = synced.first("forward/"), catalog = synced.first("catalog.sqlite", synced.first("journal/"));
  ASSERT_LT(catalog, synced.names.size());
  EXPECT_LT(file, catalog) << "its bytes";
  std::size_t name = file;
  while (name < synced.names.size() && synced.names[name] != "forward") ++name;
  EXPECT_LT(name, catalog) << "its name, after them";
}

TEST_F(SpoolTest, GoesWhenEverybodyHasIt) {
  const int one = spool().enlist(), two = spool().enlist();
  o.go_on(a, 3);
  EXPECT_EQ(a.spooled(), 3u);
  spool().stands(one, at(3));
  EXPECT_EQ(a.spooled(), 3u) << "of the other one nothing is known";
  spool().stands(two, at(1));
  EXPECT_EQ(a.spooled(), 2u);
  spool().stands(two, at(2));
  EXPECT_EQ(a.spooled(), 1u);
  spool().stands(two, Position{77, Uuid::random()});   // it has to be compared: no file helps it
  EXPECT_EQ(a.spooled(), 0u);
  EXPECT_EQ(spool().bytes(), 0u);
  o.go_on(a);
  EXPECT_EQ(a.spooled(), 1u) << "the first one needs it";
  spool().stands(one, at(4));
  EXPECT_EQ(a.spooled(), 0u);
}

TEST_F(SpoolTest, TornAndDamagedFilesAreNotBelieved) {
  spool().enlist();
  o.go_on(a, 2);
  const std::string file = files().back(), whole = content(file);
  ASSERT_GT(whole.size(), 200u);
  auto read_all = [&]() -> Result<std::size_t> {
    SOMFS_TRY_ASSIGN(SpoolReader reader, SpoolReader::open(Fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC))));
    for (std::size_t n = 0;; ++n) {
      SOMFS_TRY_ASSIGN(auto batch, reader.next());
      if (!batch) return n;
    }
  };
  EXPECT_EQ(read_all().value(), 1u);
  for (std::size_t cut = 0; cut < whole.size(); ++cut) {
    put(file, std::string_view(whole).substr(0, cut));
    ASSERT_FALSE(read_all()) << "ends at " << cut;
  }
  for (std::size_t flip = 0; flip < whole.size(); ++flip) {
    std::string other = whole;
    other[flip] = static_cast<char>(other[flip] ^ 0x10);
    put(file, other);
    ASSERT_FALSE(read_all()) << "flipped at " << flip;
  }
  // A piece that is missing, each block being sound.
  put(file, whole);
  {
    ByteReader r(whole);
    r.raw(8);
    const std::size_t head = r.u32();
    const std::size_t from = 16 + head;
    ByteReader piece(std::string_view(whole).substr(from));
    const std::size_t length = piece.u32();
    std::string less = whole;
    less.erase(from, 8 + length);
    put(file, less);
    EXPECT_FALSE(read_all());
  }
  put(file, std::string_view(whole).substr(0, 30));
  reopen();
  EXPECT_FALSE(spool().after(at(1)));
  EXPECT_FALSE(spool().after(at(0))) << "it does not lead here";
  EXPECT_EQ(a.spooled(), 0u);
}

TEST_F(SpoolTest, WhatWasNotCommittedIsForgotten) {
  spool().enlist();
  o.go_on(a, 2);
  // Given up by its source.
  {
    auto m = a.desk->open().value();
    ASSERT_TRUE(m->greet(model::hello()));
    ASSERT_TRUE(m->begin(o.begin(2)));
    ASSERT_TRUE(m->receive(o.records()));
    EXPECT_EQ(a.spooled(), 3u);
    m->abort();
    EXPECT_EQ(a.spooled(), 2u);
    // The process ends in the middle.
    ASSERT_TRUE(m->begin(o.begin(2)));
    ASSERT_TRUE(m->receive(o.records()));
    a.boot();
  }
  // Sealed, and then no commit: the next number, complete.
  const std::string last = files().back();
  std::string sealed = content(last);
  {
    SpoolHead head;
    head.whole = true;
    head.from = at(2);
    head.begin = o.begin(2);
    std::string payload;
    ByteWriter w(payload);
    w.u8(0);
    w.u8(1);
    w.u64(2);
    w.raw(head.from.generation.raw());
    w.text(encode(head.begin));
    ByteReader r(sealed);
    r.raw(8);
    const std::size_t old = r.u32();
    std::string block;
    ByteWriter b(block);
    b.u32(static_cast<std::uint32_t>(payload.size()));
    b.u32(crc32c(payload));
    b.raw(payload);
    sealed.replace(8, 8 + old, block);
  }
  const std::string stray = forward() + "00000000000000000009";
  put(stray, sealed);
  ASSERT_TRUE(SpoolReader::open(Fd(::open(stray.c_str(), O_RDONLY | O_CLOEXEC))));
  reopen();
  EXPECT_FALSE(std::filesystem::exists(stray));
  EXPECT_TRUE(spool().whole_from(at(0)));
  EXPECT_FALSE(spool().after(at(2)));
  EXPECT_EQ(a.spooled(), 2u);
}

TEST_F(SpoolTest, AnEpochOfWhichNothingWasKeptBreaksTheChain) {
  spool().enlist();
  o.go_on(a, 2);
  o.go_on(a, 1, false);   // another process, which knows of no next mirror
  o.go_on(a, 1);
  EXPECT_FALSE(spool().after(at(0)));
  EXPECT_FALSE(spool().after(at(1)));
  EXPECT_TRUE(spool().whole_from(at(3)));
  snapshot::DirtySet touched;
  EXPECT_FALSE(spool().touched(at(1), &touched));
  EXPECT_EQ(a.spooled(), 1u);
}

TEST_F(SpoolTest, HeldIsNotForwardedAcceptedIs) {
  spool().enlist();
  for (int i = 0; i < 130; ++i) o.now.add(o.now.root, "f" + std::to_string(i), Kind::file, "x");
  o.now.sweep();
  ASSERT_TRUE(o.commit(a));
  auto lose = [&] {
    for (int i = 0; i < 125; ++i) o.now.nodes[o.now.root].children.erase("f" + std::to_string(i));
    o.now.sweep();
  };
  lose();
  auto held = o.commit(a, true, 0.5);
  ASSERT_TRUE(held && held->held);
  EXPECT_FALSE(spool().after(at(1)));
  reopen();
  EXPECT_FALSE(spool().after(at(1)));
  EXPECT_EQ(a.spooled(), 2u);
  {
    auto m = a.desk->open().value();
    ASSERT_TRUE(m->decide_held(false));
    EXPECT_EQ(a.spooled(), 1u);
    EXPECT_TRUE(spool().whole_from(at(0)));
  }
  held = o.commit(a, true, 0.5);
  ASSERT_TRUE(held && held->held);
  EXPECT_EQ(a.spooled(), 2u);
  {
    auto other = Mirror::open(a.dir.path, Mirror::Mode::existing).value();   // as somfs-ctl would
    ASSERT_TRUE(other->decide_held(true));
  }
  ASSERT_TRUE(a.desk->look());
  EXPECT_EQ(a.differs(o.now), "");
  const auto link = spool().after(at(1));
  ASSERT_TRUE(link);
  EXPECT_EQ(link->to, at(o.epoch));
  EXPECT_TRUE(spool().whole_from(at(0)));
}

TEST_F(SpoolTest, WhatOnlyThisMirrorHasIsNotPassedOn) {
  spool().enlist();
  o.go_on(a, 1);
  const ObjectId file = o.now.add(o.now.root, "basis", Kind::file, std::string(3000, 'b'));
  o.now.sweep();
  ASSERT_TRUE(o.commit(a));
  for (int what = 0; what < 2; ++what) {
    std::string records;
    RecordWriter w(records);
    ObjectRecord r;
    r.id = file;
    r.flags = kAttr | kXattr;
    r.attr = o.now.nodes[file].attr;
    if (what == 1) r.basis = {5, kSyntheticBirth};
    w.object(r);
    auto m = a.desk->open().value();
    ASSERT_TRUE(m->greet(model::hello()));
    ASSERT_TRUE(m->begin(o.begin(o.epoch)));
    ASSERT_TRUE(m->receive(records));
    if (what == 0) {   // the mirror refuses what it has not; the spool has seen it first
      std::string reuse;
      RecordWriter(reuse).reuse(std::string(32, 'h'));
      spool().take(reuse);
    }
    ASSERT_TRUE(m->commit());
    ++o.epoch;
    const auto link = spool().after(at(o.epoch - 1));
    ASSERT_TRUE(link) << what;
    EXPECT_FALSE(link->whole) << what;
    snapshot::DirtySet touched;
    ASSERT_TRUE(spool().touched(at(o.epoch - 1), &touched));
    EXPECT_TRUE(touched.objects().contains(file));
  }
}

TEST_F(SpoolTest, BeyondItsBoundItKeepsWhatWasTouched) {
  Site small(200'000);
  Spool& s = small.desk->spool();
  const int slow = s.enlist(), fast = s.enlist();
  std::vector<ObjectId> written;
  const Synced synced(small);
  for (int i = 0; i < 20; ++i) {
    written.push_back(o.now.add(o.now.root, "f" + std::to_string(i), Kind::file, std::string(40'000, 'x')));
    o.now.sweep();
    ASSERT_TRUE(o.commit(small));
    if (i == 0) s.stands(slow, at(0));
    ASSERT_TRUE(s.whole_from(at(o.epoch - 1))) << "the last one is there for who keeps up";
    s.stands(fast, at(o.epoch));
    EXPECT_LE(s.bytes(), 200'000u);
  }
  const std::size_t thin = synced.first("forward/thin");
  ASSERT_LT(thin + 1, synced.names.size()) << "what takes the place of another is durable";
  EXPECT_EQ(synced.names[thin + 1], "forward") << "and so is that it does";
  const auto link = s.after(at(0));
  ASSERT_TRUE(link);
  EXPECT_FALSE(link->whole);
  EXPECT_FALSE(s.whole_from(at(0)));
  EXPECT_LT(small.spooled(), 8u) << "what was thinned is one file";
  snapshot::DirtySet touched;
  ASSERT_TRUE(s.touched(at(0), &touched));
  for (const ObjectId& id : written) EXPECT_TRUE(touched.objects().contains(id));
  // One epoch larger than all.
  o.now.add(o.now.root, "large", Kind::file, std::string(300'000, 'y'));
  o.now.sweep();
  ASSERT_TRUE(o.commit(small));
  EXPECT_LE(s.bytes(), 200'000u);
  EXPECT_FALSE(s.whole_from(at(o.epoch - 1)));
  ASSERT_TRUE(s.after(at(o.epoch - 1)));
  small.boot();
  small.desk->spool().enlist();
  ASSERT_TRUE(small.desk->look());
  touched = {};
  ASSERT_TRUE(small.desk->spool().touched(at(0), &touched));
  EXPECT_GE(touched.objects().size(), 21u);
}

TEST_F(SpoolTest, WhoStandsBetweenTwoKeepsTheirBoundary) {
  Site small(100'000);
  Spool& s = small.desk->spool();
  const int slow = s.enlist(), slower = s.enlist();
  for (int i = 0; i < 8; ++i) {
    o.now.add(o.now.root, "f" + std::to_string(i), Kind::file, std::string(40'000, 'x'));
    o.now.sweep();
    ASSERT_TRUE(o.commit(small));
    if (i == 0) s.stands(slower, at(0));
    if (i == 1) s.stands(slow, at(2));
  }
  snapshot::DirtySet touched;
  EXPECT_TRUE(s.touched(at(2), &touched));
  EXPECT_TRUE(s.touched(at(0), &touched));
}

}  // namespace
}  // namespace somfs::replicator
