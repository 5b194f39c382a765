// SPDX-License-Identifier: Apache-2.0
// From a real directory through a snapshot's view and a transport to a real mirror, and verify() as the judge beside a plain walk.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <random>

#include "tests/unit/replicator/migrate_world.h"
#include "tests/unit/replicator/random_round.h"

namespace somfs::replicator {
namespace {

using test::fill;
using test::noise;
using test::random_round;
using test::World;

TEST(Migrate, FullThenNothingThenDifferential) {
  World w;
  fill(w);
  EXPECT_EQ(w.migrate().strategy, "full");
  w.expect_equal("full");
  MigrateReport r = w.migrate();
  EXPECT_EQ(r.strategy, "differential");
  EXPECT_EQ(r.files + r.names, 0u);
  EXPECT_LT(r.bytes_wire, 1000u);

  w.write("d/e/large", "in place", 1000000);
  w.truncate("d/old", 100);
  w.rename("d/e", "moved");
  w.write("new", "n");
  w.mkdir("fresh");
  w.mkdir("fresh/deeper");
  w.rename("new", "fresh/deeper/new");
  w.remove("d/small");
  r = w.migrate();
  EXPECT_EQ(r.strategy, "differential");
  EXPECT_LT(r.bytes_source, 1000u);
  w.expect_equal("differential");
}

TEST(Migrate, EverythingAFileSystemHolds) {
  if (::geteuid() != 0) GTEST_SKIP() << "devices and owners need root";
  World w;
  auto made = [&](const std::string& n) { w.made(n); };
  w.mkdir("a");
  std::string odd = "a/\xff\n\x1b[31m";
  w.write(odd, "odd name");
  w.write("a/" + std::string(255, 'n'), "long name");
  w.write("a/suid", "x");
  ASSERT_EQ(::chown(w.path("a/suid").c_str(), 1234, 5678), 0);
  ASSERT_EQ(::chmod(w.path("a/suid").c_str(), 06755), 0);
  ASSERT_EQ(::setxattr(w.path("a/suid").c_str(), "user.k", "v\0w", 3, 0), 0);
  ASSERT_EQ(::setxattr(w.path("a/suid").c_str(), "trusted.t", "", 0, 0), 0);
  const char acl[] = "\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xd2\x04\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x06\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
  w.write("a/acl", "x");
  ASSERT_EQ(::setxattr(w.path("a/acl").c_str(), "system.posix_acl_access", acl, sizeof acl - 1, 0), 0);
  ASSERT_EQ(::mkfifo(w.path("a/fifo").c_str(), 0600), 0);
  made("a/fifo");
  ASSERT_EQ(::mknod(w.path("a/sock").c_str(), S_IFSOCK | 0700, 0), 0);
  made("a/sock");
  ASSERT_EQ(::mknod(w.path("a/chr").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
  made("a/chr");
  ASSERT_EQ(::mknod(w.path("a/blk").c_str(), S_IFBLK | 0600, makedev(259, 70000)), 0);
  made("a/blk");
  w.write("a/sparse", "start");
  w.write("a/sparse", "end", 1ull << 30);
  timespec t[2] = {{0, UTIME_OMIT}, {-5, 123456789}};
  ASSERT_EQ(::utimensat(AT_FDCWD, w.path("a/sparse").c_str(), t, 0), 0);
  ASSERT_EQ(::chmod(w.path("a").c_str(), 01711), 0);
  // Deeper than PATH_MAX.
  Fd at(::open(w.path("a").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int i = 0; i < 30; ++i) {
    std::string n(200, static_cast<char>('a' + i % 26));
    ASSERT_EQ(::mkdirat(at.get(), n.c_str(), 0755), 0);
    at = Fd(::openat(at.get(), n.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  Fd deep(::openat(at.get(), "deep", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  ASSERT_EQ(write_all(deep.get(), "deep"), 0);
  MigrateReport r = w.migrate();
  EXPECT_LT(r.bytes_source, 100000u);
  struct stat s;
  ASSERT_EQ(::stat(w.seen("a/sparse").c_str(), &s), 0);
  EXPECT_LT(s.st_blocks, 1000);
  ASSERT_EQ(::stat(w.seen("a/suid").c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 07777, 06755u);
  EXPECT_EQ(s.st_uid, 1234u);
  w.expect_equal();
  // Nothing differs for a comparison either.
  r = w.migrate(World::Knows::nothing);
  EXPECT_EQ(r.strategy, "gap-scan");
  EXPECT_EQ(r.files + r.names, 0u);
}

TEST(Migrate, SavedByRenameTravelsAsADelta) {
  World w;
  std::string content = noise(12 << 20, 7);   // large enough for two threads
  w.write("doc", content);
  w.migrate();
  w.write("doc.tmp", "inserted in front" + content);
  w.rename("doc.tmp", "doc");
  MigrateReport r = w.migrate();
  EXPECT_EQ(r.strategy, "differential");
  EXPECT_LT(r.bytes_wire, 80000u);
  w.expect_equal();
}

TEST(Migrate, OntoAnExistingTree) {
  World w;
  fill(w);
  ASSERT_EQ(::mkdir(w.mirror().c_str(), 0755), 0);
  ASSERT_EQ(::mkdir((w.mirror() + "/tree").c_str(), 0755), 0);
  ASSERT_EQ(::mkdir((w.mirror() + "/tree/d").c_str(), 0700), 0);
  for (auto [name, bytes] : {std::pair<std::string, std::string>{"/tree/d/old", noise(200000, 2)}, {"/tree/only-here", "x"}}) {
    Fd fd(::open((w.mirror() + name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(write_all(fd.get(), bytes), 0);
  }
  EXPECT_EQ(w.migrate().strategy, "gap-scan");
  w.expect_equal();
}

TEST(Migrate, VerifyNamesWhatDiffers) {
  World w;
  fill(w);
  w.migrate();
  Fd fd(::open(w.seen("d/small").c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(write_all(fd.get(), "jello"), 0);
  ASSERT_EQ(::unlink(w.seen("empty").c_str()), 0);
  ASSERT_EQ(::mkdir(w.seen("zzz").c_str(), 0700), 0);
  VerifyReport r = w.verify();
  EXPECT_FALSE(r.equal);
  auto has = [&](const std::string& path, const std::string& what) {
    return std::any_of(r.differences.begin(), r.differences.end(), [&](const auto& d) { return d.path == path && d.what == what; });
  };
  EXPECT_TRUE(has("d/small", "content"));
  EXPECT_TRUE(has("empty", "only in source"));
  EXPECT_TRUE(has("zzz", "only in mirror"));
  EXPECT_FALSE(has("d/old", "content"));
}

TEST(Migrate, DryRunSendsNothing) {
  World w;
  fill(w);
  MigrateReport r = w.migrate(World::Knows::dirty, [](Source&, MigrateOptions& o) { o.dry_run = true; });
  EXPECT_EQ(r.strategy, "full");
  EXPECT_GT(r.bytes_source, 3u << 20);
  EXPECT_NE(::access(w.seen("d").c_str(), F_OK), 0);
}

TEST(Migrate, ExcludedPathsAreNeitherSentNorRemoved) {
  World w;
  fill(w);
  auto without_e = [](Source& s, MigrateOptions&) { s.excludes = {"d/e"}; };
  w.migrate(World::Knows::dirty, without_e);
  EXPECT_NE(::access(w.seen("d/e").c_str(), F_OK), 0);
  w.write("d/e/more", "x");
  w.write("d/beside", "y");
  EXPECT_EQ(w.migrate(World::Knows::dirty, without_e).strategy, "differential");
  EXPECT_NE(::access(w.seen("d/e").c_str(), F_OK), 0);
  EXPECT_EQ(::access(w.seen("d/beside").c_str(), F_OK), 0);
  // A file with a name there and another one elsewhere does travel.
  w.write("d/small", "HELLO");
  w.migrate(World::Knows::dirty, without_e);
  std::string seen(5, '\0');
  std::size_t got = 0;
  Fd fd(::open(w.seen("d/small").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(pread_all(fd.get(), seen.data(), seen.size(), 0, &got), 0);
  EXPECT_EQ(seen, "HELLO");
}

// What happens in here is not recorded.
void outside(World& w, const std::string& name, const std::string& bytes) {
  Fd fd(::open(w.path(name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  ASSERT_EQ(write_all(fd.get(), bytes), 0) << name;
}

void without_x(Source& s, MigrateOptions&) { s.excludes = {"x"}; }

TEST(Migrate, OfATreeFromOutsideThatTreeAloneIsCompared) {
  World w;
  fill(w);
  w.mkdir("many");
  for (int i = 0; i < 50; ++i) w.write("many/" + std::to_string(i), "m");
  ASSERT_EQ(::mkdir(w.path("x").c_str(), 0755), 0);
  w.migrate(World::Knows::dirty, without_x);
  ASSERT_EQ(::mkdir(w.path("x/t").c_str(), 0755), 0);
  ASSERT_EQ(::mkdir(w.path("x/t/u").c_str(), 0755), 0);
  outside(w, "x/t/one", "1");
  outside(w, "x/t/u/two", noise(100000, 3));
  outside(w, "x/file", "f");
  w.arrived("x/t", "d/t");
  w.arrived("x/file", "file");
  w.write("d/t/u/three", "recorded");
  w.write("many/7", "M");
  MigrateReport r = w.migrate(World::Knows::dirty, without_x);
  EXPECT_EQ(r.strategy, "differential");
  EXPECT_EQ(r.subtrees, 1u);
  EXPECT_EQ(r.compared, 4u);
  EXPECT_EQ(w.verify({"x"}).differences.size(), 0u);

  // Out, changed there, and back: what is the same does not travel again.
  w.write("d/t/large", noise(500000, 4));
  w.write("away", "a");
  w.migrate(World::Knows::dirty, without_x);
  w.left("d/t", "x/t");
  w.left("away", "x/away");
  outside(w, "x/t/one", "2");
  ASSERT_EQ(::unlink(w.path("x/t/u/three").c_str()), 0);
  ASSERT_EQ(::rename(w.path("x/t/u/two").c_str(), w.path("x/t/deux").c_str()), 0);
  w.arrived("x/t", "many/t");
  w.arrived("x/away", "many/away");
  w.rename("many/t/large", "large");
  r = w.migrate(World::Knows::dirty, without_x);
  EXPECT_EQ(r.strategy, "differential");
  EXPECT_EQ(r.compared, 3u);
  EXPECT_LT(r.bytes_wire, 20000u);
  EXPECT_EQ(w.verify({"x"}).differences.size(), 0u);
  EXPECT_EQ(w.migrate(World::Knows::nothing, without_x).files, 0u);
}

TEST(Migrate, ASetOverItsBoundComparesTheDirectoriesItNames) {
  World w;
  w.mkdir("still");
  for (int i = 0; i < 100; ++i) w.write("still/" + std::to_string(i), "s");
  for (const char* d : {"a", "b"}) {
    w.mkdir(d);
    for (int i = 0; i < 20; ++i) w.write(d + ("/" + std::to_string(i)), noise(100, i));
  }
  w.bounds.bytes = 16384;
  w.migrate();
  for (int i = 0; i < 100; ++i) w.write("a/new" + std::to_string(i), "n");
  for (int i = 0; i < 10; ++i) w.rename("a/" + std::to_string(i), "b/moved" + std::to_string(i));
  w.write("b/19", "changed");
  ASSERT_TRUE(w.dirty.degraded() && !w.dirty.volume_whole());
  MigrateReport r = w.migrate();
  EXPECT_EQ(r.strategy, "differential");
  EXPECT_GT(r.subtrees, 0u);
  EXPECT_LT(r.compared, 150u);
  w.expect_equal();
}

// Each round is migrated by difference, by comparison or in full, and must give the same tree.
TEST(Migrate, RandomHistoriesReachTheMirrorWhateverTheStrategy) {
  const unsigned first = std::random_device()();
  for (unsigned seed = first; seed != first + 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 r(seed);
    World w;
    for (int round = 0; round < 5; ++round) {
      random_round(w, r);
      const unsigned how = round == 0 ? 0 : r() % 4;
      MigrateReport report = w.migrate(how == 1 ? World::Knows::nothing : World::Knows::dirty, [&](Source& s, MigrateOptions& o) {
        if (how == 2) o.want = MigrateOptions::Want::full;
        if (how == 1) s.compare_content = r() % 2 == 0;
      });
      w.expect_equal("round " + std::to_string(round) + " by " + report.strategy);
      if (HasFailure()) return;
    }
  }
}

// The same with trees that come and go where nothing is recorded, and sets that fold.
TEST(Migrate, RandomHistoriesWithSubtreesReachTheMirror) {
  const unsigned first = std::random_device()();
  int differentials = 0, below = 0;
  // Ten histories, and more until enough of them were what this is about.
  for (unsigned seed = first; seed - first < 100 && (seed - first < 10 || differentials <= 15 || below <= 2); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 r(seed);
    World w;
    if (seed % 2 == 0) w.bounds.bytes = 7000 + r() % 3000;
    for (const char* d : {"x", "x/0", "x/1"}) ASSERT_EQ(::mkdir(w.path(d).c_str(), 0755), 0);
    w.mkdir("p");
    w.mkdir("q");
    w.migrate(World::Knows::dirty, without_x);
    for (int round = 0; round < 4; ++round) {
      auto inner = [&] { return std::vector<std::string>{"p", "q", "p/s", "q/t", "p/f1", "q/f2", "p/s/f3"}[r() % 7]; };
      auto outer = [&] { return "x/" + std::to_string(r() % 3); };
      for (int i = 0; i < 4; ++i) {
        random_round(w, r);
        std::string o = outer(), in = inner();
        struct stat s;
        switch (r() % 6) {
          case 0: w.left(in, o); break;
          case 1:
          case 5: w.arrived(o, in); break;
          case 2: (void)::mkdir(w.path(o).c_str(), 0755); break;
          case 3:
            if (::stat(w.path(o).c_str(), &s) == 0 && S_ISDIR(s.st_mode)) (void)::rename(w.path(outer()).c_str(), w.path(o + "/sub").c_str());
            break;
          case 4:
            if (::stat(w.path(o).c_str(), &s) == 0 && S_ISDIR(s.st_mode)) outside(w, o + "/g" + std::to_string(r() % 4), noise(r() % 100000, r()));
            break;
        }
      }
      MigrateReport report = w.migrate(World::Knows::dirty, without_x);
      differentials += report.strategy == "differential";
      below += report.subtrees != 0;
      for (const Difference& d : w.verify({"x"}).differences)
        if (d.what != "links") ADD_FAILURE() << round << " " << report.strategy << ": " << d.path << ": " << d.what;
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(differentials, 15);
  EXPECT_GT(below, 2);
}

}  // namespace
}  // namespace somfs::replicator
