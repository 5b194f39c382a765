// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fs/passthrough.h"

namespace somfs::fs {
namespace {

OpenDir& dir_of(const fuse_file_info* fi) { return *reinterpret_cast<OpenDir*>(fi->fh); }

bool is_dots(const char* name) { return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0')); }

}  // namespace

void Passthrough::opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  if (is_virtual(ino)) return virtual_opendir(req, ino, fi);
  Node& n = node(ino);
  Fd fd = open_node(n, O_RDONLY | O_DIRECTORY);
  DIR* stream = fd ? ::fdopendir(fd.get()) : nullptr;
  if (stream == nullptr) {
    fuse_reply_err(req, errno);
    return;
  }
  fd.release();
  auto* dir = new OpenDir(stream);
  dir->node = &n;
  nodes_.opened(n);
  fuse_file_info reply = {};
  reply.fh = reinterpret_cast<std::uint64_t>(dir);
  reply.keep_cache = 1;
  reply.cache_readdir = 1;
  if (fuse_reply_open(req, &reply) == -ENOENT) {
    delete dir;
    nodes_.closed(n);
  }
}

int Passthrough::fill_entries(fuse_req_t req, OpenDir& dir, std::string* out, std::size_t size, off_t off, bool plus) {
  Node& n = *dir.node;
  out->resize(size);
  std::size_t used = 0;
  int err = 0;
  Lock l(dir.lock);
  if (off != dir.at) {
    ::seekdir(dir.dir, off);
    dir.entry = nullptr;
    dir.at = off;
  }
  for (;;) {
    if (dir.entry == nullptr) {
      errno = 0;
      dir.entry = ::readdir(dir.dir);
      if (dir.entry == nullptr) {
        err = errno;
        break;
      }
    }
    const char* name = dir.entry->d_name;
    off_t next = dir.entry->d_off;
    if (!is_own_name(n, name)) {
      fuse_entry_param e = {};
      e.attr.st_ino = dir.entry->d_ino;
      e.attr.st_mode = static_cast<mode_t>(DTTOIF(dir.entry->d_type));
      bool held = false;
      if (plus && !is_dots(name)) held = find(n, ::dirfd(dir.dir), name, &e) == 0;
      std::size_t need = plus ? fuse_add_direntry_plus(req, out->data() + used, size - used, name, &e, next)
                              : fuse_add_direntry(req, out->data() + used, size - used, name, &e.attr, next);
      if (need > size - used) {
        if (held) nodes_.forget(node(e.ino), 1);
        break;
      }
      used += need;
    }
    dir.entry = nullptr;
    dir.at = next;
  }
  out->resize(used);
  return used == 0 ? err : 0;
}

void Passthrough::readdir(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t off, fuse_file_info* fi, bool plus) {
  if (is_virtual(ino)) return virtual_readdir(req, ino, size, off, fi, plus);
  std::string out;
  int err = fill_entries(req, dir_of(fi), &out, size, off, plus);
  // With the answer the directory may be closed, and with it goes its lock.
  if (err != 0)
    fuse_reply_err(req, err);
  else
    fuse_reply_buf(req, out.data(), out.size());
}

void Passthrough::releasedir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  if (is_virtual(ino)) return virtual_releasedir(req, fi);
  OpenDir* dir = &dir_of(fi);
  Node* n = dir->node;
  delete dir;
  nodes_.closed(*n);
  fuse_reply_err(req, 0);
}

void Passthrough::fsyncdir(fuse_req_t req, fuse_ino_t ino, bool data_only, fuse_file_info* fi) {
  if (is_virtual(ino)) {
    fuse_reply_err(req, 0);
    return;
  }
  int fd = ::dirfd(dir_of(fi).dir);
  int err = (data_only ? ::fdatasync(fd) : ::fsync(fd)) == 0 ? 0 : errno;
  marks_durable();
  if (err != 0)
    fuse_reply_err(req, err);
  else
    when_attested(req, node(ino), [req] { fuse_reply_err(req, 0); });
}

}  // namespace somfs::fs
