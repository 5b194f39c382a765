// SPDX-License-Identifier: Apache-2.0
// Kills the mirror before its N-th system call, or makes that call fail, for every N of small epochs: opened again it holds the old
// or the new epoch, and the epoch run once more gives the new one. Counting is by ptrace, from begin to the end of commit.
#include <gtest/gtest.h>

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "replicator/mirror.h"
#include "tests/unit/replicator/mirror_model.h"
#include "tests/unit/replicator/state_roots.h"

namespace somfs::replicator {
namespace {

using model::begin;
using model::compare;
using model::plan;
using model::Scratch;
using model::State;
using test::root_of;

State empty() {
  State s;
  s.nodes.clear();
  return s;
}

enum class Harm { kill, enospc, eio };

// Runs the epoch in a child and harms its N-th system call. Whether there was an N-th one.
bool run_harmed(const std::string& dir, const std::string& records, std::uint64_t epoch, unsigned nth, Harm harm) {
  pid_t child = ::fork();
  if (child == 0) {
    auto m = Mirror::open(dir, Mirror::Mode::existing);
    if (!m || !(*m)->greet(model::hello())) ::_exit(3);
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(4);
    ::raise(SIGSTOP);
    bool ok = (*m)->begin(begin(epoch - 1, epoch)) && (*m)->receive(records) && (*m)->commit();
    ::_exit(ok ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) {
    ADD_FAILURE() << "the child did not get to its epoch: " << status;
    return false;
  }
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  bool entering = false, harmed = false, fail_exit = false;
  unsigned count = 0;
  for (;;) {
    ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
    if (::waitpid(child, &status, 0) < 0 || WIFEXITED(status) || WIFSIGNALED(status)) break;
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
    entering = !entering;
    struct user_regs_struct regs;
    if (!entering) {
      if (fail_exit) {
        ::ptrace(PTRACE_GETREGS, child, nullptr, &regs);
        regs.rax = static_cast<unsigned long long>(harm == Harm::enospc ? -ENOSPC : -EIO);
        ::ptrace(PTRACE_SETREGS, child, nullptr, &regs);
        fail_exit = false;
      }
      continue;
    }
    if (++count != nth) continue;
    harmed = true;
    if (harm == Harm::kill) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      break;
    }
    ::ptrace(PTRACE_GETREGS, child, nullptr, &regs);
    // Memory, clocks and exits cannot run out of disk.
    switch (regs.orig_rax) {
      case SYS_brk: case SYS_mmap: case SYS_munmap: case SYS_mprotect: case SYS_futex: case SYS_exit_group: case SYS_madvise:
      case SYS_close: case SYS_getpid: case SYS_clock_gettime: case SYS_geteuid:
        break;
      default:
        regs.orig_rax = ~0ull;
        ::ptrace(PTRACE_SETREGS, child, nullptr, &regs);
        fail_exit = true;
    }
  }
  return harmed;
}

struct History {
  const char* name;
  std::function<void(State&)> change;
};

State start() {
  State s;
  ObjectId d = s.add(s.root, "d", Kind::dir);
  s.add(d, "in", Kind::file, "inner");
  s.add(s.root, "e", Kind::dir);
  ObjectId a = s.add(s.root, "a", Kind::file, "alpha");
  s.add(s.root, "b", Kind::file, "beta");
  s.nodes[s.root].children["hard"] = a;
  s.sweep();
  return s;
}

const std::vector<History>& histories() {
  static const std::vector<History> all = {
      {"create", [](State& s) { s.add(s.root, "new", Kind::file, "fresh"); }},
      {"write", [](State& s) { s.nodes[s.at("b")].data = "longer than it was"; }},
      {"truncate", [](State& s) { s.nodes[s.at("b")].data = "b"; }},
      {"rename file", [](State& s) { s.move(s.root, "b", s.root, "c"); }},
      {"rename over", [](State& s) { s.move(s.root, "a", s.root, "b"); }},
      {"rename directory", [](State& s) { s.move(s.root, "d", s.root, "dd"); }},
      {"link", [](State& s) { s.nodes[s.root].children["b2"] = s.at("b"); }},
      {"unlink", [](State& s) { s.unlink(s.root, "b"); }},
      {"unlink one of two", [](State& s) { s.unlink(s.root, "hard"); }},
      {"mkdir", [](State& s) { s.add(s.add(s.root, "n", Kind::dir), "f", Kind::file, "x"); }},
      {"rmdir", [](State& s) { s.unlink(s.root, "e"); }},
      {"remove tree", [](State& s) { s.unlink(s.root, "d"); }},
      {"symlink", [](State& s) { s.add(s.root, "l", Kind::symlink, "a"); }},
      {"chmod", [](State& s) { s.nodes[s.at("b")].attr.mode = 0600; }},
      {"xattr", [](State& s) { s.nodes[s.at("b")].xattrs = {{"user.x", "1"}}; }},
      {"swap", [](State& s) { std::swap(s.nodes[s.root].children["a"], s.nodes[s.root].children["b"]); }},
      {"swap directories", [](State& s) { std::swap(s.nodes[s.root].children["d"], s.nodes[s.root].children["e"]); }},
      {"rename away and create", [](State& s) {
         s.move(s.root, "b", s.root, "c");
         s.add(s.root, "b", Kind::file, "another");
       }},
      {"into a new directory", [](State& s) { s.move(s.root, "d", s.add(s.root, "n", Kind::dir), "d"); }},
      {"out of a removed directory", [](State& s) {
         s.move(s.at("d"), "in", s.root, "in");
         s.unlink(s.root, "d");
       }},
      {"hard link moves", [](State& s) {
         s.unlink(s.root, "hard");
         s.nodes[s.at("d")].children["hard"] = s.at("a");
       }},
      {"directory by file", [](State& s) {
         s.unlink(s.root, "d");
         s.add(s.root, "d", Kind::file, "now a file");
       }},
      {"file by directory", [](State& s) {
         s.unlink(s.root, "b");
         s.add(s.root, "b", Kind::dir);
       }},
      {"turned inside out", [](State& s) {   // d/in → in/d: parent and child change places
         ObjectId d = s.at("d");
         ObjectId x = s.add(d, "x", Kind::dir);
         (void)x;
         s.move(d, "x", s.root, "x");
         s.move(s.root, "d", s.at("x"), "d");
       }},
  };
  return all;
}

// `stride` 1: every call.
void campaign(const History& history, Harm harm, unsigned stride, bool rewritten) {
  State old = start(), next = old;
  next.sweep();
  history.change(next);
  next.sweep();
  std::string first = plan(empty(), old), records;
  for (unsigned tries = 0; tries < 20; ++tries) {
    std::mt19937 random(tries);
    records = plan(old, next, rewritten ? &random : nullptr);
    RecordReader r(records);
    Record one;
    bool has = false;
    while (r.next(&one)) has = has || (one.type == RecordType::object && (one.object.flags & kRewritten) != 0);
    if (has || !rewritten) break;
  }
  const std::string old_root = root_of(old), new_root = root_of(next);
  unsigned olds = 0, news = 0, n = 1;
  for (;; n += stride) {
    Scratch dir("/dev/shm");
    {
      auto m = Mirror::open(dir.path, Mirror::Mode::create);
      ASSERT_TRUE(m && model::run(**m, begin(0, 1), first));
    }
    if (!run_harmed(dir.path, records, 2, n, harm)) break;
    auto m = Mirror::open(dir.path, Mirror::Mode::existing);
    ASSERT_TRUE(m) << history.name << " call " << n << ": " << m.error().line();
    bool landed = (*m)->committed_epoch() == 2;
    ASSERT_EQ(compare(dir.path, landed ? next : old), "") << history.name << " call " << n << (landed ? " (new)" : " (old)");
    ASSERT_EQ((*m)->applied_epoch(), (*m)->committed_epoch());
    ASSERT_EQ(root_of(**m), landed ? new_root : old_root) << history.name << " call " << n;
    ++(landed ? news : olds);
    if (landed) continue;
    auto again = model::run(**m, begin(1, 2), records);
    ASSERT_TRUE(again) << history.name << " call " << n << ": " << again.error().line();
    ASSERT_EQ(compare(dir.path, next), "") << history.name << " again after call " << n;
  }
  EXPECT_GT(n, 20u) << history.name;
  EXPECT_GT(olds, 0u) << history.name;
  if (stride == 1) {
    EXPECT_GT(news, 0u) << history.name;
  }
}

bool can_run() { return ::geteuid() == 0; }
unsigned stride() { return std::getenv("SOMFS_SOAK") != nullptr ? 1 : 5; }

TEST(MirrorCrash, KilledAtEverySystemCallItIsOldOrNew) {
  if (!can_run()) GTEST_SKIP() << "needs root";
  for (const History& h : histories()) campaign(h, Harm::kill, 1, false);
}

// Random operations, a cut after each few with the root of its state; the mirror dies before a random system call of many an epoch. Opened
// alone it is the cut of the epoch it says it holds (SOM-7), with that epoch's history behind it.
TEST(MirrorCrash, OfARandomHistoryTheMirrorAloneIsTheCutOfItsEpoch) {
  if (!can_run()) GTEST_SKIP() << "needs root";
  const unsigned first = std::random_device()(), seeds = stride() == 1 ? 200 : 12;
  unsigned killed = 0, olds = 0, news = 0;
  for (unsigned seed = first; seed != first + seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    Scratch dir("/dev/shm");
    std::vector<State> cuts{start()};
    std::vector<std::string> roots{root_of(cuts.front())};
    {
      auto m = Mirror::open(dir.path, Mirror::Mode::create);
      ASSERT_TRUE(m && model::run(**m, begin(0, 1), plan(empty(), cuts.front())));
    }
    for (int round = 0; round < 8; ++round) {
      State next = cuts.back();
      for (unsigned n = random() % 6 + 1; n != 0; --n) model::mutate(next, random);
      next.sweep();
      cuts.push_back(next);
      roots.push_back(root_of(next));
      const std::uint64_t epoch = cuts.size();
      const std::string records = plan(cuts[cuts.size() - 2], next, &random);
      killed += run_harmed(dir.path, records, epoch, 1 + random() % 160, Harm::kill);
      auto m = Mirror::open(dir.path, Mirror::Mode::existing);
      ASSERT_TRUE(m) << m.error().line();
      const std::uint64_t shown = (*m)->committed_epoch();
      ASSERT_TRUE(shown == epoch || shown + 1 == epoch);
      ASSERT_EQ(root_of(**m), roots[shown - 1]) << "epoch " << shown << " of " << epoch;
      ++(shown == epoch ? news : olds);
      if (shown == epoch) continue;
      ASSERT_TRUE(model::run(**m, begin(epoch - 1, epoch), records));
      ASSERT_EQ(root_of(**m), roots.back());
    }
  }
  EXPECT_GT(killed, seeds);
  EXPECT_GT(olds, seeds / 2);
  EXPECT_GT(news, seeds / 2);
}

TEST(MirrorCrash, KilledWhileAFileIsRewritten) {
  if (!can_run()) GTEST_SKIP() << "needs root";
  campaign(histories()[1], Harm::kill, 1, true);
}

// For as long as it lives this process, and what it forks, is an ordinary user, who may look into /proc/self as ever.
class AsNobody {
 public:
  AsNobody() {
    EXPECT_EQ(::setegid(kNobody), 0);
    EXPECT_EQ(::seteuid(kNobody), 0);
    ::prctl(PR_SET_DUMPABLE, 1);
  }
  ~AsNobody() {
    EXPECT_EQ(::seteuid(0), 0);
    EXPECT_EQ(::setegid(0), 0);
    ::prctl(PR_SET_DUMPABLE, 1);
  }
  AsNobody(const AsNobody&) = delete;
  AsNobody& operator=(const AsNobody&) = delete;
  static constexpr unsigned kNobody = 65534;
};

// Directories that are closed to their owner are opened while an epoch is played: whenever that ends, they are closed again after the next start.
TEST(MirrorCrash, KilledWhileClosedDirectoriesAreOpenTheyAreClosedAgain) {
  if (!can_run()) GTEST_SKIP() << "needs root";
  State old = empty();
  old.nodes[old.root] = State::make(Kind::dir);
  const ObjectId shut = old.add(old.root, "shut", Kind::dir), deep = old.add(shut, "deep", Kind::dir), kept = old.add(shut, "kept", Kind::dir);
  old.add(deep, "x", Kind::file, "deep inside");
  old.add(kept, "y", Kind::file, "there");
  old.nodes[shut].attr.mode = 0555;
  old.nodes[deep].attr.mode = 0;
  old.nodes[kept].attr.mode = 0500;
  State next = old;
  next.nodes[next.at("shut/deep/x")].data = "another thing altogether";   // the directories above are only passed
  next.unlink(kept, "y");
  next.add(kept, "z", Kind::file, "new");
  for (State* s : {&old, &next}) {
    s->sweep();
    for (auto& [id, node] : s->nodes) node.attr.uid = node.attr.gid = AsNobody::kNobody;
  }
  const std::string first = plan(empty(), old), records = plan(old, next);
  unsigned olds = 0, news = 0, wide = 0;
  for (unsigned n = 1;; ++n) {
    Scratch dir("/dev/shm");
    ASSERT_EQ(::chown(dir.path.c_str(), AsNobody::kNobody, AsNobody::kNobody), 0);
    bool harmed, landed;
    {
      AsNobody user;
      {
        auto m = Mirror::open(dir.path, Mirror::Mode::create);
        ASSERT_TRUE(m && model::run(**m, begin(0, 1), first));
      }
      harmed = run_harmed(dir.path, records, 2, n, Harm::kill);
    }
    struct stat st;
    if (::stat((dir.path + "/tree/shut").c_str(), &st) == 0 && (st.st_mode & 07777) == 0755) ++wide;
    {
      AsNobody user;
      auto m = Mirror::open(dir.path, Mirror::Mode::existing);
      ASSERT_TRUE(m) << "call " << n << ": " << m.error().line();
      landed = (*m)->committed_epoch() == 2;
    }
    ASSERT_EQ(compare(dir.path, landed ? next : old), "") << "call " << n << (landed ? " (new)" : " (old)");
    if (!harmed) break;
    ++(landed ? news : olds);
  }
  EXPECT_GT(olds, 20u);
  EXPECT_GT(news, 20u);
  EXPECT_GT(wide, 5u);   // it was met
}

TEST(MirrorCrash, AFailingSystemCallLeavesOldOrNew) {
  if (!can_run()) GTEST_SKIP() << "needs root";
  for (const History& h : histories()) {
    campaign(h, Harm::enospc, stride(), false);
    campaign(h, Harm::eio, stride(), false);
  }
}

}  // namespace
}  // namespace somfs::replicator
