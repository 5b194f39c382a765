// SPDX-License-Identifier: Apache-2.0
// SIGINT, SIGTERM and SIGHUP while a long verb runs: the work is asked to stop, and what it may be waiting for is closed.
#pragma once

#include <functional>
#include <thread>

#include "common/fd.h"

namespace somfs::cli {

class Interrupt {
 public:
  // Make it before other threads are started: the signals are blocked in this thread and those it starts from then on.
  explicit Interrupt(std::function<void()> stop);
  ~Interrupt();

 private:
  const Fd end_;   // readable when the thread is to leave
  std::thread thread_;
};

}  // namespace somfs::cli
