// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "fs/caller.h"
#include "fs/passthrough.h"

namespace somfs::fs {
namespace {

constexpr std::size_t kAlignment = 4096;
// Smaller replies are cheaper copied than spliced.
constexpr std::size_t kSpliceFrom = 64 * 1024;

// This thread's aligned buffer, as large as the largest request seen.
char* thread_buffer(std::size_t size) {
  struct Buffer {
    char* mem = nullptr;
    std::size_t size = 0;
    ~Buffer() { std::free(mem); }
  };
  thread_local Buffer b;
  if (b.size < size) {
    std::free(b.mem);
    b.size = (size + kAlignment - 1) / kAlignment * kAlignment;
    b.mem = static_cast<char*>(std::aligned_alloc(kAlignment, b.size));
    if (b.mem == nullptr) b.size = 0;
  }
  return b.mem;
}

OpenFile& file_of(const fuse_file_info* fi) { return *reinterpret_cast<OpenFile*>(fi->fh); }

}  // namespace

Fd Passthrough::open_node(Node& n, int flags) {
  int atime = n.kind == Kind::dir ? dir_atime_ : file_atime_;
  for (int tries = 0;; ++tries) {
    PathFd path = nodes_.path(n);
    if (!path) return Fd();
    Fd fd(::open(proc_path(path->get()).c_str(), flags | atime | O_CLOEXEC));
    // Of what belongs to another, an ordinary user cannot ask it.
    if (!fd && errno == EPERM && atime != 0 && !acts_for_others()) fd = Fd(::open(proc_path(path->get()).c_str(), flags | O_CLOEXEC));
    if (fd || tries > 0 || (errno != EMFILE && errno != ENFILE) || !nodes_.shrink()) return fd;
  }
}

// The flags for the backing file: offsets come from the kernel, creation is over, and pre-images want to read what is written.
static int backing_flags(int flags) {
  int keep = flags & (O_ACCMODE | O_DIRECT | O_SYNC | O_DSYNC | O_NOATIME | O_LARGEFILE);
  if ((keep & O_ACCMODE) == O_WRONLY) keep = (keep & ~O_ACCMODE) | O_RDWR;
  return keep;
}

OpenFile* Passthrough::opened(Node& n, Fd fd, int flags) {
  auto* file = new OpenFile;
  file->node = &n;
  file->fd = std::move(fd);
  file->writes = (flags & O_ACCMODE) != O_RDONLY;
  file->direct = (flags & O_DIRECT) != 0;
  file->durable = (flags & (O_DSYNC | O_SYNC)) != 0;
  file->prompt = (flags & (O_DSYNC | O_SYNC | O_DIRECT)) != 0;
  nodes_.opened(n);
  if (file->writes) writers_.add(&n);
  if (file->direct) file->plain = open_node(n, (flags & O_ACCMODE) == O_RDONLY ? O_RDONLY : O_RDWR);
  return file;
}

void Passthrough::closed(OpenFile* file) {
  Node* n = file->node;
  if (file->writes) writers_.remove(n);
  if (io_modes_) io_modes_->leave(*n, file->mode);
  delete file;
  nodes_.closed(*n);
}

fuse_file_info Passthrough::file_info(OpenFile* file) const {
  fuse_file_info fi = {};
  fi.fh = reinterpret_cast<std::uint64_t>(file);
  fi.keep_cache = file->mode == IoMode::passing || file->mode == IoMode::direct ? 0 : 1;
  fi.direct_io = file->mode == IoMode::direct ? 1 : 0;
  fi.noflush = writeback_ ? 0 : 1;
  return fi;
}

void Passthrough::open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  if (is_virtual(ino)) return virtual_open(req, ino, fi);
  Node& n = node(ino);
  int flags = fi->flags;
  Fd fd = open_node(n, backing_flags(flags));
  // A file that may only be appended to, or whose owner may not read it.
  if (!fd && errno == EPERM && (flags & O_APPEND) != 0) fd = open_node(n, backing_flags(flags) | O_APPEND);
  if (!fd && errno == EACCES && (flags & O_ACCMODE) == O_WRONLY)
    fd = open_node(n, (backing_flags(flags) & ~O_ACCMODE) | O_WRONLY);
  if (!fd) {
    fuse_reply_err(req, errno);
    return;
  }
  OpenFile* file = opened(n, std::move(fd), flags);
  if (io_modes_)
    io_modes_->enter(n, file->fd.get(), access_of(flags), [this, req, file, flags](Way way) { answer_open(req, file, flags, way); });
  else
    answer_open(req, file, flags, {IoMode::cached, 0});
}

