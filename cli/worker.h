// SPDX-License-Identifier: Apache-2.0
// The process that faces one caller of the mirror daemon. It has the connection, one end of a socket pair to the daemon, and nothing else:
// no user, no files, no key but those of this connection, and these only once the daemon knows who calls. It opens what the caller seals
// and hands it on as plain frames, which the daemon checks as it does those that come over ssh.
#pragma once

#include <sys/types.h>

#include <string>

#include "common/fd.h"
#include "common/result.h"
#include "replicator/pipeline.h"

namespace somfs::cli {

struct WorkerSettings {
  uid_t uid = 65534;
  gid_t gid = 65534;
  replicator::PipelineMode pipeline = replicator::PipelineMode::automatic;   // of what the caller sends
  unsigned threads = 0;
};

class Worker {
 public:
  static constexpr const char* kWord = "--worker";   // the program's first argument then

  // `caller`, `daemon`: sockets, of which it gets its own. `root`: an empty directory. `name`: of the caller, for lists of processes.
  static Result<Worker> start(const Fd& caller, const Fd& daemon, const Fd& root, const WorkerSettings& settings, const std::string& name);
  Worker(Worker&&) = default;
  ~Worker();                            // it is ended first where finish() was not called

  // Waits for it to end by itself, as long as it may take to send what it has; less when it has `talked` to nobody, or `interrupt` is
  // readable. Says how it ended where that is not as it should, and what it said last: bytes of the worker's, printable.
  std::string finish(bool talked, int interrupt);

 private:
  Worker(pid_t pid, Fd process, Fd words) : pid_(pid), process_(std::move(process)), words_(std::move(words)) {}
  pid_t pid_;
  Fd process_, words_;
};

// What such a process does, from its start to its end. The exit code of the program.
int worker_main(int argc, char** argv);

}  // namespace somfs::cli
