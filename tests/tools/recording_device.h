// SPDX-License-Identifier: Apache-2.0
// A file that looks like a raw disk image and records every write and flush in order (recorded_log.h). A loop device over it
// passes a file system's flushes on as fsync, so the log is what a disk with a volatile cache would have seen.
//
// The mount shows two files: `disk`, the image, and `entries`, which reads as the number of log entries so far: read it when a
// call has returned to know from which cut on its effect must be there.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "common/result.h"

namespace somfs::tools {

struct RecorderOptions {
  std::string image;  // never changed: what is written lives in memory and in the log
  std::string log;    // made anew
  std::string mount;  // an empty directory
};

// Mounts, serves until it is unmounted or gets SIGTERM or SIGINT, and unmounts.
Status run_recorder(const RecorderOptions& options);

// A fresh file system on a loop device on a recording device, mounted; all of it gone with the object, whatever happened.
// Needs root, loop devices and /dev/fuse. For one thread.
class RecordedVolume {
 public:
  // `make` is the whole mkfs command but for the image, e.g. {"mkfs.ext4", "-q"}; `scratch` an existing directory for the image
  // (base.img), the log (log) and the mounts.
  static Result<RecordedVolume> start(const std::string& scratch, const std::vector<std::string>& make, std::uint64_t bytes);
  RecordedVolume(RecordedVolume&& other) noexcept;
  RecordedVolume& operator=(RecordedVolume&&) = delete;
  ~RecordedVolume();

  std::string dir() const { return scratch_ + "/volume"; }  // the mounted file system
  std::string image() const { return scratch_ + "/base.img"; }
  std::string log() const { return scratch_ + "/log"; }
  std::uint64_t entries() const;  // recorded so far
  void stop();                    // unmounts and detaches; the log is whole then

 private:
  explicit RecordedVolume(std::string scratch) : scratch_(std::move(scratch)) {}
  std::string scratch_;
  pid_t recorder_ = -1;
};

// Mounts an image (a cut one, say) on a loop device for as long as the object lives.
class MountedImage {
 public:
  static Result<MountedImage> mount(const std::string& image, const std::string& dir, const std::string& options = {});
  MountedImage(MountedImage&& other) noexcept : dir_(std::exchange(other.dir_, {})) {}
  MountedImage& operator=(MountedImage&&) = delete;
  ~MountedImage();

 private:
  explicit MountedImage(std::string dir) : dir_(std::move(dir)) {}
  std::string dir_;
};

// Runs a command with its output thrown away; its exit status, 128 + signal, or 127 when it could not be started.
int run_quietly(const std::vector<std::string>& command);

}  // namespace somfs::tools