void Passthrough::answer_open(fuse_req_t req, OpenFile* file, int flags, Way way) {
  if (way.mode == IoMode::none) {
    closed(file);
    fuse_reply_err(req, ETXTBSY);
    return;
  }
  file->mode = way.mode;
  fuse_file_info reply = file_info(file);
  reply.flags = flags;
  Negotiation::Through through(way.backing_id);
  if (fuse_reply_open(req, &reply) == -ENOENT) closed(file);  // the opener was interrupted
}

void Passthrough::release(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  if (is_virtual(ino))
    tree_->close(fi->fh);
  else
    closed(&file_of(fi));
  fuse_reply_err(req, 0);
}

void Passthrough::read(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t off, fuse_file_info* fi) {
  if (is_virtual(ino)) return virtual_read(req, size, off, fi);
  OpenFile& file = file_of(fi);
  reads_.fetch_add(1, std::memory_order_relaxed);
  const bool direct = file.is_direct(fi->flags);
  const int fd = file.data_fd(fi->flags);
  if (!direct) file.node->cached.store(true);
  if (size >= kSpliceFrom && !direct) {
    fuse_bufvec buf = {};
    buf.count = 1;
    buf.buf[0].size = size;
    buf.buf[0].flags = static_cast<fuse_buf_flags>(FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK);
    buf.buf[0].fd = fd;
    buf.buf[0].pos = off;
    fuse_reply_data(req, &buf, static_cast<fuse_buf_copy_flags>(0));
    return;
  }
  char* mem = thread_buffer(size);
  if (mem == nullptr) {
    fuse_reply_err(req, ENOMEM);
    return;
  }
  std::size_t got = 0;
  int err = 0;
  if (direct) {
    ssize_t n = ::pread(fd, mem, size, off);
    err = n < 0 ? errno : 0;
    got = n < 0 ? 0 : static_cast<std::size_t>(n);
  } else {
    err = pread_all(fd, mem, size, static_cast<std::uint64_t>(off), &got);
  }
  if (err != 0)
    fuse_reply_err(req, err);
  else
    fuse_reply_buf(req, mem, got);
}

struct Passthrough::Write {
  fuse_req_t req;
  OpenFile& file;
  const char* data;
  std::size_t size;
  off_t off;
  int flags;
  bool kill;
  bool page;  // of the page cache, not of a write(2)
  std::unique_ptr<char[]> copy;
  void keep() {
    copy = std::make_unique<char[]>(size);
    std::memcpy(copy.get(), data, size);
    data = copy.get();
  }
};

void Passthrough::write(fuse_req_t req, fuse_ino_t ino, const char* buf, std::size_t size, off_t off, fuse_file_info* fi) {
  if (is_virtual(ino)) {
    fuse_reply_err(req, EROFS);
    return;
  }
  const bool page = fi->writepage != 0;
  const bool kill = Negotiation::request_kills_set_ids() && !page;
  admit(size + sizeof(Write), Write{req, file_of(fi), buf, size, off, fi->flags, kill, page, nullptr}, &Passthrough::do_write);
}

