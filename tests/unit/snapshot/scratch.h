// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "common/fd.h"

namespace somfs::snapshot::test {

// A directory of a test's own, gone with it.
class Scratch {
 public:
  Scratch() {
    const char* base = ::getenv("TMPDIR");
    path_ = std::string(base != nullptr ? base : "/tmp") + "/somfs-test-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) ::abort();
    fd_.reset(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~Scratch() {
    ::nftw(path_.c_str(), [](const char* p, const struct stat*, int, struct FTW*) { return ::remove(p); }, 16, FTW_DEPTH | FTW_PHYS);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  Fd fd_;
};

}  // namespace somfs::snapshot::test
