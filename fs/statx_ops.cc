// SPDX-License-Identifier: Apache-2.0
// FUSE_STATX, by which the kernel asks for birth times: older libraries do not know it, so it is answered before they see it.
// Layout: include/uapi/linux/fuse.h, protocol 7.39.
#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "fs/passthrough.h"

namespace somfs::fs {
namespace {

constexpr std::uint32_t kStatxOpcode = 52;

struct SxTime {
  std::int64_t sec;
  std::uint32_t nsec;
  std::int32_t reserved;
};

struct Sx {
  std::uint32_t mask, blksize;
  std::uint64_t attributes;
  std::uint32_t nlink, uid, gid;
  std::uint16_t mode, spare0;
  std::uint64_t ino, size, blocks, attributes_mask;
  SxTime atime, btime, ctime, mtime;
  std::uint32_t rdev_major, rdev_minor, dev_major, dev_minor;
  std::uint64_t spare[14];
};

struct StatxOut {
  std::uint64_t valid_sec;
  std::uint32_t valid_nsec, flags;
  std::uint64_t spare[2];
  Sx stat;
};
static_assert(sizeof(Sx) == 256 && sizeof(StatxOut) == 288);

SxTime time_of(const timespec& t) { return {t.tv_sec, static_cast<std::uint32_t>(t.tv_nsec), 0}; }

Sx convert(const Look& seen) {
  const struct stat& st = seen.st;
  Sx x = {};
  x.mask = STATX_BASIC_STATS | (seen.id.birth != 0 ? STATX_BTIME : 0);
  x.blksize = static_cast<std::uint32_t>(st.st_blksize);
  x.nlink = static_cast<std::uint32_t>(st.st_nlink);
  x.uid = st.st_uid;
  x.gid = st.st_gid;
  x.mode = static_cast<std::uint16_t>(st.st_mode);
  x.ino = st.st_ino;
  x.size = static_cast<std::uint64_t>(st.st_size);
  x.blocks = static_cast<std::uint64_t>(st.st_blocks);
  x.atime = time_of(st.st_atim);
  x.ctime = time_of(st.st_ctim);
  x.mtime = time_of(st.st_mtim);
  x.btime = {static_cast<std::int64_t>(seen.id.birth / 1000000000), static_cast<std::uint32_t>(seen.id.birth % 1000000000), 0};
  x.rdev_major = major(st.st_rdev);
  x.rdev_minor = minor(st.st_rdev);
  return x;
}

}  // namespace

bool Passthrough::answer_statx(int fuse_fd, const void* message, std::size_t size) {
  fuse_in_header head;
  if (size < sizeof head) return false;
  std::memcpy(&head, message, sizeof head);
  if (head.opcode != kStatxOpcode) return false;
  Look seen;
  int err = 0;
  if (is_virtual(head.nodeid)) {
    err = tree_->getattr(virtual_id(head.nodeid), &seen.st);
  } else {
    err = attributes(node(head.nodeid), &seen);
  }
  StatxOut out = {};
  out.valid_sec = is_virtual(head.nodeid) ? 1 : 86400;
  out.stat = convert(seen);
  fuse_out_header reply = {};
  reply.len = static_cast<std::uint32_t>(sizeof reply + (err == 0 ? sizeof out : 0));
  reply.error = -err;
  reply.unique = head.unique;
  iovec iov[2] = {{&reply, sizeof reply}, {&out, sizeof out}};
  // The asker may have been killed meanwhile: nobody is left to tell.
  [[maybe_unused]] ssize_t put = ::writev(fuse_fd, iov, err == 0 ? 2 : 1);
  return true;
}

}  // namespace somfs::fs
