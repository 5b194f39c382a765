// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fs/caller.h"
#include "fs/passthrough.h"

namespace somfs::fs {
namespace {

constexpr int kOwner = FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID;
constexpr int kAttributes = FUSE_SET_ATTR_MODE | kOwner | FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME;

// A request that sets nothing is chown(-1, -1), which changes no owner but clears privileges as any chown, or announces a
// fallocate, which clears them itself.
bool is_chown(int to_set) { return (to_set & kOwner) != 0 || (to_set & (kAttributes | FUSE_SET_ATTR_SIZE)) == 0; }

}  // namespace

struct Passthrough::SetAttr {
  fuse_req_t req;
  Node& node;
  OpenFile* file;  // null: by name
  struct stat attr;
  int to_set;
  bool kill;
  void keep() {}
};

void Passthrough::setattr(fuse_req_t req, fuse_ino_t ino, struct stat* attr, int to_set, fuse_file_info* fi) {
  if (is_virtual(ino)) {
    fuse_reply_err(req, EROFS);
    return;
  }
  OpenFile* file = fi != nullptr && node(ino).kind == Kind::file ? reinterpret_cast<OpenFile*>(fi->fh) : nullptr;
  admit(sizeof(SetAttr), SetAttr{req, node(ino), file, *attr, to_set, Negotiation::request_kills_set_ids()},
        &Passthrough::do_setattr);
}

int Passthrough::set_size(SetAttr& r, Node& n, int fd, const std::string& path) {
  // Pre-images are read through a descriptor of the file's data.
  Fd own;
  int data = r.file != nullptr ? r.file->readable() : -1;
  if (data < 0 && keeps_pre_images()) {
    own = open_node(n, O_RDONLY);
    data = own.get();
  }
  struct stat st;
  if (::fstatat(fd, "", &st, AT_EMPTY_PATH) != 0) return errno;
  clear_privileges(r.req, n, fd, r.kill ? SetIds::fall : SetIds::stay);
  auto now = static_cast<std::uint64_t>(st.st_size);
  auto size = static_cast<std::uint64_t>(r.attr.st_size);
  Operation op = operation(Verb::truncate, n, data >= 0 ? data : fd);
  op.extent = {size, now > size ? now - size : 0};
  op.size_may_change = true;
  chain_.before(op);
  const int err = with_room([&] {
    int result = r.file != nullptr && r.file->writes ? ::ftruncate(r.file->fd.get(), r.attr.st_size)
                                                     : ::truncate(path.c_str(), r.attr.st_size);
    return result == 0 ? 0 : errno;
  });
  if (err == 0) chain_.after(op);
  return err;
}

int Passthrough::set_owner_and_mode(SetAttr& r, Node& n, int fd, const std::string& path) {
  if (is_chown(r.to_set)) {
    // The same words announce what a writer did who may leave set-id bits standing: it took file capabilities away.
    if ((r.to_set & kOwner) == 0 && n.caps.load(std::memory_order_relaxed) == FileCaps::taken) {
      n.caps.store(FileCaps::none, std::memory_order_relaxed);
      if (writers_.contains(&n) && caller_keeps_set_ids(r.req)) return 0;
    }
    // The kernel above us checks who may change an owner, but not who may make set-id bits fall by changing none: a stranger
    // may not. While the file is open for writing the request may as well announce a fallocate: then it has no effect.
    uid_t caller = fuse_req_ctx(r.req)->uid;
    struct stat st;
    mode_t left = 0;
    if ((r.to_set & kOwner) == 0 && caller != 0 && acts_for_others() && n.kind != Kind::dir &&
        ::fstatat(fd, "", &st, AT_EMPTY_PATH) == 0 && st.st_uid != caller && falling_set_ids(r.req, fd, &left))
      return writers_.contains(&n) ? 0 : EPERM;
    clear_privileges(r.req, n, fd, caller != 0 ? SetIds::fall : SetIds::stay);
    uid_t uid = (r.to_set & FUSE_SET_ATTR_UID) != 0 ? r.attr.st_uid : static_cast<uid_t>(-1);
    gid_t gid = (r.to_set & FUSE_SET_ATTR_GID) != 0 ? r.attr.st_gid : static_cast<gid_t>(-1);
    // The new owner's quota may be full.
    if (int err = with_room([&] { return ::fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno; }); err != 0)
      return err;
  }
  if ((r.to_set & FUSE_SET_ATTR_MODE) != 0)
    if (int err = with_room([&] { return ::chmod(path.c_str(), r.attr.st_mode & 07777) == 0 ? 0 : errno; }); err != 0) return err;
  if ((r.to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)) != 0) {
    timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
    if ((r.to_set & FUSE_SET_ATTR_ATIME) != 0)
      times[0] = (r.to_set & FUSE_SET_ATTR_ATIME_NOW) != 0 ? timespec{0, UTIME_NOW} : r.attr.st_atim;
    if ((r.to_set & FUSE_SET_ATTR_MTIME) != 0)
      times[1] = (r.to_set & FUSE_SET_ATTR_MTIME_NOW) != 0 ? timespec{0, UTIME_NOW} : r.attr.st_mtim;
    if (::utimensat(fd, "", times, AT_EMPTY_PATH) != 0) return errno;
  }
  return 0;
}

