// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/syscall_crash.h"

#include <cerrno>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "tests/tools/scratch.h"

using namespace somfs;
using namespace somfs::tools;

namespace {

// Commits "new" over "old" by temporary, fsync, rename: sound.
int sound_commit(int dir) {
  Fd fd(openat(dir, "state.tmp", O_WRONLY | O_CREAT | O_TRUNC, 0600));
  if (!fd || write_all(fd.get(), "new") != 0 || fsync(fd.get()) != 0) return 1;
  return renameat(dir, "state.tmp", dir, "state") == 0 && fsync(dir) == 0 ? 0 : 1;
}

// The hole: the old state is cut off before the new one is there, and a failed write is not noticed.
int holed_commit(int dir) {
  Fd fd(openat(dir, "state", O_WRONLY | O_TRUNC));
  if (!fd) return 1;
  write_all(fd.get(), "new");
  return fsync(fd.get()) == 0 ? 0 : 1;
}

class SyscallCrash : public ::testing::Test {
 protected:
  void old_state() { ASSERT_TRUE(replace_file(scratch_.fd(), "state", "old")); }
  std::string state() { return read_file(scratch_.fd(), "state", 100).value_or("(none)"); }

  // All states seen after a kill at each call in turn.
  std::set<std::string> states_after_kills(int (*commit)(int), long* calls = nullptr) {
    std::set<std::string> seen;
    for (long n = 1; n < 100; ++n) {
      old_state();
      Outcome o = run_traced([&] { return commit(scratch_.fd()); }, {.kill_at = n});
      seen.insert(state());
      if (!o.killed) {
        EXPECT_TRUE(o.succeeded());
        EXPECT_EQ(o.count, n - 1);
        if (calls != nullptr) *calls = o.count;
        return seen;
      }
      EXPECT_EQ(o.count, n);
      EXPECT_FALSE(o.call.empty());
    }
    ADD_FAILURE() << "the child never came to its end";
    return seen;
  }

  Scratch scratch_;
};

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SOMFS_THREAD_SANITIZER 1
#endif
#endif
#if defined(SOMFS_THREAD_SANITIZER) || defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

TEST_F(SyscallCrash, a_sound_commit_leaves_old_or_new_at_every_call) {
  long calls = 0;
  EXPECT_EQ(states_after_kills(sound_commit, &calls), (std::set<std::string>{"old", "new"}));
  EXPECT_EQ(calls, 5);  // openat, write, fsync, renameat, fsync
}

TEST_F(SyscallCrash, the_hole_of_an_unsound_commit_is_found) {
  EXPECT_TRUE(states_after_kills(holed_commit).contains(""));
}

TEST_F(SyscallCrash, a_failing_call_gives_its_errno_and_is_not_carried_out) {
  old_state();
  Outcome o = run_traced([&] { return renameat(scratch_.fd(), "state", scratch_.fd(), "gone") == 0 ? 0 : errno; },
                         {.fail_at = 1, .error = ENOSPC});
  EXPECT_EQ(WEXITSTATUS(o.status), ENOSPC);
  EXPECT_EQ(o.call, "renameat");
  EXPECT_EQ(state(), "old");
}

TEST_F(SyscallCrash, failures_show_who_does_not_look_at_results) {
  auto lies = [&](int (*commit)(int)) {  // says it is done when it is not
    for (long n = 1; n < 100; ++n) {
      old_state();
      Outcome o = run_traced([&] { return commit(scratch_.fd()); }, {.fail_at = n, .error = EIO});
      if (o.count < n) return false;
      if (o.succeeded() && state() != "new") return true;
    }
    return false;
  };
  EXPECT_FALSE(lies(sound_commit));
  EXPECT_TRUE(lies(holed_commit));
}

TEST_F(SyscallCrash, threads_and_forks_are_followed_counted_and_killed_together) {
  if (kThreadSanitizer) GTEST_SKIP() << "the thread sanitizer's own calls and threads are counted too";
  auto work = [&](const char* name) {
    Fd fd(openat(scratch_.fd(), name, O_WRONLY | O_CREAT | O_TRUNC, 0600));
    for (int i = 0; i < 10; ++i) write_all(fd.get(), "x");
  };
  auto child = [&] {
    pid_t other = fork();
    if (other == 0) {
      work("forked");
      _exit(0);
    }
    std::jthread a(work, "a");
    std::jthread b(work, "b");
    a.join();
    b.join();
    int status = 0;
    return waitpid(other, &status, 0) == other && status == 0 ? 0 : 1;
  };
  Outcome whole = run_traced(child, {});
  EXPECT_TRUE(whole.succeeded());
  EXPECT_EQ(whole.count, 33);
  for (long n : {1L, 12L, 25L, 33L}) {
    Outcome o = run_traced(child, {.kill_at = n});
    ASSERT_TRUE(o.killed) << n;
    EXPECT_EQ(o.count, n);
    EXPECT_TRUE(WIFSIGNALED(o.status));
  }
}

TEST_F(SyscallCrash, what_comes_before_start_counting_is_preparation) {
  Outcome o = run_traced(
      [&] {
        if (sound_commit(scratch_.fd()) != 0) return 1;
        start_counting();
        return fsync(scratch_.fd());
      },
      {});
  EXPECT_EQ(o.count, 1);
}

TEST_F(SyscallCrash, writes_to_pipes_do_not_count_but_with_all_everything_does) {
  auto child = [] {
    int ends[2];
    if (pipe(ends) != 0) return 1;
    return write(ends[1], "x", 1) == 1 ? 0 : 1;
  };
  EXPECT_EQ(run_traced(child, {}).count, 0);
  EXPECT_GE(run_traced(child, {.which = Calls::all}).count, 3);  // pipe, write, exit_group
}

TEST_F(SyscallCrash, commands_run_to_their_end_and_die_at_their_calls) {
  std::string made = scratch_.path() + "/made";
  std::vector<std::string> command{"sh", "-c", "mkdir '" + made + "' && rmdir '" + made + "' && exit 7"};
  Outcome whole = run_traced(command, {});
  EXPECT_EQ(WEXITSTATUS(whole.status), 7);
  EXPECT_EQ(whole.count, 2);
  Outcome cut = run_traced(command, {.kill_at = 2});
  EXPECT_EQ(cut.call, "rmdir");
  EXPECT_EQ(access(made.c_str(), F_OK), 0);
  EXPECT_EQ(WEXITSTATUS(run_traced(std::vector<std::string>{"/nonexistent/command"}, {}).status), 127);
}

}  // namespace
