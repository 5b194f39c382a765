// SPDX-License-Identifier: Apache-2.0
// A scratch directory under $TMPDIR or /tmp that is gone, with everything in it, when the object is.
#pragma once

#include <string>

#include "common/fd.h"

namespace somfs::tools {

class Scratch {
 public:
  Scratch();  // throws std::runtime_error
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }

 private:
  std::string path_;
  Fd fd_;
};

// Removes everything in a directory; never follows a symbolic link, copes with paths beyond PATH_MAX and unreadable modes.
// Returns 0 or the first errno.
int empty_directory(int dirfd);

}  // namespace somfs::tools
