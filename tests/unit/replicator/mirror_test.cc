// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <librsync.h>

#include <deque>
#include <fstream>

#include "common/bytes.h"
#include "replicator/brake.h"
#include "replicator/mirror.h"
#include "tests/unit/replicator/mirror_model.h"

namespace somfs::replicator {
namespace {

using model::begin;
using model::compare;
using model::hello;
using model::plan;
using model::Scratch;
using model::State;

struct NeedsRoot : ::testing::Test {
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "owners and device nodes need root";
  }
};

std::unique_ptr<Mirror> open(const std::string& path) {
  auto m = Mirror::open(path, Mirror::Mode::create);
  EXPECT_TRUE(m) << m.error().line();
  return m ? std::move(*m) : nullptr;
}

::testing::AssertionResult lands(Mirror& m, const Begin& b, const std::string& records) {
  auto c = model::run(m, b, records);
  if (!c) return ::testing::AssertionFailure() << c.error().line();
  if (c->held) return ::testing::AssertionFailure() << c->reason;
  return ::testing::AssertionSuccess();
}

State empty() {
  State s;
  s.nodes.clear();
  return s;
}

State small() {
  State s;
  ObjectId d = s.add(s.root, "d", Kind::dir);
  s.add(s.root, "a", Kind::file, "alpha");
  s.add(s.root, "b", Kind::file, "beta");
  s.add(d, "inner", Kind::file, std::string(5000, 'i'));
  s.add(d, "link", Kind::symlink, "../a");
  s.sweep();
  return s;
}

using MirrorTest = NeedsRoot;

TEST_F(MirrorTest, FullThenNothing) {
  Scratch dir;
  auto m = open(dir.path);
  EXPECT_FALSE(m->welcome().volume);
  State s = small();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  EXPECT_EQ(compare(dir.path, s), "");
  EXPECT_EQ(m->welcome().files, 5u);
  EXPECT_EQ(m->applied_epoch(), 1u);
  ASSERT_TRUE(lands(*m, begin(1, 2), ""));
  EXPECT_EQ(m->committed_epoch(), 2u);
  m.reset();
  m = open(dir.path);
  EXPECT_EQ(m->committed_epoch(), 2u);
  EXPECT_EQ(m->welcome().volume, hello().volume);
  auto rows = m->list(s.root);
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 3u);
  EXPECT_EQ((*rows)[0].name, "a");
  EXPECT_EQ((*rows)[0].size, 5u);
}

TEST_F(MirrorTest, ManyFilesGoThroughTheLanes) {
  Scratch dir("/dev/shm");
  auto m = open(dir.path);
  State s;
  ObjectId d = s.add(s.root, "many", Kind::dir);
  for (int i = 0; i < 500; ++i) s.add(d, "f" + std::to_string(i), Kind::file, std::string(static_cast<std::size_t>(i), 'x'));
  s.sweep();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  EXPECT_EQ(compare(dir.path, s), "");
}

TEST_F(MirrorTest, RandomEpochsLeaveTheTreeEqualToTheModel) {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    std::mt19937 random(seed);
    Scratch dir("/dev/shm");
    State now;
    now.sweep();
    std::unique_ptr<Mirror> m = open(dir.path);
    ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), now)));
    for (std::uint64_t epoch = 2; epoch < 14; ++epoch) {
      State next = now;
      for (unsigned n = random() % 40; n > 0; --n) model::mutate(next, random);
      bool full = random() % 8 == 0;
      std::string records = full ? plan(empty(), next, &random) : plan(now, next, &random);
      ASSERT_TRUE(lands(*m, begin(full ? 0 : epoch - 1, epoch), records)) << "seed " << seed << " epoch " << epoch;
      ASSERT_EQ(compare(dir.path, next), "") << "seed " << seed << " epoch " << epoch;
      now = next;
      if (random() % 4 == 0) {
        m.reset();
        m = open(dir.path);
      }
    }
  }
}

