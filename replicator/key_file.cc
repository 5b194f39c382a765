// SPDX-License-Identifier: Apache-2.0
#include "replicator/key_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/printable.h"
#include "replicator/keys.h"

namespace somfs::replicator {
namespace {

constexpr std::size_t kMost = 256;   // bytes of a key file

std::string parent_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

Status write_key(int fd, const Secret& key) {
  std::string text = private_text(key);
  // The umask may have taken away from the mode, never added.
  int error = ::fchmod(fd, 0600) != 0 ? errno : write_all(fd, text);
  wipe(text);
  if (error == 0) error = write_all(fd, "\n");
  if (error == 0 && ::fsync(fd) != 0) error = errno;
  if (error != 0) return fail_errno("cannot write the key", {}, error);
  return {};
}

Status sync_parent(int dirfd, const std::string& path) {
  Fd parent(::openat(dirfd, parent_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent || ::fsync(parent.get()) != 0) return fail_errno("cannot sync the directory of the key", printable(path));
  return {};
}

}  // namespace

Status create_key_file(int dirfd, const std::string& path, const Secret& key) {
  Fd file(::openat(dirfd, path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file && errno == EEXIST)
    return fail(Exit::not_allowed, "cannot make a key", printable(path), "the file is there already", "keep it, or move it away first");
  if (!file) return fail_errno("cannot make a key", printable(path));
  Status made = write_key(file.get(), key);
  if (made) made = sync_parent(dirfd, path);
  if (!made) ::unlinkat(dirfd, path.c_str(), 0);
  return made;
}

Result<Secret> read_key_file(int dirfd, const std::string& path) {
  SOMFS_TRY_ASSIGN(std::string text, read_own_file(dirfd, path, kMost, OthersMay::nothing));
  std::string_view line = text;
  if (line.ends_with('\n')) line.remove_suffix(1);
  auto key = parse_private(line);
  wipe(text);
  if (!key) key.error().on = printable(path);
  return key;
}

Result<std::string> read_own_file(int dirfd, const std::string& path, std::size_t most, OthersMay others) {
  auto refused = [&](const char* why, const char* to_do) {
    return fail(Exit::not_allowed, "refusing a file", printable(path), why, to_do);
  };
  Fd file(::openat(dirfd, path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!file && errno == ELOOP) return refused("it is a symbolic link", "name the file itself");
  if (!file) return fail_errno("cannot open", printable(path));
  struct stat s;
  if (::fstat(file.get(), &s) != 0) return fail_errno("cannot stat", printable(path));
  if (!S_ISREG(s.st_mode)) return refused("it is not a regular file", "");
  if (s.st_uid != ::geteuid()) return refused("it belongs to somebody else", "");
  if (others == OthersMay::nothing && (s.st_mode & 077) != 0)
    return refused("others may read or write it", "chmod 600, and think about who may have read it");
  if ((s.st_mode & 022) != 0) return refused("others may write it", "chmod go-w, and look at what it says");
  std::string text(most + 1, '\0');
  std::size_t got = 0;
  const int error = read_all(file.get(), text.data(), text.size(), &got);
  text.resize(got);
  if (error == 0 && got <= most) return text;
  wipe(text);
  if (error != 0) return fail_errno("cannot read", printable(path), error);
  return fail(Exit::configuration, "cannot use a file", printable(path), "it is too large");
}

}  // namespace somfs::replicator
