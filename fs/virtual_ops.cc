// SPDX-License-Identifier: Apache-2.0
// The virtual tree behind the name `.somfs`: everything reads, nothing changes.
#include <cerrno>
#include <cstring>

#include <unistd.h>

#include "fs/passthrough.h"

namespace somfs::fs {
namespace {

// Snapshots come and go without the kernel being told.
constexpr double kBriefly = 1;

struct VirtualDir {
  std::vector<VirtualTree::Entry> entries;
};

void reply_value(fuse_req_t req, const std::string& value, std::size_t size) {
  if (size == 0)
    fuse_reply_xattr(req, value.size());
  else if (value.size() > size)
    fuse_reply_err(req, ERANGE);
  else
    fuse_reply_buf(req, value.data(), value.size());
}

}  // namespace

int Passthrough::virtual_lookup(fuse_ino_t parent, const char* name, fuse_entry_param* e) {
  if (tree_ == nullptr) return ENOENT;
  VirtualTree::NodeId id = 0;
  int err = 0;
  if (is_virtual(parent)) {
    err = tree_->lookup(virtual_id(parent), name, &id, &e->attr);
  } else {
    id = tree_->root();
    err = tree_->getattr(id, &e->attr);
  }
  if (err != 0) return err;
  e->ino = virtual_ino(id);
  e->attr_timeout = kBriefly;
  e->entry_timeout = kBriefly;
  return 0;
}

void Passthrough::virtual_getattr(fuse_req_t req, fuse_ino_t ino) {
  struct stat st = {};
  if (int err = tree_->getattr(virtual_id(ino), &st); err != 0)
    fuse_reply_err(req, err);
  else
    fuse_reply_attr(req, &st, kBriefly);
}

void Passthrough::virtual_readlink(fuse_req_t req, fuse_ino_t ino) {
  std::string target;
  if (int err = tree_->readlink(virtual_id(ino), &target); err != 0)
    fuse_reply_err(req, err);
  else
    fuse_reply_readlink(req, target.c_str());
}

void Passthrough::virtual_getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, std::size_t size) {
  std::string value;
  if (int err = tree_->getxattr(virtual_id(ino), name, &value); err != 0)
    fuse_reply_err(req, err);
  else
    reply_value(req, value, size);
}

void Passthrough::virtual_listxattr(fuse_req_t req, fuse_ino_t ino, std::size_t size) {
  std::string names;
  if (int err = tree_->listxattr(virtual_id(ino), &names); err != 0)
    fuse_reply_err(req, err);
  else
    reply_names(req, names, size);
}

void Passthrough::virtual_open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  std::uint64_t handle = 0;
  int err = (fi->flags & O_ACCMODE) != O_RDONLY ? EROFS : tree_->open(virtual_id(ino), &handle);
  if (err != 0) {
    fuse_reply_err(req, err);
    return;
  }
  fuse_file_info reply = {};
  reply.fh = handle;
  if (fuse_reply_open(req, &reply) == -ENOENT) tree_->close(handle);
}

void Passthrough::virtual_read(fuse_req_t req, std::size_t size, off_t off, fuse_file_info* fi) {
  std::string out(size, '\0');
  std::size_t got = 0;
  if (int err = tree_->read(fi->fh, out.data(), size, static_cast<std::uint64_t>(off), &got); err != 0)
    fuse_reply_err(req, err);
  else
    fuse_reply_buf(req, out.data(), got);
}

void Passthrough::virtual_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence) {
  struct stat st = {};
  int err = tree_->getattr(virtual_id(ino), &st);
  if (err == 0 && (off < 0 || off >= st.st_size)) err = ENXIO;
  if (err != 0)
    fuse_reply_err(req, err);
  else
    fuse_reply_lseek(req, whence == SEEK_DATA ? off : st.st_size);
}

void Passthrough::virtual_opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info*) {
  auto dir = std::make_unique<VirtualDir>();
  struct stat st = {};
  int err = tree_->getattr(virtual_id(ino), &st);
  if (err == 0) err = tree_->list(virtual_id(ino), &dir->entries);
  if (err != 0) {
    fuse_reply_err(req, err);
    return;
  }
  dir->entries.insert(dir->entries.begin(), {{".", st.st_ino, S_IFDIR}, {"..", st.st_ino, S_IFDIR}});
  fuse_file_info reply = {};
  reply.fh = reinterpret_cast<std::uint64_t>(dir.get());
  if (fuse_reply_open(req, &reply) != -ENOENT) dir.release();
}

void Passthrough::virtual_readdir(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t off, fuse_file_info* fi, bool plus) {
  auto& dir = *reinterpret_cast<VirtualDir*>(fi->fh);
  std::string out(size, '\0');
  std::size_t used = 0;
  for (auto i = static_cast<std::size_t>(off); i < dir.entries.size(); ++i) {
    const VirtualTree::Entry& entry = dir.entries[i];
    fuse_entry_param e = {};
    e.attr.st_ino = entry.ino;
    e.attr.st_mode = entry.mode;
    bool held = plus && i >= 2 && virtual_lookup(ino, entry.name.c_str(), &e) == 0;
    auto next = static_cast<off_t>(i + 1);
    std::size_t need = plus ? fuse_add_direntry_plus(req, out.data() + used, size - used, entry.name.c_str(), &e, next)
                            : fuse_add_direntry(req, out.data() + used, size - used, entry.name.c_str(), &e.attr, next);
    if (need > size - used) {
      if (held) tree_->forget(virtual_id(e.ino), 1);
      break;
    }
    used += need;
  }
  fuse_reply_buf(req, out.data(), used);
}

void Passthrough::virtual_releasedir(fuse_req_t req, fuse_file_info* fi) {
  delete reinterpret_cast<VirtualDir*>(fi->fh);
  fuse_reply_err(req, 0);
}

}  // namespace somfs::fs
