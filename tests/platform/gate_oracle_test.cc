// SPDX-License-Identifier: Apache-2.0
// Ordered writers at full speed on a real mount while snapshots are cut. A cut that does not close the gate must be caught by the
// oracle; only then does it say something that no cut behind the closed gate is.
#include <sys/wait.h>

#include <csignal>

#include "common/clock.h"
#include "fs/cow.h"
#include "fs/gate.h"
#include "snapshot/journal.h"
#include "tests/platform/fs_fixture.h"
#include "tests/tools/oracle.h"
#include "tests/unit/snapshot/store_harness.h"

namespace somfs::fs::test {
namespace {

// A store that takes its time over names, as on a busy disk: what an operation keeps of the past it keeps in several steps, and the
// moment between two of them is a common one. Nothing of that may be seen behind a closed gate.
class Unhurried final : public PreImages {
 public:
  explicit Unhurried(PreImages& store) : store_(store) {}
  bool wanted() const noexcept override { return store_.wanted(); }
  void before_data(const ObjectId& object, int fd, Extent extent) noexcept override { store_.before_data(object, fd, extent); }
  void before_attr(const ObjectId& object, int fd) noexcept override { store_.before_attr(object, fd); }
  void before_name(const ObjectId& parent, int parent_fd, std::string_view name, const ObjectId& child, const Handle* child_handle,
                   int child_fd, bool last) noexcept override {
    store_.before_name(parent, parent_fd, name, child, child_handle, child_fd, last);
    ::usleep(3000);
  }
  bool make_room() noexcept override { return store_.make_room(); }
  std::uint32_t own_links(const ObjectId& object) const noexcept override { return store_.own_links(object); }

 private:
  PreImages& store_;
};

// The writers, in a process that is made before this one has threads.
class Writers {
 public:
  Writers(std::string dir, std::uint64_t seed) : dir_(std::move(dir)) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
    Fd wait(ends[0]);
    go_.reset(ends[1]);
    pid_ = ::fork();
    if (pid_ != 0) return;
    go_.reset();
    char c;
    if (::read(wait.get(), &c, 1) != 1) ::_exit(0);
    tools::OracleRun run;
    run.dir = dir_;
    run.seed = seed;
    run.seconds = 3600;
    auto done = tools::oracle_write(run);
    if (!done) std::fprintf(stderr, "%s\n", done.error().line().c_str());
    ::_exit(done ? 0 : 1);
  }
  ~Writers() { stop(); }
  Writers(const Writers&) = delete;
  // True once they write.
  bool start() {
    if (::write(go_.get(), "g", 1) != 1) return false;
    for (int i = 0; i < 5000; ++i) {
      if (::access((dir_ + "/oracle").c_str(), F_OK) == 0) return true;
      ::usleep(20000);
    }
    return false;
  }
  // Whether they were still at it. Theirs end with their parent.
  bool stop() {
    if (pid_ <= 0) return false;
    ::kill(pid_, SIGKILL);
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFSIGNALED(status);
  }

