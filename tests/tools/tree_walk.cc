// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/tree_walk.h"

#include <algorithm>
#include <cerrno>
#include <memory>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

namespace somfs::tools {
namespace {

struct CloseDir {
  void operator()(DIR* d) const { closedir(d); }
};

}  // namespace

Result<std::vector<std::string>> names_in(int dirfd) {
  int own = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  std::unique_ptr<DIR, CloseDir> dir(own < 0 ? nullptr : fdopendir(own));
  if (!dir) return fail_errno("cannot open a directory");
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    dirent* e = readdir(dir.get());
    if (e == nullptr && errno != 0) return fail_errno("cannot read a directory");
    if (e == nullptr) break;
    std::string name = e->d_name;
    if (name != "." && name != "..") names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace somfs::tools
