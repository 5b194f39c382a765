// SPDX-License-Identifier: Apache-2.0
#include "common/fd.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <vector>

namespace somfs {

void Fd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

int write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return 0;
}

int pwrite_all(int fd, std::string_view bytes, std::uint64_t off) {
  while (!bytes.empty()) {
    ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(off));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    bytes.remove_prefix(static_cast<std::size_t>(n));
    off += static_cast<std::uint64_t>(n);
  }
  return 0;
}

int pread_all(int fd, void* buf, std::size_t n, std::uint64_t off, std::size_t* got) {
  *got = 0;
  auto* p = static_cast<char*>(buf);
  while (*got < n) {
    ssize_t r = ::pread(fd, p + *got, n - *got, static_cast<off_t>(off + *got));
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return errno;
    if (r == 0) break;
    *got += static_cast<std::size_t>(r);
  }
  return 0;
}

int read_all(int fd, void* buf, std::size_t n, std::size_t* got) {
  *got = 0;
  auto* p = static_cast<char*>(buf);
  while (*got < n) {
    ssize_t r = ::read(fd, p + *got, n - *got);
    if (r < 0 && errno == EINTR) continue;
    if (r < 0) return errno;
    if (r == 0) break;
    *got += static_cast<std::size_t>(r);
  }
  return 0;
}

Kind kind_of_mode(std::uint32_t m) {
  switch (m & S_IFMT) {
    case S_IFREG: return Kind::file;
    case S_IFDIR: return Kind::dir;
    case S_IFLNK: return Kind::symlink;
    case S_IFIFO: return Kind::fifo;
    case S_IFSOCK: return Kind::socket;
    case S_IFCHR: return Kind::chr;
    case S_IFBLK: return Kind::blk;
    default: return Kind::none;
  }
}

std::uint32_t mode_of_kind(Kind kind) {
  switch (kind) {
    case Kind::file: return S_IFREG;
    case Kind::dir: return S_IFDIR;
    case Kind::symlink: return S_IFLNK;
    case Kind::fifo: return S_IFIFO;
    case Kind::socket: return S_IFSOCK;
    case Kind::chr: return S_IFCHR;
    case Kind::blk: return S_IFBLK;
    case Kind::none: break;
  }
  return 0;
}

namespace {

Result<Inode> from_statx(int dirfd, const char* name, int flags) {
  struct statx s;
  if (::statx(dirfd, name, flags | AT_SYMLINK_NOFOLLOW | AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS | STATX_BTIME, &s) != 0)
    return fail_errno("cannot stat", *name != '\0' ? name : "an open object");
  Inode i;
  i.dev = makedev(s.stx_dev_major, s.stx_dev_minor);
  i.id.ino = s.stx_ino;
  if ((s.stx_mask & STATX_BTIME) != 0)
    i.id.birth = static_cast<std::uint64_t>(s.stx_btime.tv_sec) * 1000000000ull + s.stx_btime.tv_nsec;
  i.attr.kind = kind_of_mode(s.stx_mode);
  i.attr.mode = s.stx_mode & 07777;
  i.attr.uid = s.stx_uid;
  i.attr.gid = s.stx_gid;
  if (i.attr.kind == Kind::chr || i.attr.kind == Kind::blk) i.attr.rdev = makedev(s.stx_rdev_major, s.stx_rdev_minor);
  if (i.attr.kind == Kind::file || i.attr.kind == Kind::symlink) i.attr.size = s.stx_size;
  i.attr.mtime = {s.stx_mtime.tv_sec, s.stx_mtime.tv_nsec};
  i.attr.ctime = {s.stx_ctime.tv_sec, s.stx_ctime.tv_nsec};
  i.attr.nlink = s.stx_nlink;
  return i;
}

}  // namespace

Result<Inode> inode_of(int fd) { return from_statx(fd, "", AT_EMPTY_PATH); }
Result<Inode> inode_at(int dirfd, const std::string& name) { return from_statx(dirfd, name.c_str(), 0); }

Handle handle_of(int fd) {
  alignas(file_handle) char space[sizeof(file_handle) + MAX_HANDLE_SZ];
  auto* fh = reinterpret_cast<file_handle*>(space);
  fh->handle_bytes = MAX_HANDLE_SZ;
  int mount_id = 0;
  Handle h;
  if (::name_to_handle_at(fd, "", fh, &mount_id, AT_EMPTY_PATH) != 0) return h;
  h.type = fh->handle_type;
  h.bytes.assign(reinterpret_cast<const char*>(fh->f_handle), fh->handle_bytes);
  return h;
}

