// SPDX-License-Identifier: Apache-2.0
// A mirror as the source of the next one: what is committed here arrives there, from the spool or by comparison, whatever was missed in between;
// what is not, or what a person has to decide there, does not.
//
// The toy source never changes a change time, so a comparison that believes in times finds nothing.
#include <gtest/gtest.h>

#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

#include <csignal>

#include "tests/unit/replicator/chain_world.h"

namespace somfs::replicator {
namespace {

using chain::in_time;
using chain::Origin;
using chain::Site;
using chain::Way;

struct ChainTest : testing::Test {
  Origin o;
  void equal(const Site& site, const char* what) const { EXPECT_EQ(site.differs(o.now), "") << what; }
};

TEST_F(ChainTest, WhatIsCommittedGoesDownTheChain) {
  Site a, b, c;
  Way ab(a, b), bc(b, c);
  for (int i = 0; i < 40; ++i) {
    o.go_on(a);
    if (i % 8 != 0) continue;
    ASSERT_TRUE(ab.arrives(o.epoch));
    equal(b, "the second");
    ASSERT_TRUE(bc.arrives(o.epoch));
    equal(c, "the third");
  }
  ASSERT_TRUE(ab.arrives(o.epoch));
  ASSERT_TRUE(bc.arrives(o.epoch));
  equal(a, "the first");
  equal(b, "the second");
  equal(c, "the third");
  EXPECT_EQ(ab.forward->status().comparisons, 0u);
  EXPECT_EQ(bc.forward->status().comparisons, 0u);
  EXPECT_EQ(ab.forward->status().epochs, 40u);
  EXPECT_TRUE(in_time([&] { return a.spooled() == 0 && b.spooled() == 0; })) << "what everybody has goes";
  ab.forward->end();
  bc.forward->end();
  const Standing first = a.standing(), last = c.standing();
  EXPECT_EQ(first.at, last.at);
  EXPECT_EQ(first.volume, last.volume);
  EXPECT_NE(first.mirror, last.mirror);
  // The same groups are behind both.
  auto root_of = [](const Site& site) { return Mirror::open(site.dir.path, Mirror::Mode::existing).value()->welcome().root; };
  EXPECT_FALSE(root_of(a).empty());
  EXPECT_EQ(root_of(a), root_of(c));
}

TEST_F(ChainTest, AMirrorThatHoldsMuchIsCopied) {
  Site a, b;
  o.go_on(a, 10, false);
  Way ab(a, b);
  ASSERT_TRUE(ab.arrives(o.epoch));
  equal(b, "copied");
  EXPECT_EQ(ab.forward->status().comparisons, 1u);
  o.go_on(a, 5);
  ASSERT_TRUE(ab.arrives(o.epoch));
  equal(b, "goes on");
  EXPECT_EQ(ab.forward->status().comparisons, 1u) << "now it is joined up";
  EXPECT_EQ(ab.forward->status().epochs, 5u);
}

TEST_F(ChainTest, OneThatWasAwayIsBroughtUp) {
  Site a, b;
  Way ab(a, b);
  o.go_on(a, 3);
  ASSERT_TRUE(ab.arrives(o.epoch));
  ab.forward.reset();
  Way away(a, b, false);
  ASSERT_TRUE(away.becomes("DEGRADED"));
  o.go_on(a, 20);
  EXPECT_EQ(a.spooled(), 20u);
  // Its process and the first one's end meanwhile.
  away.forward.reset();
  a.boot();
  Way again(a, b);
  ASSERT_TRUE(again.arrives(o.epoch));
  equal(b, "from the spool");
  EXPECT_EQ(again.forward->status().epochs, 20u);
  EXPECT_EQ(again.forward->status().comparisons, 0u);
}

TEST_F(ChainTest, BeyondTheBoundItIsComparedWithWhatWasTouched) {
  Site a(30'000), b;
  Way ab(a, b);
  o.go_on(a, 3);
  const ObjectId stays = o.now.add(o.now.root, "stays", Kind::file, "before");
  o.now.sweep();
  ASSERT_TRUE(o.commit(a));
  ASSERT_TRUE(ab.arrives(o.epoch));
  ab.forward.reset();
  Way away(a, b, false);
  ASSERT_TRUE(away.becomes("DEGRADED"));
  o.now.nodes[stays].data = "behind";   // the same size and times
  for (int i = 0; i < 5; ++i) {
    o.now.add(o.now.root, "g" + std::to_string(i), Kind::file, std::string(20'000, 'g'));
    o.now.sweep();
    ASSERT_TRUE(o.commit(a));
  }
  EXPECT_LE(a.desk->spool().bytes(), 30'000u);
  snapshot::DirtySet touched;
  EXPECT_TRUE(a.desk->spool().touched(b.standing().at, &touched));
  *away.gate = true;
  ASSERT_TRUE(away.arrives(o.epoch));
  equal(b, "compared");
  EXPECT_EQ(away.forward->status().comparisons, 1u);
  EXPECT_EQ(away.forward->status().epochs, 0u);
  o.go_on(a, 3);
  ASSERT_TRUE(away.arrives(o.epoch));
  equal(b, "goes on");
}

TEST_F(ChainTest, WhereNothingIsKnownAllIsRead) {
  Site a, b;
  for (int round = 0; round < 6; ++round) {
    {
      Way ab(a, b);
      o.go_on(a, 3);
      ASSERT_TRUE(ab.arrives(o.epoch));
    }
    o.go_on(a, 5, false);
    // Content of the same size, and nothing else.
    for (auto& [id, n] : o.now.nodes)
      if (!n.data.empty()) std::reverse(n.data.begin(), n.data.end()), n.data[0] = static_cast<char>(n.data[0] ^ 1);
    ASSERT_TRUE(o.commit(a, false));
    a.boot();
    Way again(a, b);
    ASSERT_TRUE(again.arrives(o.epoch));
    equal(b, "compared by content");
    EXPECT_EQ(again.forward->status().comparisons, 1u);
  }
}

TEST_F(ChainTest, ASpooledEpochThatIsDamagedIsNotSent) {
  Site a, b;
  {
    Way ab(a, b);
    o.go_on(a, 3);
    ASSERT_TRUE(ab.arrives(o.epoch));
  }
  Way away(a, b, false);
  o.go_on(a, 4);
  int n = 0;
  for (const auto& e : std::filesystem::directory_iterator(a.dir.path + "/.somfs-mirror/forward"))
    if (++n == 2) std::filesystem::resize_file(e, std::filesystem::file_size(e) - 5);
  *away.gate = true;
  ASSERT_TRUE(away.arrives(o.epoch));
  equal(b, "compared in the end");
  EXPECT_EQ(away.forward->status().comparisons, 1u);
}

TEST_F(ChainTest, TheSlowOneHoldsUpNobody) {
  Site a(30'000), b, c;
  Way ab(a, b), ac(a, c);
  o.go_on(a, 1);
  ASSERT_TRUE(ab.arrives(o.epoch));
  ASSERT_TRUE(ac.arrives(o.epoch));
  ac.forward.reset();
  Way away(a, c, false);
  for (int i = 0; i < 30; ++i) {
    o.go_on(a);
    ASSERT_TRUE(ab.arrives(o.epoch));
  }
  equal(b, "the quick one");
  EXPECT_EQ(ab.forward->status().comparisons, 0u);
  *away.gate = true;
  ASSERT_TRUE(away.arrives(o.epoch));
  equal(c, "the slow one");
  EXPECT_EQ(away.forward->status().comparisons, 1u);
}

TEST_F(ChainTest, HeldThere) {
  Site a, b;
  Way ab(a, b);
  for (int i = 0; i < 200; ++i) o.now.add(o.now.root, "f" + std::to_string(i), Kind::file, "x");
  o.now.sweep();
  ASSERT_TRUE(o.commit(a));
  ASSERT_TRUE(ab.arrives(o.epoch));
  const model::State full = o.now;
  for (int i = 0; i < 190; ++i) o.now.nodes[o.now.root].children.erase("f" + std::to_string(i));
  o.now.sweep();
  {
    // A person let it in here; there the brake is judged again.
    auto c = o.commit(a, true, 0.5);
    ASSERT_TRUE(c && c->held);
    EXPECT_TRUE(ab.is("SYNCED"));
    auto m = Origin::open(a, true).value();
    ASSERT_TRUE(m->decide_held(true));
    o.before = o.now;
    o.committed = o.epoch;
  }
  ASSERT_TRUE(ab.becomes("HELD"));
  EXPECT_EQ(b.differs(full), "");
  EXPECT_TRUE(in_time([&] {
    auto m = Mirror::open(b.dir.path, Mirror::Mode::existing);
    return m && (*m)->decide_held(true).has_value();
  }));
  ASSERT_TRUE(ab.arrives(o.epoch));
  equal(b, "accepted");
}

TEST_F(ChainTest, ASplitThere) {
  Site a, b;
  o.go_on(a, 2);
  {
    auto m = Mirror::open(b.dir.path, Mirror::Mode::create).value();
    Hello other = model::hello();
    other.generation = Uuid::random();
    ASSERT_TRUE(m->greet(other));
    Begin begin = model::begin(0, 5);
    begin.generation = other.generation;
    ASSERT_TRUE(m->begin(begin));
    model::State none;
    none.nodes.clear();
    ASSERT_TRUE(m->receive(plan(none, model::State())));
    ASSERT_TRUE(m->commit());
  }
  Way ab(a, b);
  ASSERT_TRUE(ab.becomes("SPLIT"));
  EXPECT_EQ(b.differs(model::State()), "");
  EXPECT_TRUE(in_time([&] {
    auto m = Mirror::open(b.dir.path, Mirror::Mode::existing);
    return m && (*m)->decide_split(model::hello().generation).has_value();
  }));
  ASSERT_TRUE(ab.arrives(o.epoch));
  equal(b, "decided");
}

TEST_F(ChainTest, OneThatIsAheadWaits) {
  Site a, b;
  Way ab(a, b);
  o.go_on(a, 2);
  ASSERT_TRUE(ab.arrives(o.epoch));
  ab.forward.reset();
  {
    auto m = Mirror::open(b.dir.path, Mirror::Mode::existing).value();
    ASSERT_TRUE(model::run(*m, o.begin(o.epoch), ""));   // its source itself wrote there
  }
  Way again(a, b);
  ASSERT_TRUE(again.becomes("DEGRADED"));
  EXPECT_NE(again.forward->status().reason.find("ahead"), std::string::npos) << again.forward->status().reason;
  ++o.epoch;
  o.go_on(a, 2);
  ASSERT_TRUE(again.arrives(o.epoch));
  equal(b, "passed");
}

TEST_F(ChainTest, ItselfIsRefused) {
  Site a;
  o.go_on(a, 1);
  Way aa(a, a);
  ASSERT_TRUE(aa.becomes("DEGRADED"));
  EXPECT_NE(aa.forward->status().reason.find("this very mirror"), std::string::npos) << aa.forward->status().reason;
}

TEST_F(ChainTest, ADamagedTreeIsNotPassedOn) {
  Site a, b;
  const ObjectId dir = o.now.add(o.now.root, "kept", Kind::dir);
  o.now.add(dir, "file", Kind::file, "content");
  o.now.sweep();
  ASSERT_TRUE(o.commit(a));
  {
    Way ab(a, b);
    ASSERT_TRUE(ab.arrives(o.epoch));
  }
  const model::State good = o.now;
  o.now.add(dir, "another", Kind::file, "content");
  o.now.sweep();
  ASSERT_TRUE(o.commit(a, false));
  ASSERT_EQ(::unlink((a.dir.path + "/tree/kept/file").c_str()), 0);
  Way ab(a, b);
  ASSERT_TRUE(ab.becomes("DEGRADED"));
  EXPECT_NE(ab.forward->status().reason.find("not what its catalog says"), std::string::npos) << ab.forward->status().reason;
  EXPECT_EQ(b.differs(good), "");
}

TEST_F(ChainTest, TheConversationStepsAsideForAComparison) {
  Site a, b, c;
  Way ab(a, b);   // has the second one open all the time
  o.go_on(a, 3);
  ASSERT_TRUE(ab.arrives(o.epoch));
  Way bc(b, c);
  ASSERT_TRUE(bc.arrives(o.epoch));
  equal(c, "compared");
  EXPECT_EQ(bc.forward->status().comparisons, 1u);
  o.go_on(a, 3);
  ASSERT_TRUE(bc.arrives(o.epoch));
  equal(c, "goes on");
  EXPECT_EQ(bc.forward->status().comparisons, 1u);
}

// Runs one epoch at the site in a child, which is killed before its N-th system call (or that call fails). Whether there was an N-th one.
bool run_harmed(Site& site, Origin& o, unsigned nth, bool kill) {
  const std::string records = o.records();
  const Begin begin = o.begin(o.committed);
  pid_t child = ::fork();
  if (child == 0) {
    site.desk->spool().enlist();
    auto m = site.desk->open();
    if (!m || !(*m)->greet(model::hello())) ::_exit(3);
    if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(4);
    ::raise(SIGSTOP);
    ::_exit((*m)->begin(begin) && (*m)->receive(records) && (*m)->commit() ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) {
    ADD_FAILURE() << "the child did not get to its epoch: " << status;
    return false;
  }
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  bool entering = false, harmed = false, fails = false;
  for (unsigned count = 0;;) {
    ::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr);
    if (::waitpid(child, &status, 0) < 0 || WIFEXITED(status) || WIFSIGNALED(status)) break;
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != (SIGTRAP | 0x80)) continue;
    entering = !entering;
    struct user_regs_struct regs;
    if (!entering) {
      if (!std::exchange(fails, false)) continue;
      ::ptrace(PTRACE_GETREGS, child, nullptr, &regs);
      regs.rax = static_cast<unsigned long long>(-ENOSPC);
      ::ptrace(PTRACE_SETREGS, child, nullptr, &regs);
      continue;
    }
    if (++count != nth) continue;
    harmed = true;
    if (kill) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      break;
    }
    ::ptrace(PTRACE_GETREGS, child, nullptr, &regs);
    switch (regs.orig_rax) {
      case SYS_write: case SYS_pwrite64: case SYS_openat: case SYS_fsync: case SYS_fdatasync: case SYS_renameat: case SYS_ftruncate:
        regs.orig_rax = ~0ull;
        ::ptrace(PTRACE_SETREGS, child, nullptr, &regs);
        fails = true;
        break;
      default: break;
    }
  }
  return harmed;
}

// The first mirror is killed, or has no room, at each of its steps. Opened again it is the old or the new epoch, and so is the next one;
// after a kill nothing has to be compared.
void campaign(bool kill) {
  unsigned olds = 0, news = 0, n = 1;
  for (;; n += 3) {
    Site a, b;
    Origin o;
    {
      Way ab(a, b);
      o.go_on(a, 2);
      ASSERT_TRUE(ab.arrives(o.epoch));
    }
    a.boot();
    const model::State old = o.now;
    o.change();
    const bool harmed = run_harmed(a, o, n, kill);
    a.boot();
    Way ab(a, b);
    const Standing now = a.standing();
    ASSERT_TRUE(ab.arrives(now.at.epoch)) << n;
    const bool is_old = now.at.epoch == o.epoch;
    (is_old ? olds : news) += 1;
    EXPECT_EQ(a.differs(is_old ? old : o.now), "") << n;
    EXPECT_EQ(b.differs(is_old ? old : o.now), "") << n;
    if (kill) { EXPECT_EQ(ab.forward->status().comparisons, 0u) << n; }
    if (!is_old) {
      ++o.epoch;
      o.committed = o.epoch;
      o.before = o.now;
    }
    auto again = o.commit(a);
    ASSERT_TRUE(again) << n << ": " << again.error().line();
    ASSERT_TRUE(ab.arrives(o.epoch)) << n;
    EXPECT_EQ(b.differs(o.now), "") << n;
    if (!harmed || testing::Test::HasFailure()) break;
  }
  std::printf("%u: %u old, %u new\n", n, olds, news);
  EXPECT_GT(olds, 3u);
  EXPECT_GT(news, 3u);
}

TEST(ChainCrash, KilledAtEachStep) { campaign(true); }
TEST(ChainCrash, NoRoomAtEachStep) { campaign(false); }

}  // namespace
}  // namespace somfs::replicator
