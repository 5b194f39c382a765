// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "fs/caller.h"
#include "fs/passthrough.h"

namespace somfs::fs {
namespace {

// Nobody changes the volume but through the mount: what the kernel knows stays true.
constexpr double kForever = 86400;

// The root by a mount of our own, on which reading leaves no access times.
Fd quiet_root(int root_fd) {
  Fd own(::open_tree(root_fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  mount_attr quiet = {};
  quiet.attr_set = MOUNT_ATTR_NOATIME;
  quiet.attr_clr = MOUNT_ATTR__ATIME;
  if (!own || ::mount_setattr(own.get(), "", AT_EMPTY_PATH, &quiet, sizeof quiet) != 0) return Fd();
  return Fd(::openat(own.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

}  // namespace

Passthrough::Passthrough(const PassthroughOptions& options, const Chain& chain, PreImages* pre_images, ChangeSink* sink,
                         VirtualTree* tree, Witness* witness, Negotiation& negotiation, const Look& root)
    : root_fd_(options.root_fd),
      writeback_(options.writeback),
      file_atime_(options.keep_atime ? O_NOATIME : 0),
      dir_atime_(options.keep_dir_atime ? O_NOATIME : 0),
      chain_(chain),
      pre_images_(pre_images),
      sink_(sink),
      tree_(tree),
      witness_(witness),
      negotiation_(negotiation),
      excludes_(options.excludes),
      nodes_(options.root_fd, root,
             static_cast<bool>(open_handle(options.root_fd, handle_of(options.root_fd), O_PATH)), options.descriptors) {
  if (options.passthrough) io_modes_.emplace(negotiation, options.passthrough_from, options.keep_atime ? quiet_root(options.root_fd) : Fd(), options.keep_atime);
}

bool Passthrough::is_own_name(fuse_ino_t parent, const char* name) const {
  return parent == FUSE_ROOT_ID && std::strcmp(name, kOwnName) == 0;
}

void Passthrough::correct_root(Look& seen) const {
  // The root has a subdirectory of ours that nobody sees. Some file systems do not count subdirectories at all.
  struct stat own;
  if (seen.st.st_nlink > 2 && seen.id == const_cast<NodeTable&>(nodes_).root().id &&
      ::fstatat(root_fd_, kOwnName, &own, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(own.st_mode))
    --seen.st.st_nlink;
}

int Passthrough::attributes(int dirfd, const char* name, Look* out) const {
  for (int tries = 0;; ++tries) {
    if (int e = look(dirfd, name, out); e != 0) return e;
    if (S_ISDIR(out->st.st_mode)) {
      correct_root(*out);
      return 0;
    }
    const std::uint32_t ours = pre_images_ != nullptr ? pre_images_->own_links(out->id) : 0;
    if (pre_images_ == nullptr || (ours == 0 && out->st.st_nlink <= 1)) return 0;
    // The links of the store come and go meanwhile, and the kernel remembers what it is told: counted between two equal answers.
    Look again;
    if (int e = look(dirfd, name, &again); e != 0) return e;
    if (tries < 8 && (again.id != out->id || pre_images_->own_links(again.id) != ours)) continue;
    *out = again;
    out->st.st_nlink -= std::min<nlink_t>(ours, out->st.st_nlink);
    return 0;
  }
}

int Passthrough::attributes(Node& n, Look* out) {
  if (PathFd fd = nodes_.path(n)) return attributes(fd->get(), "", out);
  const int e = errno;
  return e == ESTALE && nodes_.last_seen(n, out) ? 0 : e;
}

void Passthrough::fill(fuse_entry_param* e, Node& node, const struct stat& st) const {
  *e = {};
  e->ino = reinterpret_cast<fuse_ino_t>(&node);
  e->generation = node.generation;
  e->attr = st;
  e->attr_timeout = kForever;
  e->entry_timeout = kForever;
}

int Passthrough::find(Node& parent, int dirfd, const char* name, fuse_entry_param* e) {
  Look seen;
  if (int err = attributes(dirfd, name, &seen); err != 0) return err;
  fill(e, nodes_.hold(seen, dirfd, name, &parent), seen.st);
  return 0;
}

void Passthrough::lookup(fuse_req_t req, fuse_ino_t parent, const char* name) {
  fuse_entry_param e = {};
  int err = 0;
  if (is_virtual(parent) || is_own_name(parent, name)) {
    err = virtual_lookup(parent, name, &e);
  } else {
    Node& dir = node(parent);
    PathFd fd = nodes_.path(dir);
    err = fd ? find(dir, fd->get(), name, &e) : errno;
    if (err == ENOENT) {
      e = {};
      e.entry_timeout = kForever;  // remembered until a name is made there
      err = 0;
    }
  }
  if (err != 0)
    fuse_reply_err(req, err);
  else
    fuse_reply_entry(req, &e);
}

void Passthrough::forget(fuse_ino_t ino, std::uint64_t count) {
  if (is_virtual(ino)) {
    tree_->forget(virtual_id(ino), count);
  } else if (ino != FUSE_ROOT_ID) {
    nodes_.forget(node(ino), count);
  }
}

void Passthrough::getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  if (is_virtual(ino)) return virtual_getattr(req, ino);
  Node& n = node(ino);
  Look seen;
  int err = 0;
  if (fi != nullptr && fi->fh != 0 && n.kind == Kind::file) {
    err = attributes(reinterpret_cast<OpenFile*>(fi->fh)->fd.get(), "", &seen);
  } else {
    err = attributes(n, &seen);
  }
  if (err != 0)
    fuse_reply_err(req, err);
  else
    fuse_reply_attr(req, &seen.st, kForever);
}

void Passthrough::readlink(fuse_req_t req, fuse_ino_t ino) {
  if (is_virtual(ino)) return virtual_readlink(req, ino);
  PathFd fd = nodes_.path(node(ino));
  char target[PATH_MAX + 1];
  ssize_t n = fd ? ::readlinkat(fd->get(), "", target, PATH_MAX) : -1;
  if (n < 0) {
    fuse_reply_err(req, errno);
    return;
  }
  target[n] = '\0';
  fuse_reply_readlink(req, target);
}

void Passthrough::statfs(fuse_req_t req, fuse_ino_t) {
  struct statvfs s;
  if (::fstatvfs(root_fd_, &s) != 0)
    fuse_reply_err(req, errno);
  else
    fuse_reply_statfs(req, &s);
}

void Passthrough::getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, std::size_t size) {
  if (is_virtual(ino)) return virtual_getxattr(req, ino, name, size);
  PathFd fd = nodes_.path(node(ino));
  if (!fd) {
    fuse_reply_err(req, errno);
    return;
  }
  std::string value(size, '\0');
  ssize_t n = ::getxattr(proc_path(fd->get()).c_str(), name, value.data(), size);
  if (n < 0)
    fuse_reply_err(req, errno);
  else if (size == 0)
    fuse_reply_xattr(req, static_cast<std::size_t>(n));
  else
    fuse_reply_buf(req, value.data(), static_cast<std::size_t>(n));
}

void Passthrough::listxattr(fuse_req_t req, fuse_ino_t ino, std::size_t size) {
  if (is_virtual(ino)) return virtual_listxattr(req, ino, size);
  PathFd fd = nodes_.path(node(ino));
  if (!fd) {
    fuse_reply_err(req, errno);
    return;
  }
  std::string path = proc_path(fd->get());
  std::string all(XATTR_LIST_MAX, '\0');
  ssize_t n = ::listxattr(path.c_str(), all.data(), all.size());
  if (n < 0) {
    fuse_reply_err(req, errno);
    return;
  }
  reply_names(req, std::string_view(all).substr(0, static_cast<std::size_t>(n)), size);
}

void Passthrough::reply_names(fuse_req_t req, std::string_view all, std::size_t size) {
  // Trusted attributes are shown to the privileged only; the thread that asks beneath always is. To read them the kernel refuses.
  std::string names;
  bool trusted = fuse_req_ctx(req)->uid == 0;
  for (std::size_t at = 0; at < all.size();) {
    std::string_view name = all.data() + at;
    at += name.size() + 1;
    if (trusted || !name.starts_with("trusted.")) names.append(name).push_back('\0');
  }
  if (size == 0)
    fuse_reply_xattr(req, names.size());
  else if (names.size() > size)
    fuse_reply_err(req, ERANGE);
  else
    fuse_reply_buf(req, names.data(), names.size());
}

bool Passthrough::excluded(Node& n) {
  if (excludes_.empty() || n.many_names.load(std::memory_order_relaxed)) return false;
  std::vector<std::string> names;
  return nodes_.names(n, &names) && excludes_.covers(names);
}

bool Passthrough::excluded(Node& parent, const char* name) {
  if (excludes_.empty()) return false;
  std::vector<std::string> names;
  if (!nodes_.names(parent, &names)) return false;
  names.emplace_back(name);
  return excludes_.covers(names);
}

Operation Passthrough::operation(Verb verb, Node& n, int fd) {
  Operation op;
  op.verb = verb;
  op.object = n.id;
  op.handle = &n.handle;
  op.fd = fd;
  op.kind = n.kind;
  op.excluded = excluded(n);
  return op;
}

NameChange Passthrough::name_change(Node& parent, int parent_fd, const char* name) {
  NameChange c;
  c.parent = parent.id;
  c.parent_handle = &parent.handle;
  c.parent_fd = parent_fd;
  c.name = name;
  c.excluded = excluded(parent, name);
  return c;
}

bool Passthrough::has_file_caps(Node& n, int fd) {
  FileCaps known = n.caps.load(std::memory_order_relaxed);
  if (known == FileCaps::unknown) {
    known = ::getxattr(proc_path(fd).c_str(), "security.capability", nullptr, 0) > 0 ? FileCaps::present : FileCaps::none;
    n.caps.store(known, std::memory_order_relaxed);
  }
  return known == FileCaps::present;
}

std::string Passthrough::file_caps(Node& n, int fd) {
  if (!has_file_caps(n, fd)) return {};
  std::string value(XATTR_SIZE_MAX, '\0');
  const ssize_t size = ::getxattr(proc_path(fd).c_str(), "security.capability", value.data(), value.size());
  value.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  return value;
}

bool Passthrough::falling_set_ids(fuse_req_t req, int fd, mode_t* mode) {
  struct stat st;
  if (::fstatat(fd, "", &st, AT_EMPTY_PATH) != 0 || (st.st_mode & (S_ISUID | S_ISGID)) == 0) return false;
  *mode = st.st_mode & 07777 & ~static_cast<mode_t>(S_ISUID);
  // Without group execution the bit is not one of privilege: it stays for members of the group.
  if ((*mode & S_ISGID) != 0 && ((*mode & S_IXGRP) != 0 || (!caller_in_group(req, st.st_gid) && !caller_keeps_set_ids(req))))
    *mode &= ~static_cast<mode_t>(S_ISGID);
  return *mode != (st.st_mode & 07777);
}

void Passthrough::clear_privileges(fuse_req_t req, Node& n, int fd, SetIds set_ids) {
  if (n.kind != Kind::file) return;
  if (has_file_caps(n, fd)) {
    Operation op = operation(Verb::remove_xattr, n, fd);
    chain_.before(op);
    if (::removexattr(proc_path(fd).c_str(), "security.capability") == 0) chain_.after(op);
    n.caps.store(FileCaps::none, std::memory_order_relaxed);
  }
  if (set_ids == SetIds::stay || !acts_for_others()) return;
  mode_t mode = 0;
  if (!falling_set_ids(req, fd, &mode) || (set_ids == SetIds::ask && caller_keeps_set_ids(req))) return;
  Operation op = operation(Verb::set_attr, n, fd);
  chain_.before(op);
  if (::chmod(proc_path(fd).c_str(), mode) != 0) return;
  chain_.after(op);
  // After an allocation or a copy the kernel would go by the mode it has: in stat(2) of the mode alone, and when it executes the file.
  fuse_lowlevel_notify_inval_inode(session_, ino(n), -1, 0);
}

}  // namespace somfs::fs
