// SPDX-License-Identifier: Apache-2.0
// Descriptors that close themselves, and the few system calls every room makes. Linux; not part of the portable cores.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include "common/object.h"
#include "common/result.h"

namespace somfs {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& o) noexcept : fd_(std::exchange(o.fd_, -1)) {}
  Fd& operator=(Fd&& o) noexcept {
    if (this != &o) reset(std::exchange(o.fd_, -1));
    return *this;
  }
  ~Fd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// Whole reads and writes: short counts and EINTR are gone about. Return 0 or an errno.
int write_all(int fd, std::string_view bytes);
int pwrite_all(int fd, std::string_view bytes, std::uint64_t off);
// Reads up to `n` bytes, fewer only at the end of the file; `*got` says how many.
int pread_all(int fd, void* buf, std::size_t n, std::uint64_t off, std::size_t* got);
int read_all(int fd, void* buf, std::size_t n, std::size_t* got);

// The object behind an open descriptor (O_PATH is enough), with its attributes as the file system tells them: nlink uncorrected.
struct Inode {
  ObjectId id;
  std::uint64_t dev = 0;  // the kernel's device number
  Attr attr;
};
Result<Inode> inode_of(int fd);
// Of a name beneath a directory descriptor, symbolic links not followed.
Result<Inode> inode_at(int dirfd, const std::string& name);

Kind kind_of_mode(std::uint32_t st_mode);
std::uint32_t mode_of_kind(Kind kind);  // S_IFREG and so on

// name_to_handle_at of a descriptor; empty handle where the file system has none.
Handle handle_of(int fd);
// Opens by handle; `mount_fd` lies on the same file system. Needs CAP_DAC_READ_SEARCH. errno as by open_by_handle_at (ESTALE: gone;
// ENOMEM: for a second).
Fd open_handle(int mount_fd, const Handle& handle, int flags);

// All extended attributes through an O_PATH, regular or directory descriptor. Errors of single names that vanish meanwhile are ignored.
// Attributes that may not be read are told in `unread`; without it they are an error.
Result<Xattrs> read_xattrs(int fd, std::vector<std::string>* unread = nullptr);

// "/proc/self/fd/N": for calls that take no descriptor. An O_PATH descriptor works.
std::string proc_path(int fd);

// Of a file that tells no size, as those of /proc, at most 64 KiB.
Result<std::string> read_file(int dirfd, const std::string& path, std::size_t most);
// Writes a temporary beside it, fsyncs it, renames it over, fsyncs the directory: the old or the new content, never a mix.
Status replace_file(int dirfd, const std::string& path, std::string_view bytes, unsigned mode = 0600);

}  // namespace somfs
