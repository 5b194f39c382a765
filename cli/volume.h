// SPDX-License-Identifier: Apache-2.0
// One protected directory with all its parts: backing, journal, store, gate, coordinator, writers, mount, control socket.
// This is where the rooms meet; what each does is written there.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/config.h"
#include "common/result.h"

namespace somfs::cli {

struct VolumeOptions {
  std::string dir;             // the protected directory, absolute
  std::string mountpoint;      // absolute; dir itself when mounted over it
  Config config;
  bool force = false;          // mount although files beneath are in use
  bool writeback = false;      // opt-in: faster small writes, weaker snapshots
  bool passthrough = false;    // opt-in: faster reading, opens for reading and writing may be refused
  bool read_only = false;
  bool no_atime = false;
  bool no_dir_atime = false;
  bool allow_other = true;
  std::vector<std::string> mount_options;   // the kernel's: nosuid, sync …

  // What these options take away, in one line; empty: nothing.
  const char* weaker_promise() const;
};

class Volume {
 public:
  // Everything up to the live mount. On failure nothing is left behind.
  static Result<std::unique_ptr<Volume>> open(VolumeOptions options);
  ~Volume();
  // Serves until it is unmounted or stop() is called; then flushes and marks clean.
  Status run();
  // What is not as it should be and was not refused for: a line each, without end.
  std::vector<std::string> warnings() const;
  void stop();                 // safe from any thread and from a signal-handling thread

 private:
  struct Impl;
  explicit Volume(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace somfs::cli