void Passthrough::do_write(Write& r) {
  OpenFile& file = r.file;
  Node& n = *file.node;
  const char* data = r.data;
  const int fd = file.data_fd(r.flags);
  const bool direct = file.is_direct(r.flags);
  if (!direct) n.cached.store(true);
  if (direct) {
    char* aligned = thread_buffer(r.size);
    if (aligned == nullptr) {
      fuse_reply_err(r.req, ENOMEM);
      return;
    }
    std::memcpy(aligned, data, r.size);
    data = aligned;
  }
  ssize_t put = 0;
  int err = 0;
  {
    Lock l(n.lock);
    // A store into a mapped page takes nothing away; where the page comes of a write(2), in writeback mode, the kernel did so then.
    // But the write beneath takes capabilities away whoever issues it.
    std::string caps;
    if (r.page)
      caps = file_caps(n, file.fd.get());
    else
      clear_privileges(r.req, n, file.fd.get(), r.kill ? SetIds::fall : SetIds::stay);
    Operation op = operation(Verb::write, n, file.readable());
    op.extent = {static_cast<std::uint64_t>(r.off), r.size};
    op.size_may_change = true;
    // The flags of the request: O_DIRECT may have come later, RWF_DSYNC counts for one write.
    op.promise = file.prompt || (r.flags & (O_SYNC | O_DSYNC | O_DIRECT)) != 0 ? Promise::now : Promise::soon;
    op.payload = std::as_bytes(std::span(data, r.size));
    chain_.before(op);
    err = with_room([&] {
      ChargeTo caller(r.req, r.kill);
      do {
        put = ::pwrite(fd, data, r.size, r.off);
      } while (put < 0 && errno == EINTR);
      return put < 0 ? errno : 0;
    });
    if (!caps.empty()) ::setxattr(proc_path(file.fd.get()).c_str(), "security.capability", caps.data(), caps.size(), 0);
    if (err == 0) {
      op.extent.len = static_cast<std::uint64_t>(put);
      op.payload = op.payload.first(static_cast<std::size_t>(put));
      chain_.after(op);
    }
  }
  if (err != 0) {
    fuse_reply_err(r.req, err);
    return;
  }
  const bool drop_pages = direct && n.cached.load();
  auto answer = [this, req = r.req, ino = ino(n), off = r.off, done = static_cast<std::size_t>(put), drop_pages] {
    if (drop_pages)
      direct_replies_->answer(req, ino, off, done);
    else
      fuse_reply_write(req, done);
  };
  // Pages that the kernel writes back promise nothing: an fsync follows.
  if (!r.page && (r.flags & (O_SYNC | O_DSYNC)) != 0)
    when_attested(r.req, n, answer);
  else
    answer();
}

void Passthrough::fsync(fuse_req_t req, fuse_ino_t ino, bool data_only, fuse_file_info* fi) {
  if (is_virtual(ino)) {
    fuse_reply_err(req, 0);
    return;
  }
  int fd = file_of(fi).fd.get();
  int err = (data_only ? ::fdatasync(fd) : ::fsync(fd)) == 0 ? 0 : errno;
  marks_durable();
  if (err != 0)
    fuse_reply_err(req, err);
  else
    when_attested(req, node(ino), [req] { fuse_reply_err(req, 0); });
}

struct Passthrough::Allocate {
  fuse_req_t req;
  OpenFile& file;
  int mode;
  off_t off;
  off_t len;
  void keep() {}
};

void Passthrough::fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, fuse_file_info* fi) {
  if (is_virtual(ino)) {
    fuse_reply_err(req, EROFS);
    return;
  }
  admit(sizeof(Allocate), Allocate{req, file_of(fi), mode, off, len}, &Passthrough::do_allocate);
}

