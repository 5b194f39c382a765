// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/scratch.h"

#include <cerrno>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/tools/tree_walk.h"

namespace somfs::tools {

// Walks down one level at a time and up by "..", so that depth costs neither descriptors nor stack. A directory is removed on the
// way back; one that will not go makes the walk end.
int empty_directory(int dirfd) {
  Fd here(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!here) return errno;
  std::vector<std::string> below;
  for (;;) {
    std::string next;
    auto names = names_in(here.get());
    if (!names) return names.error().sys;
    for (const std::string& name : *names) {
      if (unlinkat(here.get(), name.c_str(), 0) == 0 || unlinkat(here.get(), name.c_str(), AT_REMOVEDIR) == 0) continue;
      if (errno != ENOTEMPTY && errno != EEXIST) return errno;
      next = name;
      break;
    }
    if (!next.empty()) {
      fchmodat(here.get(), next.c_str(), 0700, 0);
      Fd child(openat(here.get(), next.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!child) return errno;
      below.push_back(next);
      here = std::move(child);
      continue;
    }
    if (below.empty()) return 0;
    Fd up(openat(here.get(), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!up) return errno;
    if (unlinkat(up.get(), below.back().c_str(), AT_REMOVEDIR) != 0) return errno;
    below.pop_back();
    here = std::move(up);
  }
}

Scratch::Scratch() {
  const char* base = std::getenv("TMPDIR");
  path_ = std::string(base != nullptr && *base != 0 ? base : "/tmp") + "/somfs-test-XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("cannot make a scratch directory at " + path_);
  fd_.reset(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd_) throw std::runtime_error("cannot open " + path_);
}

Scratch::~Scratch() {
  empty_directory(fd_.get());
  rmdir(path_.c_str());
}

}  // namespace somfs::tools
