// SPDX-License-Identifier: Apache-2.0
#include "replicator/mirror_inode.h"

#include <cryptopp/sha.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "common/log.h"
#include "common/printable.h"
#include "replicator/mirror_paths.h"

namespace somfs::replicator {

namespace {

constexpr std::uint64_t kAnySize = 4ull << 30;   // every file system worth a mirror takes a file of that size

// What the system puts on an inode by itself and no source has to state.
bool of_the_system(const std::string& name) { return name == "security.selinux"; }

}  // namespace

Status set_owner_and_mode(int fd, const Attr& a, const Attr* now) {
  struct stat st{};
  if (now != nullptr) {
    st.st_uid = now->uid;
    st.st_gid = now->gid;
    st.st_mode = now->mode;
  } else if (::fstat(fd, &st) != 0) {
    return fail_errno("cannot stat a file of the mirror");
  }
  std::uint32_t mode = a.mode;
  if ((st.st_uid != a.uid || st.st_gid != a.gid)) {
    if (::fchownat(fd, "", a.uid, a.gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0) {
      st.st_mode &= ~static_cast<mode_t>(S_ISUID | S_ISGID);   // a change of owner may have cleared them
    } else if (errno != EPERM || ::geteuid() == 0) {
      return fail_errno("cannot set the owner of a file of the mirror");
    } else {
      mode &= ~06000u;   // not to be run as somebody it does not belong to
    }
  }
  if (a.kind != Kind::symlink && (st.st_mode & 07777) != mode && ::chmod(proc_path(fd).c_str(), mode) != 0)
    return fail_errno("cannot set the mode of a file of the mirror");
  return {};
}

Status set_xattrs(int fd, const Xattrs& wanted, bool fresh) {
  if (fresh && wanted.empty()) return {};
  std::string path = proc_path(fd);
  std::vector<std::string> names;  // those that cannot be read, and then all
  SOMFS_TRY_ASSIGN(Xattrs have, read_xattrs(fd, &names));
  for (const auto& [name, value] : have) names.push_back(name);
  for (const std::string& name : names) {
    bool wants = std::any_of(wanted.begin(), wanted.end(), [&](const auto& w) { return w.first == name; });
    if (!wants && !of_the_system(name) && ::removexattr(path.c_str(), name.c_str()) != 0 && errno != ENODATA)
      return fail_errno("cannot remove the extended attribute", printable(name));
  }
  for (const auto& w : wanted) {
    if (std::find(have.begin(), have.end(), w) != have.end() || of_the_system(w.first)) continue;
    if (::setxattr(path.c_str(), w.first.c_str(), w.second.data(), w.second.size(), 0) != 0)
      return fail_errno("cannot set the extended attribute", printable(w.first));
  }
  return {};
}

Status set_mtime(int fd, const Time& t) {
  struct timespec times[2] = {{0, UTIME_OMIT}, {t.sec, static_cast<long>(t.nsec)}};
  if (::utimensat(fd, "", times, AT_EMPTY_PATH) == 0) return {};
  // Kernels before 5.8 know no AT_EMPTY_PATH here.
  if (errno != EINVAL || ::utimensat(AT_FDCWD, proc_path(fd).c_str(), times, 0) != 0)
    return fail_errno("cannot set the time of a file of the mirror");
  return {};
}

Status set_attributes(int fd, const ObjectRecord& r, bool fresh, const Attr* now) {
  const Attr& owner_first = r.attr;
  if (r.flags & (kAttr | kNew | kRewritten)) SOMFS_TRY(set_owner_and_mode(fd, owner_first, now));
  if (r.flags & (kXattr | kNew | kRewritten)) {
    SOMFS_TRY(set_xattrs(fd, r.xattrs, fresh));
    bool acl = std::any_of(r.xattrs.begin(), r.xattrs.end(), [](const auto& x) { return x.first == "system.posix_acl_access"; });
    if ((r.flags & (kAttr | kNew | kRewritten)) && (acl || !fresh)) SOMFS_TRY(set_owner_and_mode(fd, owner_first));
  }
  if (r.flags & (kAttr | kNew | kRewritten)) SOMFS_TRY(set_mtime(fd, r.attr.mtime));
  return {};
}

Status would_take(int stage, const ObjectRecord& r) {
  const Kind kind = r.attr.kind;
  const bool large = kind == Kind::file && (r.flags & kSize) != 0 && r.attr.size > kAnySize;
  if (r.xattrs.empty() && !large) return {};
  constexpr const char* kProbe = "probe";   // no row's name
  SOMFS_TRY(remove_tree(stage, kProbe));
  int rc = 0;
  Fd fd;
  if (kind == Kind::dir) rc = ::mkdirat(stage, kProbe, 0700);
  else if (kind == Kind::symlink) rc = ::symlinkat(".", stage, kProbe);
  else if (kind != Kind::file) rc = ::mknodat(stage, kProbe, S_IFIFO | 0600, 0);   // a socket, a device: takes what these take, an ACL too
  else fd = Fd(::openat(stage, kProbe, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (rc == 0 && kind != Kind::file) fd = Fd(::openat(stage, kProbe, (kind == Kind::dir ? O_RDONLY : O_PATH) | O_NOFOLLOW | O_CLOEXEC));
  if (rc != 0 || !fd) return fail_errno("cannot create in the mirror's stage");
  Status taken;
  if (large && ::ftruncate(fd.get(), static_cast<off_t>(r.attr.size)) != 0) taken = fail_errno("cannot size a file of the mirror");
  if (taken) taken = set_xattrs(fd.get(), r.xattrs, true);
  Status removed = remove_tree(stage, kProbe);
  return taken ? removed : taken;
}

Result<std::string> hash_content(int fd) {
  CryptoPP::SHA256 sha;
  constexpr std::size_t kPiece = 256u << 10;
  auto buffer = std::make_unique<char[]>(kPiece);
  std::uint64_t at = 0;
  for (std::size_t got = 0;; at += got) {
    if (int e = pread_all(fd, buffer.get(), kPiece, at, &got); e != 0)
      return fail_errno("cannot read a file of the mirror", {}, e);
    if (got == 0) break;
    sha.Update(reinterpret_cast<const CryptoPP::byte*>(buffer.get()), got);
  }
  std::string digest(32, '\0');
  sha.Final(reinterpret_cast<CryptoPP::byte*>(digest.data()));
  return digest;
}

Status each_entry(int dir, const std::function<Status(const std::string&, std::uint64_t, unsigned char)>& entry) {
  int copy = ::openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return fail_errno("cannot read a directory of the mirror");
  std::unique_ptr<DIR, int (*)(DIR*)> d(::fdopendir(copy), ::closedir);
  if (!d) {
    int e = errno;
    ::close(copy);
    return fail_errno("cannot read a directory of the mirror", {}, e);
  }
  for (;;) {
    errno = 0;
    dirent* e = ::readdir(d.get());
    if (e == nullptr) break;
    std::string name = e->d_name;
    if (name != "." && name != "..") SOMFS_TRY(entry(name, e->d_ino, e->d_type));
  }
  if (errno != 0) return fail_errno("cannot read a directory of the mirror");
  return {};
}

Status remove_tree(int dir, const std::string& name) {
  if (::unlinkat(dir, name.c_str(), 0) == 0 || errno == ENOENT) return {};
  if (errno != EISDIR && errno != EPERM) return fail_errno("cannot remove", printable(name));
  // Depth costs nothing: subdirectories are moved up beside `name` and emptied in turn.
  std::vector<std::string> open_ones{name};
  std::uint64_t counter = 0;
  while (!open_ones.empty()) {
    std::string at = open_ones.back();
    Fd fd = open_beneath(dir, at, O_RDONLY | O_DIRECTORY);
    if (!fd) return fail_errno("cannot open", printable(at));
    std::vector<std::string> found;
    SOMFS_TRY(each_entry(fd.get(), [&](const std::string& entry, std::uint64_t, unsigned char type) -> Status {
      if (type != DT_DIR && ::unlinkat(fd.get(), entry.c_str(), 0) == 0) return {};
      if (type != DT_DIR && errno != EISDIR && errno != EPERM) return fail_errno("cannot remove", printable(entry));
      std::string up;
      do {
        up = name + "~" + std::to_string(++counter);
      } while (::faccessat(dir, up.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0);
      if (::unlinkat(fd.get(), entry.c_str(), AT_REMOVEDIR) == 0) return {};
      if (::renameat(fd.get(), entry.c_str(), dir, up.c_str()) != 0) return fail_errno("cannot remove", printable(entry));
      found.push_back(up);
      return {};
    }));
    open_ones.pop_back();
    if (::unlinkat(dir, at.c_str(), AT_REMOVEDIR) != 0) return fail_errno("cannot remove", printable(at));
    open_ones.insert(open_ones.end(), found.begin(), found.end());
  }
  return {};
}

}  // namespace somfs::replicator