TEST_F(MirrorTest, RecordsMayBeSplitAnywhereBetweenRecords) {
  Scratch dir;
  auto m = open(dir.path);
  State s = small();
  ASSERT_TRUE(m->greet(hello()));
  ASSERT_TRUE(m->begin(begin(0, 1)));
  std::string records = plan(empty(), s);
  RecordReader r(records);
  Record one;
  while (r.next(&one)) {
    std::string piece;
    RecordWriter w(piece);
    if (one.type == RecordType::object) w.object(one.object);
    if (one.type == RecordType::data) w.data(one.off, one.bytes);
    if (one.type == RecordType::name) w.name(one.name);
    ASSERT_TRUE(m->receive(piece));
  }
  ASSERT_TRUE(m->commit());
  EXPECT_EQ(compare(dir.path, s), "");
}

TEST_F(MirrorTest, HolesStayHolesAndInPlaceHolesArePunched) {
  Scratch dir;
  auto m = open(dir.path);
  State s;
  ObjectId f = s.add(s.root, "sparse", Kind::file, std::string(1 << 20, 'x'));
  s.sweep();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  State t = s;
  t.nodes[f].data.replace(65536, 900000, 900000, '\0');
  t.sweep();
  std::string records;
  RecordWriter w(records);
  ObjectRecord o;
  o.id = f;
  o.flags = kSize;
  o.attr = t.nodes[f].attr;
  w.object(o);
  w.hole(65536, 900000);
  ASSERT_TRUE(lands(*m, begin(1, 2), records));
  EXPECT_EQ(compare(dir.path, t), "");
  struct stat st;
  ASSERT_EQ(::stat((dir.path + "/tree/sparse").c_str(), &st), 0);
  EXPECT_LT(st.st_blocks * 512, 300000);
}

TEST_F(MirrorTest, WhatAnInterruptedRunLeftIsUsedByHash) {
  Scratch dir;
  State s = small();
  {
    auto m = open(dir.path);
    ASSERT_TRUE(m->greet(hello()));
    ASSERT_TRUE(m->begin(begin(0, 1)));
    ASSERT_TRUE(m->receive(plan(empty(), s)));
  }
  auto m = open(dir.path);
  EXPECT_EQ(m->committed_epoch(), 0u);
  EXPECT_EQ(compare(dir.path, s), "/: mtime");
  auto rows = m->staged();
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 3u);
  std::map<ObjectId, std::string> hashes;
  for (const StagedRow& row : *rows) hashes[row.object] = row.hash;
  std::string records, first = plan(empty(), s);
  RecordWriter w(records);
  RecordReader r(first);
  Record one;
  while (r.next(&one)) {
    if (one.type != RecordType::object) continue;
    w.object(one.object);
    if (one.object.attr.kind == Kind::file) {
      EXPECT_EQ(hashes[one.object.id], sha256(s.nodes[one.object.id].data));
      w.reuse(hashes[one.object.id]);
    }
  }
  ASSERT_TRUE(lands(*m, begin(0, 1), records));
  EXPECT_EQ(compare(dir.path, s), "");
  EXPECT_EQ(m->welcome().staged, 0u);
}

TEST_F(MirrorTest, ForeignTreeIsAdoptedAndReplaced) {
  Scratch dir;
  ::mkdir((dir.path + "/tree").c_str(), 0755);
  ::mkdir((dir.path + "/tree/old").c_str(), 0755);
  std::ofstream(dir.path + "/tree/old/file") << "content";
  auto m = open(dir.path);
  EXPECT_TRUE(m->welcome().foreign_tree);
  auto rows = m->list({});
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 1u);
  auto inner = m->list((*rows)[0].object);
  ASSERT_TRUE(inner);
  EXPECT_EQ(inner->at(0).size, 7u);
  std::size_t got = 0;
  ASSERT_TRUE(m->signature(inner->at(0).object, [&](std::string_view piece) -> Status {
    got += piece.size();
    return {};
  }));
  EXPECT_GT(got, 12u);
  State s = small();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  EXPECT_EQ(compare(dir.path, s), "");
  EXPECT_FALSE(m->welcome().foreign_tree);
}

