// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/oracle.h"

#include <csignal>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/tools/oracle_plan.h"
#include "tests/tools/recording_device.h"
#include "tests/tools/scratch.h"
#include "tests/tools/tree_walk.h"

using namespace somfs;
using namespace somfs::tools;

namespace {

// Everything the kernel calls a child of `pid`, which has one thread.
std::vector<pid_t> children_of(pid_t pid) {
  Fd fd(open(("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children").c_str(), O_RDONLY | O_CLOEXEC));
  char text[4096] = {};
  std::size_t got = 0;
  read_all(fd.get(), text, sizeof text - 1, &got);
  std::vector<pid_t> pids;
  char* at = text;
  for (long next = std::strtol(at, &at, 10); next > 0; next = std::strtol(at, &at, 10)) pids.push_back(static_cast<pid_t>(next));
  return pids;
}

bool is_stopped(pid_t pid) {
  Fd fd(open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  char text[512] = {};
  std::size_t got = 0;
  read_all(fd.get(), text, sizeof text - 1, &got);
  return std::string(text).find(") T ") != std::string::npos;
}

class Oracle : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(mkdir(live().c_str(), 0755), 0);
  }
  std::string live() { return scratch_.path() + "/live"; }
  std::string copy() { return scratch_.path() + "/copy"; }
  void write(std::uint64_t count, std::uint64_t seed) {
    auto n = oracle_write({.dir = live(), .seed = seed, .processes = 4, .seconds = 3600, .count = count});
    ASSERT_TRUE(n) << n.error().line();
    ASSERT_EQ(*n, count);
  }
  OracleVerdict check(const std::string& dir) {
    auto v = oracle_check(dir);
    return v ? *v : OracleVerdict{false, 0, v.error().line()};
  }
  // The path of a numbered file with at least two records.
  std::string long_file(std::string* bytes) {
    for (const char* place : {"p0/a/", "p0/b/", "p1/a/", "p1/b/", "p2/a/", "p2/b/", "p3/a/", "p3/b/"}) {
      Fd dir(open((live() + "/" + place).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      for (const std::string& name : names_in(dir.get()).value_or(std::vector<std::string>{})) {
        *bytes = read_file(dir.get(), name, 1 << 20).value_or("");
        if (bytes->size() >= 3 * kOracleRecord) return place + name;
      }
    }
    return {};
  }
  void put(const std::string& path, const std::string& bytes) { ASSERT_TRUE(replace_file(AT_FDCWD, live() + "/" + path, bytes)); }

  // Runs the writers in a process of their own until the object is gone.
  class Background {
   public:
    explicit Background(const std::string& dir) : pid_(fork()) {
      if (pid_ != 0) return;
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      _exit(oracle_write({.dir = dir, .seed = 5, .processes = 4, .seconds = 3600}) ? 0 : 1);
    }
    ~Background() {
      auto below = children_of(pid_);
      kill(pid_, SIGKILL);
      for (pid_t child : below) kill(child, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    void stop_writers() {
      for (pid_t child : children_of(pid_)) {
        kill(child, SIGSTOP);
        for (int tries = 0; !is_stopped(child) && tries < 5000; ++tries) poll(nullptr, 0, 1);
      }
    }
    void let_writers_go() {
      for (pid_t child : children_of(pid_)) kill(child, SIGCONT);
    }

   private:
    pid_t pid_;
  };

  Scratch scratch_;
};

TEST_F(Oracle, a_finished_run_shows_all_of_its_mutations) {
  for (std::uint64_t count : {1u, 2u, 3u, 500u, 4001u}) {
    ASSERT_NO_FATAL_FAILURE(write(count, count));
    OracleVerdict v = check(live());
    EXPECT_TRUE(v.one_instant) << v.violation;
    EXPECT_LE(v.number, count);
    EXPECT_GE(v.number + 3, count) << "only removals at the end may go unseen";
    Fd dir(open(live().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_EQ(empty_directory(dir.get()), 0);
  }
}

TEST_F(Oracle, a_swapped_record_a_missing_one_and_a_missing_file_are_found) {
  ASSERT_NO_FATAL_FAILURE(write(3000, 7));
  std::string good;
  std::string path = long_file(&good);
  ASSERT_FALSE(path.empty());
  std::string first = good.substr(0, kOracleRecord);
  std::string second = good.substr(kOracleRecord, kOracleRecord);

  ASSERT_NO_FATAL_FAILURE(put(path, second + first + good.substr(2 * kOracleRecord)));
  EXPECT_FALSE(check(live()).one_instant);
  ASSERT_NO_FATAL_FAILURE(put(path, first + good.substr(2 * kOracleRecord)));
  EXPECT_FALSE(check(live()).one_instant);
  ASSERT_EQ(unlink((live() + "/" + path).c_str()), 0);
  EXPECT_FALSE(check(live()).one_instant);
  ASSERT_NO_FATAL_FAILURE(put(path, good));
  EXPECT_TRUE(check(live()).one_instant);

  std::string slots = read_file(AT_FDCWD, live() + "/p2/slots", 1 << 20).value_or("");
  std::string hole = slots;
  hole.replace(0, kOracleRecord, std::string(kOracleRecord, '\0'));
  ASSERT_NO_FATAL_FAILURE(put("p2/slots", hole));
  OracleVerdict v = check(live());
  EXPECT_FALSE(v.one_instant);
  EXPECT_NE(v.violation.find("p2/slots at byte 0 shows mutation 0"), std::string::npos) << v.violation;
}

TEST_F(Oracle, chatter_out_of_order_is_found) {
  ASSERT_NO_FATAL_FAILURE(write(3000, 7));
  ASSERT_TRUE(check(live()).one_instant);
  ASSERT_NO_FATAL_FAILURE(put("p1/chat/y", oracle_record(1u << 30, (1u << 30) - 1)));
  EXPECT_FALSE(check(live()).one_instant);
}

TEST_F(Oracle, a_copy_of_a_live_tree_is_caught_and_one_of_halted_writers_is_not) {
  Background writers(live());
  for (int tries = 0; check(live()).number < 200 && tries < 5000; ++tries) poll(nullptr, 0, 1);
  bool caught = false;
  for (int tries = 0; tries < 50 && !caught; ++tries) {
    run_quietly({"cp", "-r", live(), copy()});
    caught = !check(copy()).one_instant;
    run_quietly({"rm", "-rf", copy()});
  }
  EXPECT_TRUE(caught);
  std::uint64_t before = 0;
  for (int i = 0; i < 5; ++i) {
    writers.stop_writers();
    ASSERT_EQ(run_quietly({"cp", "-r", live(), copy()}), 0);
    OracleVerdict v = check(copy());
    EXPECT_TRUE(v.one_instant) << v.violation;
    EXPECT_GE(v.number, before);
    before = v.number;
    run_quietly({"rm", "-rf", copy()});
    writers.let_writers_go();
  }
}

TEST_F(Oracle, a_failing_writer_ends_the_run_with_an_error) {
  ASSERT_EQ(mkdir((live() + "/p1").c_str(), 0755), 0);
  EXPECT_FALSE(oracle_write({.dir = live(), .processes = 4, .count = 100}));
  EXPECT_FALSE(oracle_check(scratch_.path()));
}

TEST_F(Oracle, whoever_ends_it_by_sigterm_finds_no_writer_left) {
  // Whom it leaves behind becomes a child of this process.
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  for (std::size_t begun : {1u, 8u}) {   // while they are made, and after
    ASSERT_EQ(run_quietly({"rm", "-rf", live()}), 0);
    ASSERT_EQ(mkdir(live().c_str(), 0755), 0);
    const pid_t pid = fork();
    if (pid == 0) _exit(oracle_write({.dir = live(), .processes = 4, .seconds = 600}) ? 0 : 1);
    while (children_of(pid).size() < begun && waitpid(pid, nullptr, WNOHANG) == 0) usleep(100);
    ASSERT_EQ(kill(pid, SIGTERM), 0);
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
  }
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST(OraclePlan, is_a_function_of_seed_and_number) {
  OraclePlan a(3, 4), b(3, 4), c(4, 4);
  for (int i = 0; i < 2000; ++i) {
    Mutation m = a.next();
    EXPECT_EQ(m.path, b.next().path);
    a.apply(m);
    b.apply(b.next());
    c.apply(c.next());
  }
  EXPECT_EQ(a.files(), b.files());
  EXPECT_NE(a.files(), c.files());
}

}  // namespace
