// SPDX-License-Identifier: Apache-2.0
// The protected directory before it is mounted over: opened and checked, with dead mounts of ours cleared away.
#pragma once

#include <string>
#include <vector>

#include "common/fd.h"
#include "common/result.h"

namespace somfs::fs {

struct BackingOptions {
  std::string dir;                     // the protected directory
  std::string mountpoint;              // empty: over `dir` itself
  std::vector<std::string> excludes;   // relative to `dir`: nested mounts are allowed there
  bool force = false;                  // mount although files beneath are open for writing
};

// A process that has a file beneath the directory open for writing: what it writes there bypasses the mount.
struct OpenBeneath {
  int pid = 0;
  std::string command;
  std::string path;
};

class Backing {
 public:
  // Refuses, with one line each: what is no directory, a live somfs mount, nested mounts that are not excluded, a volume that
  // holds somfs itself, and (without force) files open for writing.
  static Result<Backing> open(const BackingOptions& options);

  int fd() const { return fd_.get(); }
  const std::string& dir() const { return dir_; }                // absolute, without symbolic links
  const std::string& mountpoint() const { return mountpoint_; }  // likewise
  const std::vector<std::string>& excludes() const { return excludes_; }
  const std::vector<OpenBeneath>& open_beneath() const { return open_beneath_; }  // what force let pass
  bool replaced_dead_mount() const { return replaced_dead_mount_; }

 private:
  Backing() = default;

  Fd fd_;
  std::string dir_;
  std::string mountpoint_;
  std::vector<std::string> excludes_;
  std::vector<OpenBeneath> open_beneath_;
  bool replaced_dead_mount_ = false;
};

// Files beneath `dir` that any process but this one has open for writing or mapped shared and writable.
std::vector<OpenBeneath> open_for_writing_beneath(const std::string& dir);

}  // namespace somfs::fs