TEST_F(MirrorTest, TheBrakeHoldsAMassRemovalUntilDecided) {
  for (bool accept : {true, false}) {
    Scratch dir("/dev/shm");
    auto m = open(dir.path);
    State s;
    for (int i = 0; i < 300; ++i) s.add(s.root, "f" + std::to_string(i), Kind::file, "x");
    s.sweep();
    ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
    State t = s;
    for (int i = 0; i < 200; ++i) t.unlink(t.root, "f" + std::to_string(i));
    t.add(t.root, "new", Kind::file, "n");
    t.sweep();
    Begin b = begin(1, 2);
    b.brake_share = 0.5;
    auto c = model::run(*m, b, plan(s, t));
    ASSERT_TRUE(c);
    EXPECT_TRUE(c->held);
    EXPECT_EQ(c->removed, 200u);
    EXPECT_EQ(compare(dir.path, s), "");
    m.reset();
    m = open(dir.path);
    EXPECT_TRUE(m->welcome().held);
    ASSERT_TRUE(m->greet(hello()));
    auto again = m->begin(b);
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().exit, Exit::person);
    ASSERT_TRUE(m->decide_held(accept));
    EXPECT_EQ(compare(dir.path, accept ? t : s), "");
    EXPECT_EQ(m->committed_epoch(), accept ? 2u : 1u);
    ASSERT_TRUE(lands(*m, begin(accept ? 2 : 1, 3), accept ? "" : plan(s, t)));
    EXPECT_EQ(compare(dir.path, t), "");
  }
}

TEST_F(MirrorTest, ManySmallRemovalsAreAMassRemovalToo) {
  Scratch dir("/dev/shm");
  auto m = open(dir.path);
  State s;
  for (int i = 0; i < 400; ++i) s.add(s.root, "f" + std::to_string(i), Kind::file, "x");
  s.sweep();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  int gone = 0;
  std::uint64_t epoch = 1;
  auto remove = [&](int n) {
    State t = s;
    for (int i = 0; i < n; ++i) t.unlink(t.root, "f" + std::to_string(gone + i));
    t.sweep();
    Begin b = begin(epoch, epoch + 1);
    b.brake_share = 0.5;
    auto c = model::run(*m, b, plan(s, t));
    EXPECT_TRUE(c);
    if (!c->held) {
      s = t;
      gone += n;
      ++epoch;
    }
    return c->held;
  };
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(remove(20)) << i;
  m.reset();
  m = open(dir.path);   // what was held before is remembered
  ASSERT_TRUE(m->greet(hello()));
  EXPECT_TRUE(remove(1));
  EXPECT_EQ(m->held_reason(), "201 of the 400 objects held within the last hour would be gone");
  ASSERT_TRUE(m->decide_held(true));
  State t = s;
  t.unlink(t.root, "f" + std::to_string(gone));
  t.sweep();
  EXPECT_EQ(compare(dir.path, t), "");
  s = t;
  ++gone;
  ++epoch;
  EXPECT_FALSE(remove(120)) << "a person has said yes";
  EXPECT_EQ(compare(dir.path, s), "");
}

TEST_F(MirrorTest, WhatComesAndGoesIsNoMassRemoval) {
  Scratch dir("/dev/shm");
  auto m = open(dir.path);
  State s;
  for (int i = 0; i < 150; ++i) s.add(s.root, "f" + std::to_string(i), Kind::file, "x");
  s.sweep();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  for (std::uint64_t epoch = 1; epoch < 20; ++epoch) {
    State t = s;
    for (int i = 0; i < 50; ++i) {
      t.add(t.root, "t" + std::to_string(epoch) + "." + std::to_string(i), Kind::file, "t");
      if (epoch > 1) t.unlink(t.root, "t" + std::to_string(epoch - 1) + "." + std::to_string(i));
    }
    t.sweep();
    Begin b = begin(epoch, epoch + 1);
    b.brake_share = 0.5;
    ASSERT_TRUE(lands(*m, b, plan(s, t))) << epoch;
    s = t;
  }
  EXPECT_EQ(compare(dir.path, s), "");
}

