// SPDX-License-Identifier: Apache-2.0
// The store is killed, restarted, damaged, and runs out of what it is given.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include "snapshot/store_impl.h"
#include "tests/unit/snapshot/store_harness.h"

namespace somfs::snapshot::test {
namespace {

std::string compare(const Volume& v, const std::string& name, const Tree& want) {
  auto got = v.view(name);
  return got ? describe_difference(want, *got) : got.error().line();
}

// Three snapshots with changes behind each; some objects have pre-images in several.
struct Three {
  Volume v;
  Tree a, b, c;
  explicit Three(std::uint64_t seed) {
    std::mt19937_64 rng(seed);
    v.open_store();
    for (int i = 0; i < 40; ++i) v.random_step(rng);
    v.create("/keep", std::string(200000, 'k'));
    v.create("/two", "links");
    v.link("/two", "/names");
    for (Tree* t : {&a, &b, &c}) {
      *t = v.live();
      v.snapshot(t == &a ? "a" : t == &b ? "b" : "c");
      for (int i = 0; i < 25; ++i) v.random_step(rng);
      v.write("/keep", t == &a ? 0 : t == &b ? 70000 : 150000, "changed");
      v.unlink(t == &a ? "/two" : "/names");
    }
    v.close_store();
  }
  // Compares those that were not removed.
  std::string others(const std::string& removed) const {
    std::string out;
    for (auto [name, tree] : {std::pair{"a", &a}, {"b", &b}, {"c", &c}})
      if (name != removed) out += compare(v, name, *tree);
    return out;
  }
};

void interrupted_removal(const std::string& which) {
  int survived = 0;
  for (int kill_at = 1; kill_at < 200; ++kill_at) {
    Three t(static_cast<std::uint64_t>(kill_at));
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      int left = kill_at * 7 - 6;
      Store::Options o;
      o.at_step = [&] {
        if (--left == 0) ::raise(SIGKILL);
      };
      t.v.open_store(o);
      (void)t.v.store->remove(which);
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    t.v.open_store();
    EXPECT_TRUE(t.v.store->dropped().empty());
    EXPECT_FALSE(t.v.store->find(which)) << "the first step frees the name";
    ASSERT_EQ(t.others(which), "") << "removal of " << which << " killed at step " << kill_at;
    std::mt19937_64 rng(1);
    for (int i = 0; i < 20; ++i) t.v.random_step(rng);
    ASSERT_EQ(t.others(which), "") << "later, removal of " << which << " killed at step " << kill_at;
    if (WIFEXITED(status) && ++survived == 1) return;
  }
  FAIL() << "no removal came to its end";
}

TEST(StoreCrash, RemovalOfTheMiddleOneInterrupted) { interrupted_removal("b"); }
TEST(StoreCrash, RemovalOfTheNewestInterrupted) { interrupted_removal("c"); }
TEST(StoreCrash, RemovalOfTheOldestInterrupted) { interrupted_removal("a"); }

TEST(StoreCrash, KilledWhileWriting) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    Volume v;
    std::mt19937_64 rng(seed);
    v.open_store();
    for (int i = 0; i < 40; ++i) v.random_step(rng);
    Tree before = v.live();
    v.snapshot("s", 7);
    v.close_store();
    int pipe_fd[2];
    ASSERT_EQ(::pipe2(pipe_fd, O_CLOEXEC), 0);
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(pipe_fd[0]);
      v.open_store();
      for (int i = 0; i < 100000; ++i) {
        v.random_step(rng);
        if (::write(pipe_fd[1], "x", 1) != 1) break;
      }
      ::_exit(0);
    }
    ::close(pipe_fd[1]);
    char byte;
    for (std::uint64_t i = 0; i < 20 * seed; ++i) ASSERT_EQ(::read(pipe_fd[0], &byte, 1), 1);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(pipe_fd[0]);
    ASSERT_EQ(compare(v, "s", before), "") << "nobody mounted, seed " << seed;
    v.open_store();
    ASSERT_TRUE(v.store->find("s"));
    EXPECT_EQ(v.store->find("s")->epoch, 7u);
    for (int i = 0; i < 20; ++i) v.random_step(rng);
    ASSERT_EQ(compare(v, "s", before), "") << "seed " << seed;
  }
}

std::string only_log(const Volume& v) {
  for (const std::string& n : names_in(v.dir.get()))
    if (auto e = parse_dir_name(n); e && e->state == StoreEntry::State::live) return n + "/log";
  return {};
}

