// SPDX-License-Identifier: Apache-2.0
#include "cli/interrupt.h"

#include <csignal>
#include <ctime>

namespace somfs::cli {
namespace {

sigset_t stopping_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int s : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set, s);
  return set;
}

}  // namespace

Interrupt::Interrupt(std::function<void()> stop) {
  sigset_t set = stopping_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::jthread([stop = std::move(stop)](const std::stop_token& end) {
    sigset_t wanted = stopping_signals();
    const timespec tick{0, 100'000'000};
    while (!end.stop_requested())
      if (::sigtimedwait(&wanted, nullptr, &tick) > 0) {
        stop();
        return;
      }
  });
}

Interrupt::~Interrupt() {
  thread_.request_stop();
  thread_.join();
  sigset_t set = stopping_signals();
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace somfs::cli