TEST(Peaks, AreThoseOfTheLastHour) {
  Peaks p;
  EXPECT_EQ(p.most(0), 0u);
  const std::int64_t t = 1'700'000'000;
  p.add(t, 500);
  p.add(t + 1, 400);
  p.add(t + 1800, 300);
  EXPECT_EQ(p.most(t + 1800), 500u);
  p = Peaks::parse(p.text());
  EXPECT_EQ(p.most(t + 3000), 500u);
  EXPECT_EQ(p.most(t + 4200), 300u);
  EXPECT_EQ(p.most(t + 9000), 0u);
  EXPECT_EQ(p.most(t - 9000), 0u) << "a clock that was put back";
  for (std::int64_t i = 0; i < 100'000; i += 60) p.add(t + i, 1);
  EXPECT_LT(p.text().size(), 300u);
  for (const char* bad : {"", ":", "5", "5:", "x:1", "5:1 :", "99999999999999999999999:1", "1:99999999999999999999999"}) EXPECT_EQ(Peaks::parse(bad).most(1500), std::string(bad) == "5:1 :" ? 1u : 0u) << bad;
}

TEST_F(MirrorTest, WhoMayNotReleaseTheBrakeCanOnlyTightenIt) {
  Scratch dir("/dev/shm");
  auto m = open(dir.path);
  State s;
  for (int i = 0; i < 300; ++i) s.add(s.root, "f" + std::to_string(i), Kind::file, "x");
  s.sweep();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  auto without = [](State t, int from, int to) {
    for (int i = from; i < to; ++i) t.unlink(t.root, "f" + std::to_string(i));
    t.sweep();
    return t;
  };
  std::uint64_t number = 1;
  auto held = [&](double share, bool confirmed, double most, const State& before, const State& after) -> std::string {
    m->restrain(most);
    Begin b = begin(m->committed_epoch(), ++number);
    b.brake_share = share;
    b.confirmed = confirmed;
    auto c = model::run(*m, b, plan(before, after));
    EXPECT_TRUE(c) << c.error().line();
    EXPECT_EQ(c->held, !c->reason.empty());
    EXPECT_EQ(compare(dir.path, c->held ? before : after), "");
    if (c->held) {
      b.confirmed = true;
      b.epoch = ++number;
      auto again = m->begin(b);
      EXPECT_FALSE(again);
      EXPECT_EQ(again.error().exit, Exit::person);
      EXPECT_NE(again.error().line().find("at the mirror"), std::string::npos);
      EXPECT_TRUE(m->decide_held(false));
    }
    return c->reason;
  };
  const std::string powerless = "this source may not release the brake";
  State t = without(s, 0, 200);
  EXPECT_NE(held(0.5, true, 0.5, s, t).find(powerless), std::string::npos);
  EXPECT_NE(held(1, false, 0.5, s, t).find(powerless), std::string::npos);
  EXPECT_NE(held(1, true, 0.5, s, without(s, 0, 300)).find(powerless), std::string::npos) << "an emptied root";
  t = without(s, 0, 120);
  EXPECT_EQ(held(0.2, false, 0.5, s, t), "120 of 300 objects would be removed");
  // What it says of a person makes nobody forget what was there.
  t = without(s, 0, 100);
  EXPECT_EQ(held(0.5, true, 0.5, s, t), "");
  const State u = without(t, 100, 180);
  EXPECT_NE(held(0.5, true, 0.5, t, u).find(powerless), std::string::npos);
  EXPECT_EQ(held(1, false, 1, t, u), "") << "as the mirror's side has it";
  m.reset();
  m = open(dir.path);
  Begin b = begin(m->committed_epoch(), ++number);
  b.brake_share = 0.5;
  b.confirmed = true;
  ASSERT_TRUE(lands(*m, b, plan(u, without(u, 180, 299)))) << "nobody restrained this one";
}

TEST_F(MirrorTest, AnEmptiedRootIsHeld) {
  Scratch dir;
  auto m = open(dir.path);
  State s = small(), t;
  t.sweep();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  Begin b = begin(1, 2);
  b.brake_share = 0.5;
  auto c = model::run(*m, b, plan(s, t));
  ASSERT_TRUE(c);
  EXPECT_TRUE(c->held);
  b.confirmed = true;
  ASSERT_TRUE(lands(*m, b, plan(s, t)));
  EXPECT_EQ(compare(dir.path, t), "");
}

TEST_F(MirrorTest, RefusesWhatItCannotMakeSenseOf) {
  Scratch dir;
  std::ofstream(dir.path + "/file") << "x";
  auto exit_of = [](const std::string& path, Mirror::Mode mode) {
    auto m = Mirror::open(path, mode);
    return m ? Exit::done : m.error().exit;
  };
  EXPECT_EQ(exit_of(dir.path + "/file", Mirror::Mode::create), Exit::configuration);
  EXPECT_EQ(exit_of(dir.path, Mirror::Mode::create), Exit::configuration);
  EXPECT_EQ(exit_of(dir.path + "/none", Mirror::Mode::existing), Exit::configuration);
  std::string good = dir.path + "/good";
  auto m = open(good);
  EXPECT_EQ(exit_of(good, Mirror::Mode::create), Exit::locked);
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), small())));
  Hello other = hello();
  other.volume = Uuid::random();
  EXPECT_EQ(m->greet(other).error().exit, Exit::not_allowed);
  other = hello();
  other.generation = Uuid::random();
  EXPECT_EQ(m->greet(other).error().exit, Exit::person);
  other.ancestors = {hello().generation};
  EXPECT_TRUE(m->greet(other));
  m.reset();
  std::ofstream(good + "/.somfs-mirror/catalog.sqlite", std::ios::trunc) << std::string(8192, 'z');
  EXPECT_EQ(exit_of(good, Mirror::Mode::create), Exit::configuration);
  EXPECT_EQ(compare(good, small()), "");
}