TEST(StoreCrash, TornTailIsCutOffAndDamageIsFound) {
  Volume v;
  v.open_store();
  v.create("/f", "old");
  v.create("/g", "old");
  Tree before = v.live();
  v.snapshot("s");
  v.write("/f", 0, "new");
  v.close_store();
  Fd log(::openat(v.dir.get(), only_log(v).c_str(), O_RDWR | O_CLOEXEC));
  off_t end = ::lseek(log.get(), 0, SEEK_END);
  std::string half = encode(NameRecord{{1, 2}, "half", {}, Kind::none, {}});
  half.resize(half.size() - 3);
  ASSERT_EQ(pwrite_all(log.get(), half, static_cast<std::uint64_t>(end)), 0);
  v.open_store();
  EXPECT_EQ(::lseek(log.get(), 0, SEEK_END), end);
  v.write("/g", 0, "new");
  EXPECT_EQ(compare(v, "s", before), "");
  v.close_store();
  ASSERT_EQ(pwrite_all(log.get(), "\xff", 12), 0);
  v.open_store();
  EXPECT_TRUE(v.store->list().empty());
  ASSERT_EQ(v.store->dropped().size(), 1u);
  EXPECT_NE(v.store->dropped()[0].reason.find("corrupt"), std::string::npos) << v.store->dropped()[0].reason;
  EXPECT_EQ(v.store->own_links(v.live().at("/f").id), 0u);
}

TEST(StoreCrash, RestartOfTheMachine) {
  Uuid first = Uuid::random(), second = Uuid::random();
  Volume v;
  v.open_store({}, first);
  v.create("/f", "old");
  Tree before = v.live();
  v.snapshot("s");
  v.unlink("/f");
  v.close_store();
  v.open_store({}, second);  // closed cleanly: everything was synced
  EXPECT_EQ(compare(v, "s", before), "");
  v.close_store();
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    v.open_store({}, second);
    ::raise(SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  std::vector<std::string> told;
  Store::Options o;
  o.on_drop = [&](const DroppedSnapshot& d) { told.push_back(d.reason); };
  v.open_store(o, first);
  EXPECT_TRUE(v.store->list().empty());
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0], "the machine restarted; pre-images were not synced");
  v.close_store();
  v.open_store();
  ASSERT_EQ(v.store->dropped().size(), 1u);  // kept across restarts
  EXPECT_EQ(v.store->dropped()[0].name, "s");
}

TEST(StoreCrash, IndexBoundDropsAndTheViewSaysWhy) {
  Volume v;
  Store::Options o;
  o.index_bytes = 20000;
  v.open_store(o);
  v.create("/f", "old");
  v.snapshot("s");
  auto view = View::open(v.root.get(), v.dir.get(), "s");
  ASSERT_TRUE(view);
  for (int i = 0; i < 1000; ++i) v.create(fmt::format("/n{}", i));
  EXPECT_FALSE(v.store->wanted());
  auto root = (*view)->root();
  ASSERT_FALSE(root);
  EXPECT_EQ(root.error().exit, Exit::no_space);
  EXPECT_NE(root.error().line().find("bound of 19 KiB (index_memory)"), std::string::npos) << root.error().line();
  EXPECT_EQ(v.live().size(), 1002u);
}

