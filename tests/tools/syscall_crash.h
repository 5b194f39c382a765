// SPDX-License-Identifier: Apache-2.0
// Runs code under ptrace and kills it, or makes a call fail, at the Nth system call: what a crash between any two calls leaves
// behind can be looked at, call by call. Linux on x86-64; needs the right to trace one's own children, not root.
//
// The usual loop (old or new at every system call):
//
//   for (long n = 1;; ++n) {
//     prepare();
//     Outcome o = run_traced([&] { return commit() ? 0 : 1; }, {.kill_at = n});
//     check_old_or_new();
//     if (!o.killed) break;           // n is past the last call
//   }
//
// Thread contract: run_traced may be called from any thread, also in parallel; it reaps no children but its own. The child is a
// fork, so `child` must not need other threads of the caller, nor locks they may hold.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace somfs::tools {

enum class Calls {
  mutating,  // those that change a file system or make a change durable; write and its kin only on regular files
  all,
};

// Numbers count from 1; 0 means never. Call `kill_at` is not carried out, nor is any counted call after it, in any thread or
// process of the child; call `fail_at` is not carried out and gives `error`, and the child goes on.
struct Plan {
  long kill_at = 0;
  long fail_at = 0;
  int error = 5;  // EIO
  Calls which = Calls::mutating;
};

struct Outcome {
  bool killed = false;  // the plan's kill took place
  int status = 0;       // as by waitpid: WIFEXITED(status), WEXITSTATUS(status)
  long count = 0;       // counted calls that were made; when killed, the fatal one included
  std::string call;     // name of the call that was killed or failed, "fsync" say; empty when neither took place

  bool succeeded() const;  // ended by itself with exit status 0
};

// Forks and runs `child`; its value is the exit status (an exception makes 99). All its threads and descendants are followed and
// counted together; what is left of them when it ends is killed. Nothing of it runs any more on return.
// Throws std::runtime_error when tracing is not possible here.
Outcome run_traced(const std::function<int()>& child, const Plan& plan);
// The same with a command, found in PATH. Exit status 127 when it cannot be started.
Outcome run_traced(const std::vector<std::string>& command, const Plan& plan);

// Counting starts at the start of the child. Called inside the child it starts again at zero: what came before is preparation.
// Outside run_traced it does nothing.
void start_counting();

}  // namespace somfs::tools