TEST_F(MirrorTest, ASplitIsResolvedForOneSideAndFencesTheOther) {
  Scratch dir;
  auto m = open(dir.path);
  const Hello before = hello();
  Hello copy = hello(), copys_heir = hello(), heir = hello();
  copy.generation = Uuid::random();
  copy.ancestors = {before.generation};
  copys_heir.generation = Uuid::random();
  copys_heir.ancestors = {before.generation, copy.generation};
  heir.generation = Uuid::random();
  heir.ancestors = {before.generation};
  auto exit_of = [](const Status& s) { return s ? Exit::done : s.error().exit; };
  EXPECT_EQ(exit_of(m->decide_split(before.generation)), Exit::usage) << "nobody has written";
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), small())));
  EXPECT_EQ(exit_of(m->decide_split(before.generation)), Exit::usage);
  State theirs = small();
  theirs.add(theirs.root, "theirs", Kind::file);
  theirs.sweep();
  ASSERT_TRUE(m->greet(copy));
  Begin next = begin(1, 2);
  next.generation = copy.generation;
  ASSERT_TRUE(model::run(*m, next, plan(small(), theirs)));
  EXPECT_EQ(m->generation(), copy.generation);
  EXPECT_EQ(exit_of(m->greet(before)), Exit::person);

  ASSERT_TRUE(m->decide_split(before.generation));
  EXPECT_EQ(exit_of(m->greet(before)), Exit::temporary) << "it must be opened again";
  m.reset();
  m = open(dir.path);
  EXPECT_EQ(compare(dir.path, theirs), "") << "the tree stays until the next epoch";
  EXPECT_EQ(m->welcome().epoch, 0u);
  EXPECT_TRUE(m->welcome().foreign_tree) << "so that it is compared with";
  EXPECT_EQ(m->welcome().volume, before.volume);
  for (const Hello& right : {before, heir}) EXPECT_TRUE(m->greet(right));
  for (const Hello& wrong : {copy, copys_heir}) EXPECT_EQ(exit_of(m->greet(wrong)), Exit::person) << "though it descends from what the mirror goes with";

  // The other way round, and back.
  ASSERT_TRUE(m->decide_split(copys_heir.generation));
  m.reset();
  m = open(dir.path);
  EXPECT_TRUE(m->greet(copys_heir));
  for (const Hello& wrong : {copy, before, heir}) EXPECT_EQ(exit_of(m->greet(wrong)), Exit::person);
  ASSERT_TRUE(m->decide_split(before.generation));
  m.reset();
  m = open(dir.path);
  EXPECT_TRUE(m->greet(heir));
  for (const Hello& wrong : {copy, copys_heir}) EXPECT_EQ(exit_of(m->greet(wrong)), Exit::person);
}