TEST(StoreCrash, ReserveDropsTheOldestFirst) {
  Volume v;
  Store::Options o;
  std::vector<std::string> told;
  o.on_drop = [&](const DroppedSnapshot& d) { told.push_back(d.name); };
  o.reserve_bytes = ~0ull >> 1;
  v.open_store(o);
  v.snapshot("a");
  v.snapshot("b");
  v.store->keep_reserve();
  EXPECT_EQ(told, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(v.store->list().empty());
}

TEST(StoreCrash, SecondStoreIsRefused) {
  Volume v;
  v.open_store();
  auto second = Store::open(v.dir.get(), v.root.get(), boot_id(), v.clock, {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().exit, Exit::locked);
}

// A directory that cannot be read is an error, never an empty one: a migration would remove what is in it.
TEST(View, AListingWithoutDescriptorsFails) {
  Volume v;
  v.open_store();
  v.create("/f", "x");
  v.snapshot("s");
  auto view = View::open(v.root.get(), v.dir.get(), "s");
  ASSERT_TRUE(view);
  auto top = (*view)->root();
  ASSERT_TRUE(top);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit few = before;
  few.rlim_cur = 0;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
  auto listed = (*view)->list(*top);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(listed);
  EXPECT_EQ(listed.error().sys, EMFILE);
  EXPECT_EQ((*view)->list(*top)->size(), 1u);
}

TEST(Store, NamesExpiryAndCancel) {
  Volume v;
  v.open_store();
  for (const char* bad : {"", ".x", "a/b", "a b", "\xc3\xa4"}) EXPECT_FALSE(v.store->prepare({.name = bad})) << bad;
  ASSERT_TRUE(v.store->prepare({.name = "x"}));
  EXPECT_FALSE(v.store->prepare({.name = "x"}));
  v.store->cancel("x");
  EXPECT_FALSE(v.store->take("x", 1));
  EXPECT_FALSE(v.store->wanted());
  // A cut that turned out not to hold, after it was taken: an older snapshot keeps what was preserved for the failed one.
  v.create("/f", "old");
  v.snapshot("base");
  const Tree base = v.live();
  ASSERT_TRUE(v.store->prepare({.name = "x"}));
  ASSERT_TRUE(v.store->take("x", 2));
  v.write("/f", 0, "new");
  v.store->cancel("x");
  EXPECT_FALSE(v.store->find("x"));
  EXPECT_EQ(describe_difference(base, v.view("base").value()), "");
  ASSERT_TRUE(v.store->remove("base"));
  ASSERT_TRUE(v.store->prepare({.name = "x", .for_migration = true, .expires_ns = 5, .consistency = "crash"}));
  ASSERT_TRUE(v.store->take("x", 3));
  v.snapshot("y");
  EXPECT_EQ(v.store->find("x")->consistency, "crash");
  EXPECT_FALSE(v.store->prepare({.name = "x"}));
  v.store->expire();
  ASSERT_EQ(v.store->list().size(), 1u);
  EXPECT_EQ(v.store->list()[0].name, "y");
  auto missing = v.store->remove("x");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().exit, Exit::usage);
  v.store->drop_all("the tree was changed while it was not mounted");
  EXPECT_EQ(v.store->dropped()[0].reason, "the tree was changed while it was not mounted");
}

TEST(Store, ObjectsBornAfterTheCutAreNotKept) {
  Volume v;
  v.open_store();
  v.snapshot("s");
  v.create("/temporary", "x");
  ObjectId id = v.live().at("/temporary").id;
  v.rename("/temporary", "/elsewhere");
  v.link("/elsewhere", "/again");
  v.unlink("/elsewhere");
  v.unlink("/again");
  EXPECT_EQ(v.store->own_links(id), 0u);
}

TEST(Store, OpenByIdKnowsWhatHadAName) {
  Volume v;
  v.open_store();
  v.create("/f", "content");
  v.mkdir("/d");
  v.create("/gone", "x");
  Handle gone_handle = handle_of(Fd(::openat(v.root.get(), "gone", O_PATH)).get());
  ObjectId gone = v.live().at("/gone").id, file = v.live().at("/f").id, dir = v.live().at("/d").id;
  Handle file_handle = handle_of(Fd(::openat(v.root.get(), "f", O_PATH)).get());
  Handle dir_handle = handle_of(Fd(::openat(v.root.get(), "d", O_PATH)).get());
  v.snapshot("older");
  v.unlink("/gone");
  v.snapshot("s");
  v.unlink("/f");
  v.unlink("/d", true);
  auto view = View::open(v.root.get(), v.dir.get(), "s").value();
  if (!view->has_handles()) GTEST_SKIP() << "no handles here";
  auto f = view->open({file, file_handle, Kind::file}).value();
  ASSERT_TRUE(f);
  char text[7];
  EXPECT_EQ(f->read(text, 7, 0).value(), 7u);
  EXPECT_EQ(std::string(text, 7), "content");
  EXPECT_EQ(f->attr().nlink, 1u);
  EXPECT_TRUE(view->open({dir, dir_handle, Kind::dir}).value());
  EXPECT_FALSE(view->open({gone, gone_handle, Kind::file}).value()) << "only the older snapshot holds it";
}

TEST(Store, OpenByIdFindsWhatAFailedRemovalLeftItsName) {
  Volume v;
  v.open_store();
  v.create("/f", "content");
  v.mkdir("/d");
  const ObjectId file = v.live().at("/f").id;
  const Handle handle = handle_of(Fd(::openat(v.root.get(), "f", O_PATH)).get());
  v.snapshot("older");
  v.rename("/d", "/f");   // kept, as it is about to lose its name; but no directory takes a file's place
  ASSERT_TRUE(v.live().contains("/f"));
  ASSERT_EQ(v.store->own_links(file), 1u);
  v.snapshot("s");
  auto view = View::open(v.root.get(), v.dir.get(), "s").value();
  if (!view->has_handles()) GTEST_SKIP() << "no handles here";
  for (int changed = 0; changed < 2; ++changed) {
    auto f = view->open({file, handle, Kind::file}).value();
    ASSERT_TRUE(f) << changed;
    EXPECT_EQ(f->attr().nlink, 1u);
    EXPECT_EQ(f->attr().size, 7u);
    v.write("/f", 7, " more");
  }
}

// A cut that did not hold: the snapshot was taken already and has to go again, and its name is free.
TEST(StoreCancel, RemovesWhatWasTaken) {
  Volume v;
  v.open_store();
  v.create("/f", "one");
  v.snapshot("older");
  const Tree before = v.live();
  ASSERT_TRUE(v.store->prepare({.name = "s"}));
  ASSERT_TRUE(v.store->take("s", 7));
  v.write("/f", 0, "two");
  v.store->cancel("s");
  EXPECT_FALSE(v.store->find("s"));
  EXPECT_EQ(compare(v, "older", before), "");
  ASSERT_TRUE(v.store->prepare({.name = "s"}));
  ASSERT_TRUE(v.store->take("s", 8));
  v.store->set_consistency("s", "application");
  v.close_store();
  v.open_store();
  ASSERT_TRUE(v.store->find("s"));
  EXPECT_EQ(v.store->find("s")->consistency, "application");
}

}  // namespace
}  // namespace somfs::snapshot::test
