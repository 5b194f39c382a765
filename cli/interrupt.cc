// SPDX-License-Identifier: Apache-2.0
#include "cli/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <utility>

namespace somfs::cli {
namespace {

sigset_t stopping_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int s : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&set, s);
  return set;
}

}  // namespace

Interrupt::Interrupt(std::function<void()> stop) : end_(::eventfd(0, EFD_CLOEXEC)) {
  sigset_t set = stopping_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  Fd signals(::signalfd(-1, &set, SFD_CLOEXEC));
  thread_ = std::thread([stop = std::move(stop), signals = std::move(signals), end = end_.get()] {
    pollfd p[2] = {{signals.get(), POLLIN, 0}, {end, POLLIN, 0}};
    while (::poll(p, 2, -1) < 0 && errno == EINTR) {
    }
    // Taken, so that it does not end the program once signals are let through again.
    signalfd_siginfo taken;
    if (p[0].revents != 0 && ::read(signals.get(), &taken, sizeof taken) > 0) stop();
  });
}

Interrupt::~Interrupt() {
  const std::uint64_t one = 1;
  [[maybe_unused]] ssize_t n = ::write(end_.get(), &one, sizeof one);
  thread_.join();
  sigset_t set = stopping_signals();
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace somfs::cli