TEST_F(MirrorTest, HostileRecordsAreRefusedAndTheOldEpochStays) {
  Scratch dir;
  auto m = open(dir.path);
  State s = small();
  ObjectId d = s.at("d"), a = s.at("a");
  ObjectId e = s.add(d, "e", Kind::dir);
  s.sweep();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  auto refused = [&](const std::function<void(RecordWriter&)>& fill) {
    std::string records;
    RecordWriter w(records);
    fill(w);
    auto c = model::run(*m, begin(1, 2), records);
    EXPECT_EQ(compare(dir.path, s), "");
    return !c && c.error().exit == Exit::temporary;
  };
  ObjectRecord file;
  file.id = {900, 1};
  file.flags = kNew;
  file.attr = s.nodes[a].attr;
  file.parent = s.root;
  file.name = "z";
  EXPECT_TRUE(refused([&](RecordWriter& w) { w.name({{77, 77}, "x", a}); }));
  EXPECT_TRUE(refused([&](RecordWriter& w) { w.name({s.root, "x", {77, 77}}); }));
  EXPECT_TRUE(refused([&](RecordWriter& w) { w.name({a, "x", d}); }));
  EXPECT_TRUE(refused([&](RecordWriter& w) { w.name({s.root, "../x", a}); }));
  EXPECT_TRUE(refused([&](RecordWriter& w) { w.name({s.root, "x", s.root}); }));
  EXPECT_TRUE(refused([&](RecordWriter& w) { w.name({s.root, "x", d}); }));   // two names for a directory
  EXPECT_TRUE(refused([&](RecordWriter& w) {                                  // beneath itself
    w.name({s.root, "d", {}});
    w.name({e, "d", d});
  }));
  EXPECT_TRUE(refused([&](RecordWriter& w) {
    w.object(file);
    w.data(4, "beyond the end");
  }));
  EXPECT_TRUE(refused([&](RecordWriter& w) {
    w.object(file);
    w.object(file);
  }));
  EXPECT_TRUE(refused([&](RecordWriter& w) {
    file.flags = kAttr;
    w.object(file);
  }));
  EXPECT_TRUE(refused([&](RecordWriter& w) { w.data(0, "of nothing"); }));
  EXPECT_TRUE(refused([&](RecordWriter& w) {
    file.id = a;
    file.flags = kRewritten;
    file.basis = {5, 5};
    w.object(file);
    w.delta("rs\2\x36 nonsense");
  }));
}

TEST_F(MirrorTest, APlantedSymlinkIsNeverFollowed) {
  Scratch dir, outside;
  auto m = open(dir.path);
  State s = small();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  ASSERT_EQ(::rename((dir.path + "/tree/d").c_str(), (outside.path + "/d").c_str()), 0);
  ASSERT_EQ(::symlink((outside.path + "/d").c_str(), (dir.path + "/tree/d").c_str()), 0);
  State t = s;
  ObjectId inner = t.at("d/inner");
  t.nodes[inner].data = "changed";
  t.add(t.at("d"), "more", Kind::file, "x");
  t.sweep();
  EXPECT_FALSE(lands(*m, begin(1, 2), plan(s, t)));
  EXPECT_FALSE(std::filesystem::exists(outside.path + "/d/more"));
  EXPECT_EQ(std::filesystem::file_size(outside.path + "/d/inner"), 5000u);
  // It says so once; opened again it compares anew.
  m.reset();
  EXPECT_FALSE(Mirror::open(dir.path, Mirror::Mode::create));
  m = open(dir.path);
  ASSERT_TRUE(m);
  EXPECT_TRUE(m->welcome().foreign_tree);
  ASSERT_TRUE(lands(*m, begin(0, 3), plan(empty(), t)));
  EXPECT_EQ(compare(dir.path, t), "");
  EXPECT_FALSE(std::filesystem::exists(outside.path + "/d/more"));
}

TEST_F(MirrorTest, DeepTreesComeAndGo) {
  Scratch dir;
  auto m = open(dir.path);
  State s;
  ObjectId at = s.root;
  for (int i = 0; i < 300; ++i) at = s.add(at, std::string(200, 'd'), Kind::dir);
  s.add(at, "bottom", Kind::file, "deep");
  s.sweep();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  std::size_t rows = 0, longest = 0;
  ASSERT_TRUE(m->inspect([&](InspectRow row) -> Status {
    EXPECT_EQ(row.trouble, "");
    ++rows;
    longest = std::max(longest, row.path.size());
    return {};
  }));
  EXPECT_EQ(rows, 302u);
  EXPECT_EQ(longest, 301u);
  State t = s;
  t.nodes[at].children["bottom2"] = t.nodes[at].children["bottom"];
  t.touch(at);
  t.sweep();
  ASSERT_TRUE(lands(*m, begin(1, 2), plan(s, t)));
  EXPECT_EQ(compare(dir.path, t), "");
  State u;
  u.next += 1000;
  u.add(u.root, "only", Kind::file);
  u.sweep();
  ASSERT_TRUE(lands(*m, begin(0, 3), plan(empty(), u)));
  EXPECT_EQ(compare(dir.path, u), "");
}

