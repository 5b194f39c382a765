// SPDX-License-Identifier: Apache-2.0
// Takes from a process what it does not need to talk over descriptors it has: user, capabilities, files, programs, the rest of the system
// calls. There is no way back. Linux.
#pragma once

#include <sys/types.h>

#include "common/result.h"

namespace somfs::cli {

struct Confinement {
  uid_t uid = 65534;   // of a process that is root; any other keeps its own
  gid_t gid = 65534;
  int root = -1;       // root's: an empty directory to be the file system's root
};

// For a process of one thread. Afterwards its threads may use open sockets and pipes, memory and more threads. Any other system call
// ends the process with SIGSYS, where the kernel and the processor have such filters (call_filter_available()).
Status confine(const Confinement& limits);
// From now on no thread is started.
Status no_more_threads();
bool call_filter_available();

}  // namespace somfs::cli