void Passthrough::do_allocate(Allocate& r) {
  Node& n = *r.file.node;
  int fd = r.file.fd.get();
  int err = 0;
  {
    Lock l(n.lock);
    bool ordinary = negotiation_.killpriv_v2() && fuse_req_ctx(r.req)->uid != 0;
    clear_privileges(r.req, n, fd, negotiation_.killpriv_v2() ? SetIds::ask : SetIds::stay);
    Operation op = operation(Verb::allocate, n, r.file.readable());
    op.extent = {static_cast<std::uint64_t>(r.off), static_cast<std::uint64_t>(r.len)};
    // Collapsing and inserting move everything behind the range.
    if ((r.mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) != 0)
      op.extent.len = static_cast<std::uint64_t>(INT64_MAX - r.off);
    op.size_may_change = (r.mode & FALLOC_FL_KEEP_SIZE) == 0;
    op.promise = r.file.prompt ? Promise::now : Promise::soon;
    chain_.before(op);
    err = with_room([&] {
      ChargeTo caller(r.req, ordinary);
      int e = 0;
      do {
        e = ::fallocate(fd, r.mode, r.off, r.len) == 0 ? 0 : errno;
      } while (e == EINTR);
      return e;
    });
    // For want of room, or on a broken disk, it may have been carried out in part.
    if (err == 0 || err == ENOSPC || err == EDQUOT || err == EIO) chain_.after(op);
  }
  if (err == 0 && r.file.durable)
    when_attested(r.req, n, [req = r.req] { fuse_reply_err(req, 0); });
  else
    fuse_reply_err(r.req, err);
}

struct Passthrough::CopyRange {
  fuse_req_t req;
  OpenFile& in;
  off_t off_in;
  OpenFile& out;
  off_t off_out;
  std::size_t len;
  int flags;
  void keep() {}
};

void Passthrough::copy_file_range(fuse_req_t req, fuse_ino_t from, fuse_file_info* in, off_t off_in, fuse_file_info* out,
                                  off_t off_out, std::size_t len, int flags) {
  if (is_virtual(from)) {
    fuse_reply_err(req, EXDEV);  // the kernel then copies by reading and writing; only reading files can be open there
    return;
  }
  admit(sizeof(CopyRange), CopyRange{req, file_of(in), off_in, file_of(out), off_out, len, flags}, &Passthrough::do_copy);
}

void Passthrough::do_copy(CopyRange& r) {
  Node& n = *r.out.node;
  ssize_t put = 0;
  int err = 0;
  {
    Lock l(n.lock);
    bool ordinary = negotiation_.killpriv_v2() && fuse_req_ctx(r.req)->uid != 0;
    clear_privileges(r.req, n, r.out.fd.get(), negotiation_.killpriv_v2() ? SetIds::ask : SetIds::stay);
    Operation op = operation(Verb::copy_range, n, r.out.readable());
    op.extent = {static_cast<std::uint64_t>(r.off_out), r.len};
    op.size_may_change = true;
    op.promise = r.out.prompt ? Promise::now : Promise::soon;
    chain_.before(op);
    err = with_room([&] {
      ChargeTo caller(r.req, ordinary);
      put = ::copy_file_range(r.in.fd.get(), &r.off_in, r.out.fd.get(), &r.off_out, r.len, static_cast<unsigned>(r.flags));
      return put < 0 ? errno : 0;
    });
    if (err == 0) {
      op.extent.len = static_cast<std::uint64_t>(put);
      chain_.after(op);
    }
  }
  auto answer = [req = r.req, done = static_cast<std::size_t>(put)] { fuse_reply_write(req, done); };
  if (err != 0)
    fuse_reply_err(r.req, err);
  else if (r.out.durable)
    when_attested(r.req, n, answer);
  else
    answer();
}

void Passthrough::lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, fuse_file_info* fi) {
  if (is_virtual(ino)) return virtual_lseek(req, ino, off, whence);
  off_t at = ::lseek(file_of(fi).fd.get(), off, whence);
  if (at < 0)
    fuse_reply_err(req, errno);
  else
    fuse_reply_lseek(req, at);
}

}  // namespace somfs::fs