TEST_F(MirrorTest, InspectReadsEverythingInOrder) {
  Scratch dir;
  auto m = open(dir.path);
  State s = small();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  std::vector<InspectRow> rows;
  ASSERT_TRUE(m->inspect([&](InspectRow row) -> Status {
    rows.push_back(std::move(row));
    return {};
  }));
  ASSERT_EQ(rows.size(), 6u);
  EXPECT_EQ(rows[0].object, s.root);
  EXPECT_EQ(rows[1].path, std::vector<std::string>{"a"});
  EXPECT_EQ(rows[1].content, sha256("alpha"));
  EXPECT_EQ(rows[4].path, (std::vector<std::string>{"d", "inner"}));
  EXPECT_EQ(rows[5].content, sha256("../a"));
}

std::string job_output(rs_job_t* job, std::string in) {
  std::string out(1u << 22, '\0');
  rs_buffers_t b = {};
  b.next_in = in.data();
  b.avail_in = in.size();
  b.eof_in = 1;
  b.next_out = out.data();
  b.avail_out = out.size();
  EXPECT_EQ(rs_job_iter(job, &b), RS_DONE);
  rs_job_free(job);
  return out.substr(0, out.size() - b.avail_out);
}

TEST_F(MirrorTest, ADeltaRewritesAFileAndKeepsItsLinks) {
  Scratch dir;
  auto m = open(dir.path);
  State s;
  std::mt19937 random(5);
  std::string old(600000, '\0');
  for (char& c : old) c = static_cast<char>(random());
  ObjectId f = s.add(s.root, "big", Kind::file, old);
  s.nodes[s.root].children["other"] = f;
  s.sweep();
  ASSERT_TRUE(lands(*m, begin(0, 1), plan(empty(), s)));
  std::string signature;
  ASSERT_TRUE(m->signature(f, [&](std::string_view piece) -> Status {
    signature += piece;
    return {};
  }));
  State t = s;
  t.nodes[f].data.insert(1000, "inserted in front");
  t.sweep();
  rs_signature_t* sums = nullptr;
  job_output(rs_loadsig_begin(&sums), signature);
  rs_build_hash_table(sums);
  std::string delta = job_output(rs_delta_begin(sums), t.nodes[f].data);
  rs_free_sumset(sums);
  EXPECT_LT(delta.size(), 20000u);
  std::string records;
  RecordWriter w(records);
  ObjectRecord o;
  o.id = o.basis = f;
  o.flags = kRewritten | kAttr | kXattr;
  o.attr = t.nodes[f].attr;
  w.object(o);
  for (std::size_t at = 0; at < delta.size(); at += 1000) w.delta(std::string_view(delta).substr(at, 1000));
  ASSERT_TRUE(lands(*m, begin(1, 2), records));
  EXPECT_EQ(compare(dir.path, t), "");
  // A delta that stops short, or makes too much.
  records.clear();
  w.object(o);
  w.delta(std::string_view(delta).substr(0, delta.size() / 2));
  EXPECT_FALSE(lands(*m, begin(2, 3), records));
  o.attr.size -= 1;
  records.clear();
  w.object(o);
  w.delta(delta);
  EXPECT_FALSE(lands(*m, begin(2, 3), records));
  EXPECT_EQ(compare(dir.path, t), "");
}

// Says what it was told to, keeps what it is told.
struct Script : Transport {
  std::deque<Message> in;
  std::vector<Message> out;
  Status send(Message message) override {
    out.push_back(std::move(message));
    return {};
  }
  Result<Message> receive() override {
    if (in.empty()) return fail(Exit::link_down, "the script is over");
    Message m = std::move(in.front());
    in.pop_front();
    return m;
  }
  void close() noexcept override {}
  std::uint64_t bytes_sent() const override { return 0; }
  std::uint64_t bytes_received() const override { return 0; }
};

