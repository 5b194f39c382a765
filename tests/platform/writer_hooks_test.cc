// SPDX-License-Identifier: Apache-2.0
// Real hook scripts: good ones, one that vetoes, one that hangs with children, one that others may write to.
#include <gtest/gtest.h>
#include <signal.h>

#include "snapshot/writers.h"
#include "tests/platform/scratch.h"

namespace somfs::snapshot {
namespace {

using platform::eventually;
using platform::slurp;
using platform::spit;
using Answer = WriterReport::Answer;

class Hooks : public ::testing::Test {
 protected:
  Hooks() {
    dir = scratch / "hooks";
    std::filesystem::create_directory(dir);
    std::filesystem::permissions(dir, std::filesystem::perms(0755));
    writer = make_hooks_writer({.dir = dir, .volume = "/srv/data"}, clock);
    CutRequest r;
    r.name = "nightly";
    writer->announce(r);
  }
  void hook(const std::string& name, const std::string& body, unsigned mode = 0755) {
    spit(dir + "/" + name, "#!/bin/sh\nlog=" + (scratch / "log") + "\n" + body, mode);
  }
  std::int64_t in_ms(int ms) const { return clock.mono_ns() + ms * 1'000'000ll; }
  std::string log() const { return slurp(scratch / "log"); }

  SystemClock clock;
  platform::Scratch scratch;
  std::string dir;
  std::shared_ptr<Writer> writer;
};

constexpr const char* kTell = "echo \"${0##*/} $1 $SOMFS_SNAPSHOT $SOMFS_VOLUME $SOMFS_TOOK_PLACE\" >> $log\n";

TEST_F(Hooks, RunInOrderAndAreReleasedInReverse) {
  hook("20-b", kTell);
  hook("10-a", kTell);
  hook("notes.txt", "", 0644);
  hook(".hidden", "exit 1");
  hook("10-a~", "exit 1");
  WriterReport r = writer->prepare(in_ms(10'000));
  EXPECT_EQ(r.answer, Answer::ready) << r.reason;
  EXPECT_EQ(log(), "10-a prepare nightly /srv/data \n20-b prepare nightly /srv/data \n");
  std::filesystem::remove(scratch / "log");
  writer->release(true, in_ms(10'000));
  EXPECT_EQ(log(), "20-b release nightly /srv/data 1\n10-a release nightly /srv/data 1\n");
  writer->release(true, in_ms(10'000));
  EXPECT_EQ(log().size(), 66u) << "released once";
}

TEST_F(Hooks, AnEmptyDirectoryIsReady) { EXPECT_EQ(writer->prepare(in_ms(1000)).answer, Answer::ready); }

TEST_F(Hooks, AVetoComesWithTheLastLineOfItsErrors) {
  hook("10-a", kTell);
  hook("20-no", "echo first >&2; printf 'not \\033now\\n' >&2; exit 3\n");
  hook("30-c", kTell);
  WriterReport r = writer->prepare(in_ms(10'000));
  EXPECT_EQ(r.answer, Answer::veto);
  EXPECT_EQ(r.reason, "20-no: not \\x1bnow");
  writer->release(false, in_ms(10'000));
  EXPECT_EQ(log(), "10-a prepare nightly /srv/data \n10-a release nightly /srv/data 0\n");
}

TEST_F(Hooks, OneThatHangsIsKilledWithAllItStarted) {
  hook("10-hang", "[ $1 = release ] && exit\nsleep 1000 & echo $! > " + (scratch / "pid") + "\nsleep 1001\n");
  // On a slow machine with a longer deadline, until it was killed after it had started something.
  for (int ms = 500; !slurp(scratch / "pid").ends_with('\n') && ms < 60'000; ms *= 3) {
    WriterReport r = writer->prepare(in_ms(ms));
    EXPECT_EQ(r.answer, Answer::timeout);
    EXPECT_EQ(r.reason, "10-hang did not end in time and was killed");
  }
  const int pid = std::stoi(slurp(scratch / "pid"));
  // Whoever inherits it may take its time to collect it.
  EXPECT_TRUE(eventually([&] {
    const std::string stat = slurp("/proc/" + std::to_string(pid) + "/stat");
    return stat.empty() || stat.find(") Z ") != std::string::npos || stat.find(") X ") != std::string::npos;
  }));
  writer->release(false, in_ms(1000));
}

TEST_F(Hooks, OneThatNeverStopsTalkingIsKilledToo) {
  hook("10-talk", "[ $1 = release ] && exit\nwhile :; do echo talk >&2; done\n");
  EXPECT_EQ(writer->prepare(in_ms(300)).answer, Answer::timeout);
  writer->release(false, in_ms(1000));
}

TEST_F(Hooks, ADeadOneIsToldApart) {
  hook("10-die", "kill -9 $$\n");
  WriterReport r = writer->prepare(in_ms(10'000));
  EXPECT_EQ(r.answer, Answer::failed);
  EXPECT_EQ(r.reason, "10-die was killed by signal 9");
}

TEST_F(Hooks, WhatOthersMayWriteIsRefusedAndNotRun) {
  hook("10-a", kTell);
  hook("20-open", kTell, 0775);
  WriterReport r = writer->prepare(in_ms(10'000));
  EXPECT_EQ(r.answer, Answer::veto);
  EXPECT_NE(r.reason.find("20-open"), std::string::npos) << r.reason;
  EXPECT_EQ(log(), "") << "checked before any of them runs";
  std::filesystem::remove(dir + "/20-open");
  EXPECT_EQ(writer->prepare(in_ms(10'000)).answer, Answer::ready);
  std::filesystem::permissions(dir, std::filesystem::perms(0777));
  EXPECT_EQ(writer->prepare(in_ms(10'000)).answer, Answer::veto);
}

TEST_F(Hooks, ALinkOrAForeignOwnerIsRefused) {
  hook("10-a", kTell);
  std::filesystem::create_symlink(dir + "/10-a", dir + "/20-link");
  EXPECT_EQ(writer->prepare(in_ms(10'000)).answer, Answer::veto);
  std::filesystem::remove(dir + "/20-link");
  if (::geteuid() != 0) return;
  ASSERT_EQ(::chown((dir + "/10-a").c_str(), 65534, 0), 0);
  EXPECT_EQ(writer->prepare(in_ms(10'000)).answer, Answer::veto);
}

TEST_F(Hooks, NoDirectoryIsAFailureWithAReason) {
  auto gone = make_hooks_writer({.dir = scratch / "gone", .volume = "/"}, clock);
  WriterReport r = gone->prepare(in_ms(1000));
  EXPECT_EQ(r.answer, Answer::failed);
  EXPECT_NE(r.reason.find("No such file"), std::string::npos);
}

}  // namespace
}  // namespace somfs::snapshot
