// SPDX-License-Identifier: Apache-2.0
// The mirror reads its own tree, for a comparison with the source.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "common/bytes.h"
#include "common/printable.h"
#include "replicator/mirror_impl.h"
#include "replicator/mirror_inode.h"

namespace somfs::replicator {

namespace {

constexpr std::size_t kOpenDirectories = 64;   // of a deep path; the ones above are opened again on the way back

struct Level {
  Fd fd;
  ObjectId inode;
  std::vector<std::string> entries;            // last one first
};

Fd open_to_read(int dir, const std::string& name, int flags) {
  Fd fd = open_beneath(dir, name, O_RDONLY | O_NOATIME | flags);
  if (!fd && errno == EPERM) fd = open_beneath(dir, name, O_RDONLY | flags);
  return fd;
}

void trouble(InspectRow& row, const Error& e) {
  if (row.trouble.empty()) row.trouble = e.line().substr(0, 1024);
}

std::string read_link(int dir, const std::string& name) {
  std::string target(kMaxTarget + 1, '\0');
  ssize_t n = ::readlinkat(dir, name.c_str(), target.data(), target.size());
  target.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return target;
}

std::uint64_t hash_of(const Xattrs& x) {
  std::string bytes;
  ByteWriter w(bytes);
  put_xattrs(w, x);
  return hash64(bytes);
}

// Fills in what is read of one object; an opened directory is handed back.
Fd inspect_one(int dir, const std::string& name, CatalogDb& db, bool deep, InspectRow& row) {
  Fd fd;
  auto found = name == "." ? inode_of(dir) : inode_at(dir, name);
  if (!found) {
    row.attr.kind = Kind::file;
    trouble(row, found.error());
    return fd;
  }
  row.attr = found->attr;
  auto known = db.by_inode(found->id);
  if (known && *known) row.object = (*known)->id;
  Kind kind = found->attr.kind;
  if (kind == Kind::symlink) row.content = sha256(read_link(dir, name));
  bool reads = kind == Kind::file || kind == Kind::dir;
  fd = name == "." ? Fd(::openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
       : reads    ? open_to_read(dir, name, kind == Kind::dir ? O_DIRECTORY : O_NONBLOCK)
                  : open_beneath(dir, name, O_PATH);
  if (!fd) {
    trouble(row, fail_errno("cannot open", printable(name)).value());
    return fd;
  }
  if (kind == Kind::file) {
    if (deep) ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
    if (auto hash = hash_content(fd.get()); hash) {
      row.content = std::move(*hash);
    } else {
      trouble(row, hash.error());
    }
  }
  if (auto xattrs = read_xattrs(fd.get()); xattrs) {
    row.xattr_hash = hash_of(*xattrs);
  } else {
    trouble(row, xattrs.error());
  }
  return kind == Kind::dir ? std::move(fd) : Fd();
}

}  // namespace

Status Mirror::inspect(const std::function<Status(InspectRow)>& give, bool deep) {
  Impl& m = *impl_;
  SOMFS_TRY(m.usable());
  // Only what is on the disk can be dropped from memory.
  if (deep && ::syncfs(m.tree.get()) != 0) return fail_errno("cannot sync the mirror");
  std::vector<Level> levels;
  std::vector<std::string> path;
  auto enter = [&](int dir, const std::string& name) -> Status {
    InspectRow row;
    row.path = path;
    Fd fd = inspect_one(dir, name, *m.reader, deep, row);
    Level level;
    if (fd) {
      Status listed = each_entry(fd.get(), [&](const std::string& entry, std::uint64_t, unsigned char) -> Status {
        level.entries.push_back(entry);
        return {};
      });
      if (!listed) trouble(row, listed.error());
      std::sort(level.entries.begin(), level.entries.end(), std::greater<>());
    }
    SOMFS_TRY(give(std::move(row)));
    if (!fd) return {};
    SOMFS_TRY_ASSIGN(Inode inode, inode_of(fd.get()));
    level.inode = inode.id;
    level.fd = std::move(fd);
    levels.push_back(std::move(level));
    if (levels.size() > kOpenDirectories) levels[levels.size() - 1 - kOpenDirectories].fd.reset();
    return {};
  };
  SOMFS_TRY(enter(m.tree.get(), "."));
  while (!levels.empty()) {
    if (levels.back().entries.empty()) {
      Level done = std::move(levels.back());
      levels.pop_back();
      if (levels.empty()) break;
      path.pop_back();
      Level& up = levels.back();
      if (!up.fd) {
        up.fd = Fd(::openat(done.fd.get(), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!up.fd) return fail_errno("cannot go back up in the mirror's tree");
        SOMFS_TRY_ASSIGN(Inode inode, inode_of(up.fd.get()));
        if (inode.id != up.inode) return fail(Exit::temporary, "the mirror's tree changed while it was read");
      }
      continue;
    }
    std::string name = std::move(levels.back().entries.back());
    levels.back().entries.pop_back();
    std::size_t depth = levels.size();
    path.push_back(name);
    SOMFS_TRY(enter(levels.back().fd.get(), name));
    if (levels.size() == depth) path.pop_back();
  }
  return {};
}

}  // namespace somfs::replicator