TEST_F(MirrorTest, ServeSpeaksTheProtocol) {
  Scratch dir;
  State s = small();
  auto opener = [&](const Hello&) { return Mirror::open(dir.path, Mirror::Mode::create); };
  std::string root_id;
  ByteWriter(root_id).id(s.root);
  Script talk;
  talk.in = {{MessageType::hello, encode(hello())},  {MessageType::begin, encode(begin(0, 1))},
             {MessageType::records, plan(empty(), s)}, {MessageType::commit, {}},
             {MessageType::list, root_id},           {MessageType::inspect, {}},
             {MessageType::staged, {}},              {MessageType::bye, {}}};
  talk.in = model::rooted(std::move(talk.in));
  ASSERT_TRUE(serve(talk, opener));
  EXPECT_EQ(compare(dir.path, s), "");
  std::vector<MessageType> types;
  for (const Message& m : talk.out) types.push_back(m.type);
  EXPECT_EQ(types, (std::vector<MessageType>{MessageType::welcome, MessageType::committed, MessageType::applied, MessageType::listing,
                                             MessageType::inspected, MessageType::inspected, MessageType::stages}));
  Applied applied;
  ASSERT_TRUE(decode(talk.out[2].body, &applied));
  EXPECT_EQ(applied.epoch, 1u);
  std::vector<ListRow> rows;
  ObjectId of;
  ASSERT_TRUE(decode(talk.out[3].body, &rows, &of));
  EXPECT_EQ(rows.size(), 3u);
  EXPECT_EQ(of, s.root);

  auto answer = [&](std::deque<Message> in) {
    Script bad;
    bad.in = std::move(in);
    EXPECT_FALSE(serve(bad, opener));
    ErrorBody e;
    EXPECT_TRUE(!bad.out.empty() && bad.out.back().type == MessageType::error && decode(bad.out.back().body, &e));
    return static_cast<Exit>(e.exit);
  };
  Hello wrong = hello();
  wrong.protocol = 9;
  EXPECT_EQ(answer({{MessageType::hello, encode(wrong)}}), Exit::peer_version);
  EXPECT_EQ(answer({{MessageType::commit, {}}}), Exit::temporary);
  EXPECT_EQ(answer({{MessageType::hello, encode(hello())}, {MessageType::commit, {}}}), Exit::temporary);
  EXPECT_EQ(answer({{MessageType::hello, encode(hello())}, {MessageType::list, "short"}}), Exit::temporary);
  EXPECT_EQ(answer({{MessageType::hello, encode(hello())}, {MessageType::welcome, {}}}), Exit::temporary);
  wrong = hello();
  wrong.volume = Uuid::random();
  EXPECT_EQ(answer({{MessageType::hello, encode(wrong)}}), Exit::not_allowed);
}

TEST_F(MirrorTest, ADirectoryOfManyNamesIsListedInParts) {
  Scratch dir("/dev/shm");
  State s;
  for (std::size_t i = 0; i < kListRows; ++i) s.add(s.root, "f" + std::to_string(i), Kind::file);
  s.sweep();
  Script talk;
  std::string none;
  ByteWriter(none).id({});
  talk.in = {{MessageType::hello, encode(hello())}, {MessageType::begin, encode(begin(0, 1))},
             {MessageType::records, plan(empty(), s)}, {MessageType::commit, {}}, {MessageType::list, none}, {MessageType::bye, {}}};
  talk.in = model::rooted(std::move(talk.in));
  ASSERT_TRUE(serve(talk, [&](const Hello&) { return Mirror::open(dir.path, Mirror::Mode::create); }));
  ASSERT_EQ(talk.out.size(), 5u);
  std::vector<ListRow> rows;
  ObjectId of;
  ASSERT_TRUE(decode(talk.out[3].body, &rows, &of));
  EXPECT_EQ(rows.size(), kListRows);
  ASSERT_TRUE(decode(talk.out[4].body, &rows, &of));
  EXPECT_TRUE(rows.empty());
}

}  // namespace
}  // namespace somfs::replicator
