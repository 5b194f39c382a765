// SPDX-License-Identifier: Apache-2.0
// Threads do everything that changes a tree, on a real mount, in directories they share, while snapshots are taken, read and
// removed. At each cut, behind the closed gate, the tree beneath is read: the view must equal that, at once and after more changes.
// No mappings: this process serves the mount itself, and a fault would wait for it with the address space locked.
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/xattr.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <random>

#include <fmt/format.h>

#include "common/clock.h"
#include "fs/cow.h"
#include "fs/gate.h"
#include "snapshot/journal.h"
#include "tests/platform/fs_fixture.h"
#include "tests/unit/snapshot/store_harness.h"

namespace somfs::fs::test {
namespace {

using snapshot::test::describe_difference;
using snapshot::test::Tree;

class Churn {
 public:
  Churn(std::string root, std::uint64_t seed) : root_(std::move(root)), rng_(seed) {}

  // One random operation; most fail now and then, as they meet the others'.
  void step() {
    const std::string a = place(), b = place();
    switch (rng_() % 21) {
      case 0: put(a, O_CREAT | O_TRUNC, rng_() % 200000, 0); break;
      case 1: case 2: put(a, O_CREAT, 1 + rng_() % 70000, rng_() % 300000); break;
      case 3: put(a, O_CREAT | O_APPEND, 1 + rng_() % 5000, 0); break;
      case 4: (void)::truncate(a.c_str(), static_cast<off_t>(rng_() % 300000)); break;
      case 5: allocate(a); break;
      case 6: copy(a, rng_() % 2 == 0 ? a : b); break;
      case 7: case 8: rename(a, b, 0); break;
      case 9: rename(a, b, RENAME_EXCHANGE); break;
      case 10: rename(a, b, RENAME_NOREPLACE); break;
      case 11: rename(directory(), directory() + "/m" + std::to_string(rng_() % 3), 0); break;
      case 12: (void)::link(a.c_str(), b.c_str()); break;
      case 13: case 14: (void)::unlink(a.c_str()); break;
      case 15: (void)::rmdir(a.c_str()); break;
      case 16: (void)::mkdir(a.c_str(), 0700 + rng_() % 0100); break;
      case 17: (void)::symlink(b.c_str(), a.c_str()); break;
      case 18: attributes(rng_() % 3 == 0 ? directory() : a); break;
      case 19: unnamed(a); break;
      case 20: (void)::mknod(a.c_str(), S_IFIFO | 0600, 0); break;
    }
  }

 private:
  std::string directory() { return root_ + "/d" + std::to_string(rng_() % 4); }
  std::string place() {
    std::string p = directory();
    if (rng_() % 3 == 0) p += "/m" + std::to_string(rng_() % 3);
    return p + "/n" + std::to_string(rng_() % 8);
  }
  Fd open(const std::string& p, int flags) { return Fd(::open(p.c_str(), O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW | flags, 0640)); }
  void put(const std::string& p, int flags, std::size_t n, std::size_t off) {
    Fd fd = open(p, O_WRONLY | flags);
    std::string bytes(n, static_cast<char>('a' + rng_() % 26));
    if (fd) (void)!::pwrite(fd.get(), bytes.data(), n, static_cast<off_t>(off));
    if (fd && rng_() % 8 == 0) (void)::fsync(fd.get());
  }
  void allocate(const std::string& p) {
    Fd fd = open(p, O_RDWR);
    const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE, FALLOC_FL_COLLAPSE_RANGE,
                         FALLOC_FL_INSERT_RANGE};
    const auto off = static_cast<off_t>(rng_() % 40 * 4096), n = static_cast<off_t>((1 + rng_() % 20) * 4096);
    if (fd) (void)::fallocate(fd.get(), modes[rng_() % 6], off, n);
  }
  void copy(const std::string& from, const std::string& to) {
    Fd in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT);
    auto off_in = static_cast<off64_t>(rng_() % 100000), off_out = static_cast<off64_t>(rng_() % 200000);
    if (in && out) (void)!::copy_file_range(in.get(), &off_in, out.get(), &off_out, 1 + rng_() % 80000, 0);
  }
  void rename(const std::string& from, const std::string& to, unsigned flags) {
    (void)::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags);
  }
  void attributes(const std::string& p) {
    switch (rng_() % 5) {
      case 0: (void)::chmod(p.c_str(), static_cast<mode_t>(0700 | rng_() % 0100)); break;
      case 1: (void)!::lchown(p.c_str(), static_cast<uid_t>(rng_() % 5), static_cast<gid_t>(rng_() % 5)); break;
      case 2: {
        const timespec times[2] = {{1, 0}, {static_cast<time_t>(rng_() % 100000), 5}};
        (void)::utimensat(AT_FDCWD, p.c_str(), times, AT_SYMLINK_NOFOLLOW);
        break;
      }
      case 3: (void)::lsetxattr(p.c_str(), "user.x", &rng_, 1 + rng_() % 60, 0); break;
      case 4: (void)::lremovexattr(p.c_str(), "user.x"); break;
    }
  }
  void unnamed(const std::string& p) {
    Fd fd(::open(directory().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!fd) return;
    (void)!::write(fd.get(), "unnamed", 7);
    (void)::linkat(AT_FDCWD, proc_path(fd.get()).c_str(), AT_FDCWD, p.c_str(), AT_SYMLINK_FOLLOW);
    (void)!::write(fd.get(), "named", 5);
  }
  const std::string root_;
  std::mt19937_64 rng_;
};

