// SPDX-License-Identifier: Apache-2.0
#include "replicator/mirror_paths.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
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

// "ROW:MODE" each, hexadecimal and octal.
TreePaths::Modes TreePaths::modes_of(std::string_view text) {
  Modes modes;
  unsigned long long row;
  unsigned mode;
  for (std::size_t at = 0; at < text.size();) {
    const std::string one(text.substr(at, text.find(' ', at) - at));
    if (std::sscanf(one.c_str(), "%llx:%o", &row, &mode) == 2) modes[static_cast<Row>(row)] = mode & 07777;
    at += one.size() + 1;
  }
  return modes;
}

std::string TreePaths::text_of(const Modes& modes) {
  std::string text;
  char b[48];
  for (const auto& [row, mode] : modes) {
    std::snprintf(b, sizeof b, "%s%llx:%o", text.empty() ? "" : " ", static_cast<unsigned long long>(row), mode);
    text += b;
  }
  return text;
}

void TreePaths::enter_all(Modes before, std::function<Status(const Modes&)> keep) {
  enters_ = ::geteuid() != 0 || !before.empty();
  modes_ = std::move(before);
  keep_ = std::move(keep);
}

// Where that may not be, opening it tells why.
Status TreePaths::give_rights(Row row, Fd fd, std::uint32_t mode) {
  const auto before = modes_.find(row);
  if (((mode & S_IRWXU) == S_IRWXU && before == modes_.end()) || !fd) return {};
  if (std::any_of(entered_.begin(), entered_.end(), [&](const Entered& e) { return e.row == row; })) return {};
  if (before == modes_.end()) {
    modes_[row] = mode;
    SOMFS_TRY(keep_(modes_));
  }
  if (::chmod(proc_path(fd.get()).c_str(), mode | S_IRWXU) == 0) entered_.push_back({row, modes_[row], std::move(fd)});
  return {};
}

Result<SharedFd> TreePaths::entered(int dir, const std::string& name, const ObjectRow& row) {
  if (enters_) {
    SOMFS_TRY_ASSIGN(auto there, look(dir, name));
    if (there && there->id == row.inode && ((there->attr.mode & S_IRWXU) != S_IRWXU || modes_.contains(row.row))) {
      Fd fd = open_beneath(dir, name, O_PATH | O_DIRECTORY);
      auto opened = fd ? inode_of(fd.get()) : Result<Inode>(Inode{});
      if (opened && opened->id == row.inode) SOMFS_TRY(give_rights(row.row, std::move(fd), opened->attr.mode & 07777));
    }
  }
  return checked(dir, name, row, kDirectory);
}

void TreePaths::has_new_mode(Row row) {
  std::erase_if(entered_, [&](const Entered& e) { return e.row == row; });
  modes_.erase(row);
}

Status TreePaths::leave_all() {
  Status left;
  // What an earlier run widened, and this one had no reason to pass.
  cache_.clear();
  for (const auto& [row, mode] : Modes(modes_))
    if (auto there = directory(row); !there) left = pass_on(std::move(there).error());
  for (auto e = entered_.rbegin(); e != entered_.rend(); ++e) {
    Fd fd(::open(proc_path(e->fd.get()).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (::chmod(proc_path(e->fd.get()).c_str(), e->mode) != 0 || !fd || ::fsync(fd.get()) != 0) left = fail_errno("cannot put back the mode of a directory of the mirror");
  }
  entered_.clear();
  cache_.clear();
  return left;
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
      struct stat st;
      if (enters_ && ::fstat(tree_, &st) == 0) SOMFS_TRY(give_rights(r, Fd(::fcntl(tree_, F_DUPFD_CLOEXEC, 0)), st.st_mode & 07777));
      at = std::make_shared<Fd>(::openat(tree_, ".", kDirectory | O_CLOEXEC));
      if (!*at) return fail_errno("cannot open", "tree/");
      keep(r, at);
      break;
    }
    SOMFS_TRY_ASSIGN(auto object, db_->by_row(r));
    if (!object || object->kind != Kind::dir) return SharedFd();
    SOMFS_TRY_ASSIGN(at, entered(stage_, stage_name(r), *object));
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
    SOMFS_TRY_ASSIGN(auto next, entered(at->get(), it->second, it->first));
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
