// SPDX-License-Identifier: Apache-2.0
#include "replicator/mirror_paths.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>

#include "common/printable.h"

namespace somfs::replicator {

namespace {

constexpr std::size_t kCachedDirectories = 256;
constexpr int kDirectory = O_RDONLY | O_DIRECTORY;

}  // namespace

Fd open_beneath(int dir, const std::string& name, int flags) {
  struct open_how how = {};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC | O_NOFOLLOW);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  long fd;
  do {
    fd = ::syscall(SYS_openat2, dir, name.c_str(), &how, sizeof how);
  } while (fd < 0 && (errno == EINTR || errno == EAGAIN));
  return Fd(static_cast<int>(fd));
}

Result<std::optional<Inode>> look(int dir, const std::string& name) {
  auto found = inode_at(dir, name);
  if (found) return std::optional<Inode>(std::move(*found));
  if (found.error().sys == ENOENT) return std::optional<Inode>();
  found.error().on = printable(name);
  return pass_on(std::move(found).error());
}

std::string stage_name(Row row) {
  char b[24];
  std::snprintf(b, sizeof b, "%llx", static_cast<unsigned long long>(row));
  return b;
}

void TreePaths::keep(Row row, SharedFd fd) {
  if (cache_.size() >= kCachedDirectories) cache_.clear();
  cache_[row] = std::move(fd);
}

Result<SharedFd> TreePaths::checked(int dir, const std::string& name, const ObjectRow& row, int flags) {
  SOMFS_TRY_ASSIGN(auto there, look(dir, name));
  if (!there || there->id != row.inode) return SharedFd();
  auto fd = std::make_shared<Fd>(open_beneath(dir, name, flags));
  if (!*fd) {
    if (errno == ENOENT || errno == ELOOP || errno == ENOTDIR) return SharedFd();
    return fail_errno("cannot open in the mirror", printable(name));
  }
  SOMFS_TRY_ASSIGN(Inode opened, inode_of(fd->get()));
  if (opened.id != row.inode) return SharedFd();
  return fd;
}

Result<SharedFd> TreePaths::directory(Row row) {
  // From the wanted directory upwards to one that is at hand, then down again: no recursion, trees may be deep.
  std::vector<std::pair<ObjectRow, std::string>> below;
  SharedFd at;
  Row r = row;
  for (std::size_t depth = 0;; ++depth) {
    if (auto it = cache_.find(r); it != cache_.end()) {
      at = it->second;
      break;
    }
    if (r == kRootRow) {
      at = std::make_shared<Fd>(::openat(tree_, ".", kDirectory | O_CLOEXEC));
      if (!*at) return fail_errno("cannot open", "tree/");
      keep(r, at);
      break;
    }
    SOMFS_TRY_ASSIGN(auto object, db_->by_row(r));
    if (!object || object->kind != Kind::dir) return SharedFd();
    SOMFS_TRY_ASSIGN(at, checked(stage_, stage_name(r), *object, kDirectory));
    if (at) {
      keep(r, at);
      break;
    }
    SOMFS_TRY_ASSIGN(auto names, db_->names_of(r));
    if (names.empty() || depth > (1u << 20)) return SharedFd();
    below.emplace_back(*object, names[0].second);
    r = names[0].first;
  }
  for (auto it = below.rbegin(); it != below.rend(); ++it) {
    SOMFS_TRY_ASSIGN(auto next, checked(at->get(), it->second, it->first, kDirectory));
    if (!next) return SharedFd();
    at = next;
    keep(it->first.row, at);
  }
  return at;
}

Result<SharedFd> TreePaths::open(const ObjectRow& row, int flags) {
  if (row.row == kRootRow) return directory(kRootRow);
  SOMFS_TRY_ASSIGN(auto staged, checked(stage_, stage_name(row.row), row, flags));
  if (staged) return staged;
  SOMFS_TRY_ASSIGN(auto names, db_->names_of(row.row));
  for (const auto& [parent, name] : names) {
    SOMFS_TRY_ASSIGN(auto dir, directory(parent));
    if (!dir) continue;
    SOMFS_TRY_ASSIGN(auto fd, checked(dir->get(), name, row, flags));
    if (fd) return fd;
  }
  return SharedFd();
}

}  // namespace somfs::replicator