TEST(SnapshotRace, ViewsEqualTheirCut) {
  if (const char* why = cannot_run()) {
    std::printf("skipped: %s\n", why);
    skipped() = true;
    GTEST_SKIP();
  }
  const char* rounds_text = std::getenv("SOMFS_RACE_ROUNDS");
  const int rounds = rounds_text != nullptr ? std::atoi(rounds_text) : 12;
  const char* seed_text = std::getenv("SOMFS_RACE_SEED");
  const std::uint64_t seed = seed_text != nullptr ? std::strtoull(seed_text, nullptr, 10) : 1;
  snapshot::test::Volume v;
  v.open_store();
  const std::string top = v.base + "/v";
  ASSERT_EQ(::mkdir((top + "/.somfs/journal").c_str(), 0700), 0);
  Fd journal_dir(::open((top + "/.somfs/journal").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto journal = snapshot::Journal::open(journal_dir.get(), "test", v.clock, {});
  ASSERT_TRUE(journal) << journal.error().line();
  for (int i = 0; i < 4; ++i) v.mkdir("/d" + std::to_string(i));

  BackingOptions b;
  b.dir = top;
  auto backing = Backing::open(b);
  ASSERT_TRUE(backing) << backing.error().line();
  Gate gate(v.clock);
  Cow cow(*v.store);
  Capture capture(**journal);
  auto mount = Mount::open(*backing, {}, Chain(&gate, {&cow, &capture}), v.store.get(), journal->get(), nullptr);
  ASSERT_TRUE(mount) << mount.error().line();
  std::jthread server([&] { EXPECT_TRUE((*mount)->run()); });

  struct Taken {
    std::string name;
    Tree truth;
  };
  auto compare = [&](const Taken& t, const char* when) {
    auto seen = v.view(t.name);
    ASSERT_TRUE(seen) << t.name << " " << when << ": " << seen.error().line();
    EXPECT_EQ(describe_difference(t.truth, *seen), "") << t.name << " " << when;
  };
  {
    std::atomic<bool> stop = false;
    std::vector<std::jthread> threads;
    for (std::uint64_t i = 0; i < 5; ++i)
      threads.emplace_back([&, i] {
        Churn churn(top, seed * 100 + i);
        while (!stop.load()) churn.step();
      });
    std::deque<Taken> kept;
    std::mt19937_64 rng(seed);
    for (int r = 0; r < rounds && !HasFailure(); ++r) {
      std::this_thread::sleep_for(std::chrono::milliseconds(rng() % 150));
      Taken t{"s" + std::to_string(r), {}};
      EXPECT_TRUE(v.store->prepare({.name = t.name}));
      if (!gate.freeze(20000, 60000)) {
        ADD_FAILURE() << "cannot freeze";
        break;
      }
      (*journal)->rotate();
      EXPECT_TRUE(v.store->take(t.name, static_cast<std::uint64_t>(r) + 1));
      t.truth = v.live();
      EXPECT_TRUE(gate.thaw());
      compare(t, "at once");
      kept.push_back(std::move(t));
      for (const Taken& k : kept) compare(k, "later");
      if (kept.size() > 3) {
        const std::size_t out = rng() % kept.size();
        EXPECT_TRUE(v.store->remove(kept[out].name));
        kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(out));
      }
    }
    stop = true;
    threads.clear();
    for (const Taken& k : kept) compare(k, "at the end");
    while (!kept.empty()) {
      EXPECT_TRUE(v.store->remove(kept.back().name));
      kept.pop_back();
      if (!kept.empty()) compare(kept.front(), "after removals");
    }
  }
  EXPECT_TRUE(v.store->dropped().empty()) << v.store->dropped().front().reason;
  (*mount)->stop();
  server.join();
  gate.settle();
  mount->reset();
  EXPECT_TRUE((*journal)->close());
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int failed = RUN_ALL_TESTS();
  return failed != 0 ? failed : somfs::fs::test::skipped() ? 77 : 0;
}