Fd open_handle(int mount_fd, const Handle& handle, int flags) {
  if (handle.empty() || handle.bytes.size() > MAX_HANDLE_SZ) {
    errno = ESTALE;
    return Fd();
  }
  alignas(file_handle) char space[sizeof(file_handle) + MAX_HANDLE_SZ];
  auto* fh = reinterpret_cast<file_handle*>(space);
  fh->handle_bytes = static_cast<unsigned>(handle.bytes.size());
  fh->handle_type = handle.type;
  std::memcpy(fh->f_handle, handle.bytes.data(), handle.bytes.size());
  // While an inode number is given to a new file, Linux (seen with 6.18, ext4) answers for the old one that memory is short.
  constexpr int kTries = 1000;
  Fd fd(::open_by_handle_at(mount_fd, fh, flags | O_CLOEXEC));
  for (int i = 0; !fd && errno == ENOMEM && i < kTries; ++i) {
    const timespec a_little{0, 1'000'000};
    ::nanosleep(&a_little, nullptr);
    fd = Fd(::open_by_handle_at(mount_fd, fh, flags | O_CLOEXEC));
  }
  return fd;
}

std::string proc_path(int fd) {
  char b[32];
  std::snprintf(b, sizeof b, "/proc/self/fd/%d", fd);
  return b;
}

Result<Xattrs> read_xattrs(int fd, std::vector<std::string>* unread) {
  Xattrs out;
  if (unread != nullptr) unread->clear();
  std::string path = proc_path(fd);
  char small[4096];
  std::string names;
  ssize_t n = ::listxattr(path.c_str(), small, sizeof small);
  if (n >= 0) {
    names.assign(small, static_cast<std::size_t>(n));
  } else if (errno == ENOTSUP || errno == ENODATA) {
    return out;
  } else if (errno == ERANGE) {
    names.resize(65536);
    n = ::listxattr(path.c_str(), names.data(), names.size());
    if (n < 0) return fail_errno("cannot list extended attributes of", "an open object");
    names.resize(static_cast<std::size_t>(n));
  } else {
    return fail_errno("cannot list extended attributes of", "an open object");
  }
  std::string value;
  for (std::size_t at = 0; at < names.size();) {
    const char* name = names.data() + at;
    at += std::strlen(name) + 1;
    value.resize(65536);
    ssize_t v = ::getxattr(path.c_str(), name, value.data(), value.size());
    if (v < 0 && (errno == ENODATA || errno == ENOTSUP || errno == EPERM)) continue;
    if (v < 0 && errno == EACCES && unread != nullptr) {
      unread->emplace_back(name);
      continue;
    }
    if (v < 0) return fail_errno("cannot read extended attribute", name);
    out.emplace_back(name, value.substr(0, static_cast<std::size_t>(v)));
  }
  std::sort(out.begin(), out.end());
  return out;
}

Result<std::string> read_file(int dirfd, const std::string& path, std::size_t most) {
  Fd fd(::openat(dirfd, path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return fail_errno("cannot open", path);
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return fail_errno("cannot stat", path);
  if (static_cast<std::uint64_t>(st.st_size) > most)
    return fail(Exit::configuration, "refusing to read", path, "it is larger than it may be");
  // The files of /proc tell no size.
  std::string out(st.st_size > 0 ? static_cast<std::size_t>(st.st_size) : std::min<std::size_t>(most, 1u << 16), '\0');
  std::size_t got = 0;
  if (int e = pread_all(fd.get(), out.data(), out.size(), 0, &got); e != 0) return fail_errno("cannot read", path, e);
  out.resize(got);
  return out;
}

Status replace_file(int dirfd, const std::string& path, std::string_view bytes, unsigned mode) {
  std::string temp = path + ".new";
  Fd fd(::openat(dirfd, temp.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd) return fail_errno("cannot write", temp);
  int e = write_all(fd.get(), bytes);
  if (e == 0 && ::fsync(fd.get()) != 0) e = errno;
  if (e == 0 && ::renameat(dirfd, temp.c_str(), dirfd, path.c_str()) != 0) e = errno;
  if (e != 0) {
    ::unlinkat(dirfd, temp.c_str(), 0);
    return fail_errno("cannot write", path, e);
  }
  // The directory that holds the name, which need not be dirfd itself.
  std::size_t slash = path.rfind('/');
  std::string dir = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  Fd d(::openat(dirfd, dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!d || ::fsync(d.get()) != 0) return fail_errno("cannot sync the directory of", path);
  return {};
}

}  // namespace somfs
