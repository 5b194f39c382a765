// SPDX-License-Identifier: Apache-2.0
#include "snapshot/gap_scan.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"

namespace somfs::snapshot {
namespace {

// The kernel stamps ctimes with a clock that ticks in up to 10 ms.
constexpr std::int64_t kTick = 20'000'000;

std::int64_t ctime_ns(const Inode& inode) { return inode.attr.ctime.sec * 1'000'000'000 + inode.attr.ctime.nsec; }

}  // namespace

const char* name_of(GapScan::State state) {
  switch (state) {
    case GapScan::State::running: return "running";
    case GapScan::State::done: return "done";
    case GapScan::State::failed: return "failed";
    case GapScan::State::cancelled: return "cancelled";
  }
  return "";
}

Result<std::optional<std::string>> first_change_beneath(int root_fd, const Journal& journal, const GapScanOptions& options) {
  std::optional<std::string> found;
  TreeWalk* here = nullptr;
  TreeWalk walk(
      root_fd, options.limits,
      [&](const WalkEntry& e) {
        if (ctime_ns(e.inode) <= options.trusted_until_ns + kTick || journal.explains(e.inode.id)) return true;
        found = here->path_of(e);
        return false;
      },
      [](const ObjectId&) {});
  here = &walk;
  SOMFS_TRY(walk.run());
  return found;
}

GapScan::GapScan(int root_fd, Journal& journal, GapScanOptions options)
    : root_(::fcntl(root_fd, F_DUPFD_CLOEXEC, 3)), journal_(journal), options_(std::move(options)),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

GapScan::~GapScan() = default;

GapScan::Progress GapScan::progress() const {
  Lock l(mu_);
  return progress_;
}

GapScan::Progress GapScan::wait() {
  Lock l(mu_);
  while (progress_.state == State::running) ended_.wait(mu_);
  return progress_;
}

void GapScan::run(const std::stop_token& stop) {
  // Idle class of the I/O scheduler and the lowest share of the processor; where refused, it runs as any other thread.
  constexpr int kIoprioWhoProcess = 1, kIdleClass = 3 << 13;
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), 19);
  ::syscall(SYS_ioprio_set, kIoprioWhoProcess, 0, kIdleClass);

  const std::int64_t from = options_.trusted_until_ns - options_.margin_ns;
  auto visit = [&](const WalkEntry& e) {
    const bool suspect = ctime_ns(e.inode) >= from;
    if (suspect) {
      Fd fd(::openat(e.dir_fd, e.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
      const Handle handle = fd ? handle_of(fd.get()) : Handle{};
      journal_.found(e.inode.id, &handle, false);
    }
    Lock l(mu_);
    ++progress_.objects;
    progress_.directories += e.inode.attr.kind == Kind::dir;
    progress_.suspects += suspect;
    return !stop.stop_requested();
  };
  TreeWalk walk(root_.get(), options_.limits, visit, [&](const ObjectId& dir) { journal_.found(dir, nullptr, true); });
  Status status = walk.run();
  const bool cancelled = stop.stop_requested();
  if (status && !cancelled) status = journal_.finish_gap_scan();
  if (!status) log::warning("the gap scan failed: {}", status.error().line());
  Lock l(mu_);
  progress_.state = !status ? State::failed : cancelled ? State::cancelled : State::done;
  if (!status) progress_.reason = status.error().line();
  ended_.notify_all();
}

}  // namespace somfs::snapshot
