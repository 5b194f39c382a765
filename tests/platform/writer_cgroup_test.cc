// SPDX-License-Identifier: Apache-2.0
// Real cgroups of whichever version the machine lets us make, with a real process in them.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <fstream>
#include <sstream>

#include "snapshot/writers.h"
#include "tests/platform/scratch.h"

namespace somfs::snapshot {
namespace {

using platform::eventually;
using platform::slurp;
using Answer = WriterReport::Answer;

bool write_to(const std::string& path, const std::string& value) {
  std::ofstream f(path);
  f << value << std::flush;
  return f.good();
}

// Where cgroups with a freezer can be made.
std::vector<std::string> roots() {
  std::vector<std::string> found;
  for (const char* root : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/freezer"}) {
    const std::string probe = std::string(root) + "/somfs-probe-" + std::to_string(::getpid());
    std::error_code ec;
    if (!std::filesystem::create_directory(probe, ec)) continue;
    if (std::filesystem::exists(probe + "/cgroup.freeze") || std::filesystem::exists(probe + "/freezer.state")) found.push_back(root);
    ::rmdir(probe.c_str());
  }
  return found;
}

class Cgroup : public ::testing::TestWithParam<std::string> {
 protected:
  Cgroup() : path(GetParam() + "/somfs-test-" + std::to_string(::getpid())) {
    std::filesystem::create_directory(path);
    std::filesystem::create_directory(path + "/inner");
    worker = ::fork();
    if (worker == 0) {  // works: its processor time grows
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (volatile bool on = true; on;) {
      }
    }
    EXPECT_TRUE(write_to(path + "/inner/cgroup.procs", std::to_string(worker)));
  }
  ~Cgroup() override {
    write_to(path + "/cgroup.freeze", "0");
    write_to(path + "/freezer.state", "THAWED");
    ::kill(worker, SIGKILL);
    ::waitpid(worker, nullptr, 0);
    EXPECT_TRUE(eventually([&] { return ::rmdir((path + "/inner").c_str()) == 0; }));
    EXPECT_TRUE(eventually([&] { return ::rmdir(path.c_str()) == 0; }));
  }
  bool v2() const { return std::filesystem::exists(path + "/cgroup.freeze"); }
  bool frozen() const {
    return v2() ? slurp(path + "/cgroup.events").find("frozen 1") != std::string::npos : slurp(path + "/freezer.state") == "FROZEN\n";
  }
  std::string used() const {  // fields 14 and 15 of proc(5): processor time
    std::string s = slurp("/proc/" + std::to_string(worker) + "/stat"), word;
    std::istringstream in(s.substr(s.rfind(')') + 2));
    for (int i = 3; i < 14; ++i) in >> word;
    std::string user, system;
    in >> user >> system;
    return user + "+" + system;
  }
  std::int64_t in_ms(int ms) const { return clock.mono_ns() + ms * 1'000'000ll; }

  SystemClock clock;
  const std::string path;
  pid_t worker = -1;
};

TEST_P(Cgroup, StandsStillUntilItIsReleased) {
  auto writer = make_cgroup_writer({.path = path}, clock);
  WriterReport r = writer->prepare(in_ms(10'000));
  ASSERT_EQ(r.answer, Answer::ready) << r.reason;
  EXPECT_TRUE(frozen());
  const std::string at = used();
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EXPECT_EQ(used(), at);
  writer->release(true, in_ms(10'000));
  EXPECT_FALSE(frozen());
  EXPECT_TRUE(eventually([&] { return used() != at; }));
  writer->release(true, in_ms(10'000));
}

TEST_P(Cgroup, NeverWithWhoAsked) {
  auto writer = make_cgroup_writer({.path = path}, clock);
  CutRequest r;
  r.requester_pid = worker;
  writer->announce(r);
  WriterReport report = writer->prepare(in_ms(10'000));
  EXPECT_EQ(report.answer, Answer::veto);
  EXPECT_FALSE(frozen());
}

TEST_P(Cgroup, NeverWithSomfsItself) {
  ASSERT_TRUE(write_to(path + "/inner/cgroup.procs", std::to_string(::getpid())));
  WriterReport report = make_cgroup_writer({.path = path}, clock)->prepare(in_ms(10'000));
  EXPECT_EQ(report.answer, Answer::veto);
  EXPECT_NE(report.reason.find("somfs itself"), std::string::npos) << report.reason;
  ASSERT_TRUE(write_to(GetParam() + "/cgroup.procs", std::to_string(::getpid())));
}

TEST_P(Cgroup, WhatSomebodyElseFrozeStaysFrozen) {
  ASSERT_TRUE(v2() ? write_to(path + "/cgroup.freeze", "1") : write_to(path + "/freezer.state", "FROZEN"));
  auto writer = make_cgroup_writer({.path = path}, clock);
  EXPECT_EQ(writer->prepare(in_ms(10'000)).answer, Answer::ready);
  writer->release(true, in_ms(10'000));
  EXPECT_TRUE(frozen());
}

TEST_P(Cgroup, ThawsWhenTheDaemonIsKilled) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t daemon = ::fork();
  if (daemon == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto writer = make_cgroup_writer({.path = path}, clock);
    const char answer = writer->prepare(in_ms(10'000)).answer == Answer::ready ? 'y' : 'n';
    if (::write(ready[1], &answer, 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char answer = 0;
  ASSERT_EQ(::read(ready[0], &answer, 1), 1);
  EXPECT_EQ(answer, 'y');
  EXPECT_TRUE(frozen());
  ::kill(daemon, SIGKILL);
  ::waitpid(daemon, nullptr, 0);
  EXPECT_TRUE(eventually([&] { return !frozen(); }));
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_P(Cgroup, WhatIsNoCgroupFails) {
  WriterReport r = make_cgroup_writer({.path = "/proc"}, clock)->prepare(in_ms(1000));
  EXPECT_EQ(r.answer, Answer::failed);
  EXPECT_NE(r.reason.find("not a cgroup"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Roots, Cgroup, ::testing::ValuesIn(roots()));
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Cgroup);

}  // namespace
}  // namespace somfs::snapshot

int main(int argc, char** argv) {
  if (somfs::snapshot::roots().empty()) somfs::platform::skip("no cgroup with a freezer can be made under /sys/fs/cgroup");
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
