// SPDX-License-Identifier: Apache-2.0
// recdev: a disk image that records what is done to it, and the images that power cuts would have left.
#include <cstdio>

#include <fcntl.h>
#include <unistd.h>

#include "cli/arguments.h"
#include "tests/tools/recorded_log.h"
#include "tests/tools/recording_device.h"

using namespace somfs;
using namespace somfs::tools;

namespace {

int refuse(const Error& e) {
  std::fprintf(stderr, "recdev: %s\n", e.line().c_str());
  return static_cast<int>(e.exit);
}

Status make_image(const std::string& path, std::uint64_t mib) {
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(mib << 20)) != 0) return fail_errno("cannot make the image", path);
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  cli::CommandLine app{"Records the writes and flushes of a disk, and rebuilds it as after a power cut."};
  app.require_subcommand(1);
  RecorderOptions options;
  std::uint64_t mib = 0;
  cli::Command run = app.add_subcommand("run", "serve MOUNTDIR/disk until it is unmounted; MOUNTDIR/entries counts the log");
  run.add_option("--image", options.image, "the image at the start; only read").required();
  run.add_option("--log", options.log).required();
  run.add_option("--size", mib, "make the image this many MiB large first");
  run.add_option("MOUNTDIR", options.mount).required();

  std::string base, log_path, out;
  Cut cut;
  cli::Command cutter = app.add_subcommand("cut", "write the image that a power cut after K entries leaves");
  cutter.add_option("--image", base).required();
  cutter.add_option("--log", log_path).required();
  cutter.add_option("--at", cut.at, "K").required();
  cutter.add_option("--seed", cut.seed, "chooses what survives; 0: nothing unflushed, 1: everything").required();
  cutter.add_option("--sector", cut.sector, "512 or 4096");
  cutter.add_option("--out", out).required();

  cli::Command list = app.add_subcommand("list", "print the log, one entry a line");
  list.add_option("--log", log_path).required();
  if (const auto code = app.parse_and_tell(argc, argv)) return *code;

  if (run.parsed()) {
    if (mib != 0)
      if (Status made = make_image(options.image, mib); !made) return refuse(made.error());
    Status done = run_recorder(options);
    return done ? 0 : refuse(done.error());
  }
  auto log = RecordedLog::open(log_path);
  if (!log) return refuse(log.error());
  if (list.parsed()) {
    static const char* const names[] = {"", "write", "flush", "zero"};
    std::size_t number = 0;
    for (const LogEntry& e : log->entries())
      std::printf("%zu %s %llu %llu\n", ++number, names[static_cast<int>(e.what)], static_cast<unsigned long long>(e.off),
                  static_cast<unsigned long long>(e.len));
    return 0;
  }
  auto result = cut_image(base, *log, cut, out);
  if (!result) return refuse(result.error());
  std::printf("durable=%llu kept=%llu torn=%llu dropped=%llu\n", static_cast<unsigned long long>(result->durable),
              static_cast<unsigned long long>(result->kept), static_cast<unsigned long long>(result->torn),
              static_cast<unsigned long long>(result->dropped));
  return 0;
}
