// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/printable.h"
#include "snapshot/gap_scan.h"

namespace somfs::snapshot {
namespace {

constexpr int kDirFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
constexpr std::string_view kOwnDirectory = ".somfs";

bool vanished(int e) { return e == ENOENT || e == ESTALE || e == ENOTDIR || e == ELOOP; }

}  // namespace

TreeWalk::TreeWalk(int root_fd, WalkLimits limits, Visit visit, Moved moved)
    : root_fd_(root_fd), limits_(std::move(limits)), visit_(std::move(visit)), moved_(std::move(moved)) {}

std::string TreeWalk::path(std::size_t depth) const {
  std::string p;
  for (std::size_t i = 1; i < depth; ++i) p += levels_[i].name + "/";
  return p;
}

std::string TreeWalk::path_of(const WalkEntry& entry) const { return path(levels_.size()) + entry.name; }

Status TreeWalk::list(Level& level) {
  const int copy = ::openat(level.fd.get(), ".", kDirFlags);
  DIR* d = copy < 0 ? nullptr : ::fdopendir(copy);
  if (d == nullptr) {
    const int e = errno;
    if (copy >= 0) ::close(copy);
    return fail_errno("cannot list", printable(path(levels_.size())), e);
  }
  const std::string here = path(levels_.size());
  errno = 0;
  while (const dirent* e = going_ ? ::readdir(d) : nullptr) {
    const std::string name = e->d_name;
    if (name == "." || name == ".." || (levels_.size() == 1 && name == kOwnDirectory)) continue;
    if (!limits_.excluded.empty() && limits_.excluded.contains(here + name)) continue;
    auto inode = inode_at(level.fd.get(), name);
    if (inode && inode->dev == dev_) {
      going_ = visit_({level.fd.get(), name, *inode});
      if (inode->attr.kind == Kind::dir) level.dirs.push_back(name);
    } else if (!inode && !vanished(inode.error().sys)) {
      ::closedir(d);
      return fail_errno("cannot look at", printable(here + name), inode.error().sys);
    }
    errno = 0;
  }
  const int e = errno;
  ::closedir(d);
  if (going_ && e != 0) return fail_errno("cannot list", printable(here), e);
  return {};
}

// By the names walked down, one at a time: a path may be longer than PATH_MAX.
Result<Fd> TreeWalk::reopen(std::size_t depth) const {
  Fd fd(::openat(root_fd_, ".", kDirFlags));
  for (std::size_t i = 1; fd && i <= depth; ++i) fd.reset(::openat(fd.get(), levels_[i].name.c_str(), kDirFlags));
  if (!fd) return fail_errno("cannot return to", printable(path(depth + 1)));
  return fd;
}

Status TreeWalk::run() {
  SOMFS_TRY_ASSIGN(const Inode root, inode_of(root_fd_));
  dev_ = root.dev;
  levels_.clear();
  levels_.push_back({Fd(::openat(root_fd_, ".", kDirFlags)), root.id, {}, {}});
  if (!levels_[0].fd) return fail_errno("cannot open", "the protected directory");
  going_ = visit_({levels_[0].fd.get(), ".", root});
  SOMFS_TRY(list(levels_[0]));
  while (going_ && !levels_.empty()) {
    const std::size_t depth = levels_.size() - 1;
    if (levels_[depth].dirs.empty()) {
      levels_.pop_back();
      continue;
    }
    if (!levels_[depth].fd) {
      auto again = reopen(depth);
      if (!again && !vanished(again.error().sys)) return pass_on(again.error());
      auto inode = again ? inode_of(again->get()) : Result<Inode>(pass_on(again.error()));
      if (!inode || inode->id != levels_[depth].id) {
        moved_(levels_[depth].id);
        levels_.pop_back();
        continue;
      }
      levels_[depth].fd = std::move(*again);
    }
    const std::string name = std::move(levels_[depth].dirs.back());
    levels_[depth].dirs.pop_back();
    Fd fd(::openat(levels_[depth].fd.get(), name.c_str(), kDirFlags));
    if (!fd && vanished(errno)) continue;
    if (!fd) return fail_errno("cannot open", printable(path(depth + 1) + name));
    auto inode = inode_of(fd.get());
    if (!inode) return pass_on(inode.error());
    if (inode->dev != dev_) continue;  // mounted upon
    if (depth + 1 >= limits_.open_dirs) levels_[depth + 1 - limits_.open_dirs].fd.reset();
    levels_.push_back({std::move(fd), inode->id, name, {}});
    SOMFS_TRY(list(levels_.back()));
  }
  return {};
}

}  // namespace somfs::snapshot
