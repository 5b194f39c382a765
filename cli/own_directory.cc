// SPDX-License-Identifier: Apache-2.0
#include "cli/own_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace somfs::cli {

Result<Fd> own_directory(int dirfd, const char* name) {
  const bool made = ::mkdirat(dirfd, name, 0700) == 0;
  if (!made && errno != EEXIST) return fail_errno("cannot make somfs's own directory", name);
  if (made && ::fsync(dirfd) != 0) return fail_errno("cannot sync the directory of", name);
  Fd fd(::openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open somfs's own directory", name, errno, "move it out of the way if it is not somfs's");
  struct stat st{};
  if (::fstat(fd.get(), &st) != 0) return fail_errno("cannot stat", name);
  if (st.st_uid != ::geteuid()) return fail(Exit::not_allowed, "somfs's own directory belongs to another user:", name, "uid " + std::to_string(st.st_uid));
  return fd;
}

}  // namespace somfs::cli
