// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/sync_calls.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>
#include <optional>
#include <utility>

namespace somfs::test {
namespace {

std::mutex mutex;
std::function<void(int, Sync)> listener;
std::optional<std::pair<Sync, int>> due;

int call(long number, int fd, Sync what) {
  {
    std::lock_guard lock(mutex);
    if (due && due->first == what) {
      errno = due->second;
      due.reset();
      return -1;
    }
  }
  const int rc = static_cast<int>(::syscall(number, fd));
  if (rc == 0) {
    std::lock_guard lock(mutex);
    if (listener) listener(fd, what);
  }
  return rc;
}

}  // namespace

void on_sync(std::function<void(int, Sync)> seen) {
  std::lock_guard lock(mutex);
  listener = std::move(seen);
}

void fail_next(Sync what, int error) {
  std::lock_guard lock(mutex);
  due = {what, error};
}

bool is_due() {
  std::lock_guard lock(mutex);
  return due.has_value();
}

}  // namespace somfs::test

extern "C" {
int fsync(int fd) { return somfs::test::call(SYS_fsync, fd, somfs::test::Sync::file); }
int fdatasync(int fd) { return somfs::test::call(SYS_fdatasync, fd, somfs::test::Sync::file); }
int syncfs(int fd) noexcept { return somfs::test::call(SYS_syncfs, fd, somfs::test::Sync::file_system); }
}