 private:
  const std::string dir_;
  Fd go_;
  pid_t pid_ = -1;
};

void write_tree(const snapshot::test::Tree& tree, const std::string& beneath, const std::string& to) {
  for (const auto& [path, seen] : tree) {   // a directory comes before what is in it
    if (!path.starts_with(beneath)) continue;
    const std::string p = to + path.substr(beneath.size());
    if (seen.attr.kind == Kind::dir) {
      ASSERT_TRUE(::mkdir(p.c_str(), 0700) == 0 || errno == EEXIST) << p << ": " << std::strerror(errno);
    } else {
      spill(p, seen.content);
    }
  }
}

struct Cuts {
  int made = 0;
  int violations = 0;
  std::string first;              // what was seen
  std::uint64_t number = 0;       // of the last mutation that a cut showed
};

void judge(const Result<snapshot::test::Tree>& seen, Cuts& cuts) {
  if (!seen) {   // names that are there and are not, say
    cuts.first = seen.error().line();
    ++cuts.violations;
    return;
  }
  Scratch copy;
  write_tree(*seen, "/o", copy.path);
  auto verdict = tools::oracle_check(copy.path);
  ASSERT_TRUE(verdict) << verdict.error().line();
  if (!verdict->one_instant) {
    cuts.first = verdict->violation;
  } else if (verdict->number < cuts.number) {
    cuts.first = "after mutation " + std::to_string(cuts.number) + " a cut shows no more than " + std::to_string(verdict->number);
  }
  cuts.violations += cuts.first.empty() ? 0 : 1;
  cuts.number = verdict->number;
}

// Cuts until `most` were made, one was caught, or the time is over. The gate is the mount's own in either case, and is closed or not.
void cut(bool closed, int most, int seconds, Cuts& cuts) {
  snapshot::test::Volume v;
  const std::string top = v.base + "/v";
  ASSERT_EQ(::mkdir((top + "/o").c_str(), 0755), 0);
  Writers writers(top + "/o", 7);
  v.open_store();
  ASSERT_EQ(::mkdir((top + "/.somfs/journal").c_str(), 0700), 0);
  Fd journal_dir(::open((top + "/.somfs/journal").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto journal = snapshot::Journal::open(journal_dir.get(), "test", v.clock, {});
  ASSERT_TRUE(journal) << journal.error().line();
  BackingOptions b;
  b.dir = top;
  auto backing = Backing::open(b);
  ASSERT_TRUE(backing) << backing.error().line();
  Gate gate(v.clock);
  Unhurried store(*v.store);
  Cow cow(store);
  Capture capture(**journal);
  auto mount = Mount::open(*backing, {}, Chain(&gate, {&cow, &capture}), &store, journal->get(), nullptr);
  ASSERT_TRUE(mount) << mount.error().line();
  std::jthread server([&] { EXPECT_TRUE((*mount)->run()); });

  EXPECT_TRUE(writers.start()) << "the writers do not begin";
  const std::int64_t end = v.clock.mono_ns() + seconds * 1'000'000'000ll;
  while (!::testing::Test::HasFailure() && cuts.made < most && cuts.violations == 0 && v.clock.mono_ns() < end) {
    ::usleep(static_cast<useconds_t>(5000 + cuts.made % 7 * 3000));
    const std::string name = "s" + std::to_string(cuts.made);
    EXPECT_TRUE(v.store->prepare({.name = name}));
    if (closed) {
      EXPECT_TRUE(gate.freeze(20000, 60000));
    }
    (*journal)->rotate();
    EXPECT_TRUE(v.store->take(name, static_cast<std::uint64_t>(cuts.made) + 1));
    if (closed) {
      EXPECT_TRUE(gate.thaw());
    }
    auto seen = v.view(name);
    ++cuts.made;
    judge(seen, cuts);
    // The one before stays until now: what the writers change is kept for a snapshot at each moment, that of the cut too.
    if (cuts.made > 1) {
      EXPECT_TRUE(v.store->remove("s" + std::to_string(cuts.made - 2)));
    }
  }
  EXPECT_TRUE(writers.stop()) << "the writers had ended";
  EXPECT_TRUE(v.store->dropped().empty());
  (*mount)->stop();
  server.join();
  gate.settle();
  mount->reset();
  EXPECT_TRUE((*journal)->close());
}

TEST(GateOracle, CatchesAGateThatIsNotClosed) {
  SOMFS_NEEDS_MOUNTS();
  Cuts cuts;
  cut(false, 1000, 1000, cuts);   // about one of twenty is caught, and on a busy machine a cut takes seconds
  EXPECT_EQ(cuts.violations, 1) << "none of " << cuts.made << " cuts without a gate was caught";
  std::printf("caught at cut %d, mutation %llu: %s\n", cuts.made, static_cast<unsigned long long>(cuts.number), cuts.first.c_str());
}

TEST(GateOracle, EveryCutBehindTheGateIsOneInstant) {
  SOMFS_NEEDS_MOUNTS();
  Cuts cuts;
  cut(true, 40, 60, cuts);
  EXPECT_EQ(cuts.violations, 0) << cuts.first;
  EXPECT_GE(cuts.made, 5);
  EXPECT_GT(cuts.number, 100u) << "hardly anything was written";
  std::printf("%d cuts, the last shows mutation %llu\n", cuts.made, static_cast<unsigned long long>(cuts.number));
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int failed = RUN_ALL_TESTS();
  return failed != 0 ? failed : somfs::fs::test::skipped() ? 77 : 0;
}