void Passthrough::do_setattr(SetAttr& r) {
  Node& n = r.node;
  PathFd fd = nodes_.path(n);
  int err = fd ? 0 : errno;
  Look seen;
  if (err == 0) {
    std::string path = proc_path(fd->get());
    Lock l(n.lock);
    // Times last: the others change them.
    if ((r.to_set & FUSE_SET_ATTR_SIZE) != 0) err = set_size(r, n, fd->get(), path);
    if (err == 0 && ((r.to_set & kAttributes) != 0 || is_chown(r.to_set))) {
      Operation op = operation(Verb::set_attr, n, fd->get());
      chain_.before(op);
      err = set_owner_and_mode(r, n, fd->get(), path);
      chain_.after(op);  // also when the second of several steps failed
    }
    if (err == 0) err = attributes(fd->get(), "", &seen);
  }
  if (err != 0)
    fuse_reply_err(r.req, err);
  else
    fuse_reply_attr(r.req, &seen.st, 86400);
}

struct Passthrough::SetXattr {
  fuse_req_t req;
  Node& node;
  Text name;
  const char* value;  // null: remove
  std::size_t size;
  int flags;
  std::string copy;
  void keep() {
    name.keep();
    if (value == nullptr) return;
    copy.assign(value, size);
    value = copy.data();
  }
};

void Passthrough::setxattr(fuse_req_t req, fuse_ino_t ino, const char* name, const char* value, std::size_t size, int flags) {
  if (is_virtual(ino)) {
    fuse_reply_err(req, EROFS);
    return;
  }
  static const char nothing = 0;
  admit(sizeof(SetXattr) + size, SetXattr{req, node(ino), Text(name), value != nullptr ? value : &nothing, size, flags, {}},
        &Passthrough::do_setxattr);
}

void Passthrough::removexattr(fuse_req_t req, fuse_ino_t ino, const char* name) {
  if (is_virtual(ino)) {
    fuse_reply_err(req, EROFS);
    return;
  }
  admit(sizeof(SetXattr), SetXattr{req, node(ino), Text(name), nullptr, 0, 0, {}}, &Passthrough::do_setxattr);
}

void Passthrough::do_setxattr(SetXattr& r) {
  Node& n = r.node;
  PathFd fd = nodes_.path(n);
  int err = fd ? 0 : errno;
  if (err == 0) {
    std::string path = proc_path(fd->get());
    Lock l(n.lock);
    Operation op = operation(r.value != nullptr ? Verb::set_xattr : Verb::remove_xattr, n, fd->get());
    struct stat before = {};
    bool acl = r.value != nullptr && r.name.view() == "system.posix_acl_access";
    if (acl) ::fstatat(fd->get(), "", &before, AT_EMPTY_PATH);
    chain_.before(op);
    err = with_room([&] {
      int result = r.value != nullptr ? ::setxattr(path.c_str(), r.name.c_str(), r.value, r.size, r.flags)
                                      : ::removexattr(path.c_str(), r.name.c_str());
      return result == 0 ? 0 : errno;
    });
    n.caps.store(err == 0 && r.value == nullptr && r.name.view() == "security.capability" ? FileCaps::taken : FileCaps::unknown,
                 std::memory_order_relaxed);
    if (err == 0) {
      // As for chmod: who is not in the group cannot leave the set-group-id bit standing.
      if ((before.st_mode & S_ISGID) != 0 && acts_for_others() && fuse_req_ctx(r.req)->uid != 0 &&
          !caller_in_group(r.req, before.st_gid)) {
        struct stat now;
        if (::fstatat(fd->get(), "", &now, AT_EMPTY_PATH) == 0)
          ::chmod(path.c_str(), now.st_mode & 07777 & ~static_cast<mode_t>(S_ISGID));
      }
      chain_.after(op);
    }
  }
  fuse_reply_err(r.req, err);
}

struct Passthrough::SetFlags {
  fuse_req_t req;
  Node& node;
  int fd;
  unsigned cmd;
  char value[sizeof(fsxattr)];
  void keep() {}
};

void Passthrough::ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, fuse_file_info* fi, unsigned flags, const void* in,
                        std::size_t in_size, std::size_t out_size) {
  if (is_virtual(ino)) {
    fuse_reply_err(req, ENOTTY);
    return;
  }
  int fd = (flags & FUSE_IOCTL_DIR) != 0 ? ::dirfd(reinterpret_cast<OpenDir*>(fi->fh)->dir)
                                         : reinterpret_cast<OpenFile*>(fi->fh)->fd.get();
  alignas(8) char value[sizeof(fsxattr)] = {};
  switch (cmd) {
    case FS_IOC_GETFLAGS:
    case FS_IOC_GETVERSION:
    case FS_IOC_FSGETXATTR:
      if (::ioctl(fd, cmd, value) != 0)
        fuse_reply_err(req, errno);
      else
        fuse_reply_ioctl(req, 0, value, std::min(out_size, sizeof value));
      return;
    case FS_IOC_SETFLAGS:
    case FS_IOC_FSSETXATTR: {
      SetFlags r{req, node(ino), fd, cmd, {}};
      std::memcpy(r.value, in, std::min(in_size, sizeof r.value));
      admit(sizeof r, r, &Passthrough::do_setflags);
      return;
    }
    default: fuse_reply_err(req, ENOTTY);
  }
}

void Passthrough::do_setflags(SetFlags& r) {
  int err = 0;
  {
    Lock l(r.node.lock);
    Operation op = operation(Verb::set_flags, r.node, r.fd);
    chain_.before(op);
    err = with_room([&] { return ::ioctl(r.fd, r.cmd, r.value) == 0 ? 0 : errno; });
    if (err == 0) chain_.after(op);
  }
  // To the kernel above an ioctl is opaque: it would go on showing the change time of before.
  if (err == 0) fuse_lowlevel_notify_inval_inode(session_, ino(r.node), -1, 0);
  if (err != 0)
    fuse_reply_err(r.req, err);
  else
    fuse_reply_ioctl(r.req, 0, nullptr, 0);
}

}  // namespace somfs::fs
