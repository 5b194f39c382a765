// SPDX-License-Identifier: Apache-2.0
// syscall_crash: a command killed, or failed, at its Nth system call. The last line on standard error says what came about.
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include <sys/wait.h>

#include "cli/arguments.h"
#include "tests/tools/syscall_crash.h"

int main(int argc, char** argv) {
  using namespace somfs::tools;
  somfs::cli::CommandLine app{"Runs a command and kills it, or lets a call fail, at its Nth system call; without either it only counts."};
  Plan plan;
  bool all = false;
  std::vector<std::string> command;
  app.add_option("--kill", plan.kill_at, "kill everything at this call, before it takes effect").positive();
  app.add_option("--fail", plan.fail_at, "let this call fail").positive();
  app.add_option("--errno", plan.error, "with this error number (5 is EIO, 28 ENOSPC)").range(1, 4095);
  app.add_flag("--all", all, "count every call, not only those that change a file system");
  app.add_option("COMMAND", command, "the command and its arguments, after --").required();
  if (const auto code = app.parse_and_tell(argc, argv)) return *code;
  if (all) plan.which = Calls::all;
  try {
    Outcome o = run_traced(command, plan);
    std::fprintf(stderr, "calls=%ld killed=%d call=%s\n", o.count, o.killed ? 1 : 0, o.call.c_str());
    return WIFEXITED(o.status) ? WEXITSTATUS(o.status) : 128 + WTERMSIG(o.status);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "syscall_crash: %s\n", e.what());
    return 75;
  }
}
