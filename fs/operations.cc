// SPDX-License-Identifier: Apache-2.0
// The library's table of callbacks. Not in it: flush (nothing is written at close), access (the kernel checks), locks (they stay
// with the kernel).
#include "fs/passthrough.h"

#include <algorithm>

namespace somfs::fs {
namespace {

Passthrough& of(fuse_req_t req) { return *static_cast<SessionData*>(fuse_req_userdata(req))->passthrough; }

fuse_lowlevel_ops table() {
  fuse_lowlevel_ops o = {};
  o.init = [](void* data, fuse_conn_info* conn) { static_cast<SessionData*>(data)->negotiation->init(conn); };
  o.lookup = [](fuse_req_t r, fuse_ino_t parent, const char* name) { of(r).lookup(r, parent, name); };
  o.forget = [](fuse_req_t r, fuse_ino_t ino, std::uint64_t n) {
    of(r).forget(ino, n);
    fuse_reply_none(r);
  };
  o.forget_multi = [](fuse_req_t r, std::size_t count, fuse_forget_data* all) {
    std::for_each(all, all + count, [&](const fuse_forget_data& f) { of(r).forget(f.ino, f.nlookup); });
    fuse_reply_none(r);
  };
  o.getattr = [](fuse_req_t r, fuse_ino_t ino, fuse_file_info* fi) { of(r).getattr(r, ino, fi); };
  o.setattr = [](fuse_req_t r, fuse_ino_t ino, struct stat* st, int what, fuse_file_info* fi) {
    of(r).setattr(r, ino, st, what, fi);
  };
  o.readlink = [](fuse_req_t r, fuse_ino_t ino) { of(r).readlink(r, ino); };
  o.mknod = [](fuse_req_t r, fuse_ino_t p, const char* name, mode_t mode, dev_t dev) { of(r).make(r, p, name, mode, dev, ""); };
  o.mkdir = [](fuse_req_t r, fuse_ino_t p, const char* name, mode_t mode) { of(r).make(r, p, name, mode | S_IFDIR, 0, ""); };
  o.symlink = [](fuse_req_t r, const char* to, fuse_ino_t p, const char* name) { of(r).make(r, p, name, S_IFLNK | 0777, 0, to); };
  o.unlink = [](fuse_req_t r, fuse_ino_t p, const char* name) { of(r).remove(r, p, name, false); };
  o.rmdir = [](fuse_req_t r, fuse_ino_t p, const char* name) { of(r).remove(r, p, name, true); };
  o.rename = [](fuse_req_t r, fuse_ino_t p, const char* name, fuse_ino_t p2, const char* name2, unsigned flags) {
    of(r).rename(r, p, name, p2, name2, flags);
  };
  o.link = [](fuse_req_t r, fuse_ino_t ino, fuse_ino_t p, const char* name) { of(r).link(r, ino, p, name); };
  o.create = [](fuse_req_t r, fuse_ino_t p, const char* name, mode_t mode, fuse_file_info* fi) {
    of(r).create(r, p, name, mode, fi);
  };
  o.open = [](fuse_req_t r, fuse_ino_t ino, fuse_file_info* fi) { of(r).open(r, ino, fi); };
  o.release = [](fuse_req_t r, fuse_ino_t ino, fuse_file_info* fi) { of(r).release(r, ino, fi); };
  o.read = [](fuse_req_t r, fuse_ino_t ino, std::size_t n, off_t off, fuse_file_info* fi) { of(r).read(r, ino, n, off, fi); };
  o.write = [](fuse_req_t r, fuse_ino_t ino, const char* buf, std::size_t n, off_t off, fuse_file_info* fi) {
    of(r).write(r, ino, buf, n, off, fi);
  };
  o.fsync = [](fuse_req_t r, fuse_ino_t ino, int data, fuse_file_info* fi) { of(r).fsync(r, ino, data != 0, fi); };
  o.opendir = [](fuse_req_t r, fuse_ino_t ino, fuse_file_info* fi) { of(r).opendir(r, ino, fi); };
  o.readdir = [](fuse_req_t r, fuse_ino_t ino, std::size_t n, off_t off, fuse_file_info* fi) {
    of(r).readdir(r, ino, n, off, fi, false);
  };
  o.readdirplus = [](fuse_req_t r, fuse_ino_t ino, std::size_t n, off_t off, fuse_file_info* fi) {
    of(r).readdir(r, ino, n, off, fi, true);
  };
  o.releasedir = [](fuse_req_t r, fuse_ino_t ino, fuse_file_info* fi) { of(r).releasedir(r, ino, fi); };
  o.fsyncdir = [](fuse_req_t r, fuse_ino_t ino, int data, fuse_file_info* fi) { of(r).fsyncdir(r, ino, data != 0, fi); };
  o.statfs = [](fuse_req_t r, fuse_ino_t ino) { of(r).statfs(r, ino); };
  o.setxattr = [](fuse_req_t r, fuse_ino_t ino, const char* name, const char* value, std::size_t n, int flags) {
    of(r).setxattr(r, ino, name, value, n, flags);
  };
  o.getxattr = [](fuse_req_t r, fuse_ino_t ino, const char* name, std::size_t n) { of(r).getxattr(r, ino, name, n); };
  o.listxattr = [](fuse_req_t r, fuse_ino_t ino, std::size_t n) { of(r).listxattr(r, ino, n); };
  o.removexattr = [](fuse_req_t r, fuse_ino_t ino, const char* name) { of(r).removexattr(r, ino, name); };
  o.ioctl = [](fuse_req_t r, fuse_ino_t ino, unsigned cmd, void*, fuse_file_info* fi, unsigned flags, const void* in,
               std::size_t in_size, std::size_t out_size) { of(r).ioctl(r, ino, cmd, fi, flags, in, in_size, out_size); };
  o.fallocate = [](fuse_req_t r, fuse_ino_t ino, int mode, off_t off, off_t n, fuse_file_info* fi) {
    of(r).fallocate(r, ino, mode, off, n, fi);
  };
  o.copy_file_range = [](fuse_req_t r, fuse_ino_t from, off_t off_in, fuse_file_info* in, fuse_ino_t, off_t off_out,
                         fuse_file_info* out, std::size_t n,
                         int flags) { of(r).copy_file_range(r, from, in, off_in, out, off_out, n, flags); };
  o.lseek = [](fuse_req_t r, fuse_ino_t ino, off_t off, int whence, fuse_file_info* fi) { of(r).lseek(r, ino, off, whence, fi); };
  return o;
}

}  // namespace

const fuse_lowlevel_ops& Passthrough::operations() {
  static const fuse_lowlevel_ops ops = table();
  return ops;
}

}  // namespace somfs::fs
