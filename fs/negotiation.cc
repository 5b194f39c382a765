// SPDX-License-Identifier: Apache-2.0
#include "fs/negotiation.h"

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/log.h"

namespace somfs::fs {
namespace {

constexpr std::uint32_t kTmpfileOpcode = 51;  // FUSE_TMPFILE, since protocol 7.37: laid out as FUSE_CREATE, with the name "/"
// Passthrough, since protocol 7.40.
constexpr std::uint64_t kPassthrough = 1ull << 37;      // FUSE_PASSTHROUGH, bit 5 of flags2
constexpr std::uint32_t kOpenPassthrough = 1u << 7;     // FOPEN_PASSTHROUGH
constexpr std::uint32_t kStackDepth = 1;                // the file system beneath lies on no other
constexpr std::size_t kStackDepthAt = offsetof(fuse_init_out, flags2) + sizeof(std::uint32_t);  // max_stack_depth
struct BackingMap {  // fuse_backing_map
  std::int32_t fd;
  std::uint32_t flags;
  std::uint64_t padding;
};
constexpr unsigned long kBackingOpen = _IOW(229, 1, BackingMap);      // FUSE_DEV_IOC_BACKING_OPEN
constexpr unsigned long kBackingClose = _IOW(229, 2, std::uint32_t);  // FUSE_DEV_IOC_BACKING_CLOSE
constexpr unsigned kMaxWrite = 1u << 20;
constexpr unsigned kMaxBackground = 1024;

thread_local bool request_kills = false;
thread_local int reply_passes_to = 0;  // a backing id

bool kills_set_ids(const char* message, std::size_t size) {
  fuse_in_header head;
  std::memcpy(&head, message, sizeof head);
  const char* body = message + sizeof head;
  size -= sizeof head;
  auto has = [&](auto& arg) {
    if (size < sizeof arg) return false;
    std::memcpy(&arg, body, sizeof arg);
    return true;
  };
  switch (head.opcode) {
    case FUSE_WRITE: {
      fuse_write_in arg;
      return has(arg) && (arg.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
    }
    case FUSE_SETATTR: {
      fuse_setattr_in arg;
      return has(arg) && (arg.valid & FATTR_KILL_SUIDGID) != 0;
    }
    default: return false;
  }
}

ssize_t read_hook(int fd, void* buf, size_t size, void* userdata) {
  return static_cast<SessionData*>(userdata)->negotiation->read(fd, buf, size);
}

ssize_t write_hook(int fd, iovec* iov, int count, void* userdata) {
  return static_cast<SessionData*>(userdata)->negotiation->write(fd, iov, count);
}

}  // namespace

const char* library_version() { return fuse_pkgversion(); }

bool Negotiation::request_kills_set_ids() { return request_kills; }

int Negotiation::attach(fuse_session* session) {
  fuse_custom_io io = {};
  io.read = read_hook;
  io.writev = write_hook;
  fuse_fd_ = fuse_session_fd(session);
  return fuse_session_custom_io(session, &io, fuse_session_fd(session));
}

void Negotiation::init(fuse_conn_info* conn) {
  unsigned wanted = FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK |
                    FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_ASYNC_DIO | FUSE_CAP_IOCTL_DIR |
                    FUSE_CAP_SPLICE_WRITE | FUSE_CAP_CACHE_SYMLINKS;
  if (writeback_) wanted |= FUSE_CAP_WRITEBACK_CACHE;
  // Not AUTO_INVAL_DATA: nothing changes beneath the mount, and it makes stat wait behind a frozen writer. Not ATOMIC_O_TRUNC:
  // an open changes nothing, so that it never waits for the gate. Not SPLICE_READ: the layers look at the bytes of a write.
  conn->want = conn->capable & wanted;
  conn->max_write = kMaxWrite;
  conn->max_readahead = kMaxWrite;
  conn->max_background = kMaxBackground;
  conn->time_gran = 1;
}

ssize_t Negotiation::read(int fd, void* buf, std::size_t size) {
  ssize_t got = ::read(fd, buf, size);
  if (got < static_cast<ssize_t>(sizeof(fuse_in_header))) return got;
  auto* message = static_cast<char*>(buf);
  fuse_in_header head;
  std::memcpy(&head, message, sizeof head);
  request_kills = kills_set_ids(message, static_cast<std::size_t>(got));
  if (head.opcode == kTmpfileOpcode) {
    head.opcode = FUSE_CREATE;
    std::memcpy(message, &head, sizeof head);
  }
  if (head.opcode == FUSE_INIT && !done_.load(std::memory_order_relaxed)) {
    fuse_init_in init = {};
    std::memcpy(&init, message + sizeof head, std::min(sizeof init, static_cast<std::size_t>(got) - sizeof head));
    init_unique_ = head.unique;
    offered_ = init.flags;
    if ((init.flags & FUSE_INIT_EXT) != 0) offered_ |= static_cast<std::uint64_t>(init.flags2) << 32;
    minor_.store(init.minor, std::memory_order_relaxed);
  }
  return got;
}

Negotiation::Through::Through(int backing_id) { reply_passes_to = backing_id; }

Negotiation::Through::~Through() { reply_passes_to = 0; }

int Negotiation::open_backing(int fd) {
  BackingMap map = {fd, 0, 0};
  const int id = ::ioctl(fuse_fd_, kBackingOpen, &map);
  if (id > 0) return id;
  // Too many open files, or no memory, may pass; the rest is how things are here.
  if (const int e = errno; e != EMFILE && e != ENFILE && e != ENOMEM && e != ENOSPC) {
    log::debug("no passthrough: {}", std::strerror(e));
    passing_.store(e == EPERM ? Passing::not_allowed : Passing::not_beneath, std::memory_order_relaxed);
  }
  return 0;
}

void Negotiation::close_backing(int id) {
  auto closes = static_cast<std::uint32_t>(id);
  ::ioctl(fuse_fd_, kBackingClose, &closes);
}

namespace {

// Answers to open and create both end with it.
void pass_through(iovec& answer) {
  fuse_open_out out;
  if (answer.iov_len < sizeof out) return;
  char* at = static_cast<char*>(answer.iov_base) + answer.iov_len - sizeof out;
  std::memcpy(&out, at, sizeof out);
  out.open_flags |= kOpenPassthrough;
  std::memcpy(at, &out, sizeof out);
  std::memcpy(at + sizeof out - sizeof(std::int32_t), &reply_passes_to, sizeof(std::int32_t));  // backing_id, once padding
}

}  // namespace

ssize_t Negotiation::write(int fd, iovec* iov, int count) {
  if (reply_passes_to != 0 && count >= 2) pass_through(iov[1]);
  if (done_.load(std::memory_order_acquire) || count < 2) return ::writev(fd, iov, count);
  fuse_out_header head;
  std::memcpy(&head, iov[0].iov_base, sizeof head);
  fuse_init_out out = {};
  if (head.unique != init_unique_ || head.error != 0 || iov[1].iov_len < sizeof out) return ::writev(fd, iov, count);
  std::memcpy(&out, iov[1].iov_base, sizeof out);
  out.flags |= static_cast<std::uint32_t>(offered_ & (FUSE_HANDLE_KILLPRIV_V2 | FUSE_PARALLEL_DIROPS));
  // Not beside the writeback cache: the kernel would pass over it.
  const bool passes = wants_passthrough_ && (offered_ & kPassthrough) != 0 && !writeback_;
  if (passes) {
    out.flags |= FUSE_INIT_EXT;
    out.flags2 |= static_cast<std::uint32_t>(kPassthrough >> 32);
  }
  std::memcpy(iov[1].iov_base, &out, sizeof out);
  if (passes) std::memcpy(static_cast<char*>(iov[1].iov_base) + kStackDepthAt, &kStackDepth, sizeof kStackDepth);
  agreed_.store(out.flags & offered_, std::memory_order_relaxed);
  killpriv_v2_.store((out.flags & offered_ & FUSE_HANDLE_KILLPRIV_V2) != 0, std::memory_order_relaxed);
  // what the library made of our wishes
  max_write_.store(out.max_write, std::memory_order_relaxed);
  max_background_.store(out.max_background, std::memory_order_relaxed);
  done_.store(true, std::memory_order_release);
  const ssize_t sent = ::writev(fd, iov, count);
  if (!wants_passthrough_) return sent;
  // The kernel asks for our rights before it looks at the descriptor.
  BackingMap none = {-1, 0, 0};
  const bool allowed = !passes || ::ioctl(fd, kBackingOpen, &none) >= 0 || errno != EPERM;
  passing_.store(!passes ? Passing::no_kernel : allowed ? Passing::on : Passing::not_allowed, std::memory_order_relaxed);
  return sent;
}

InForce Negotiation::in_force() const {
  std::uint64_t on = agreed_.load(std::memory_order_relaxed);
  InForce f;
  f.protocol_minor = minor_.load(std::memory_order_relaxed);
  f.killpriv_v2 = (on & FUSE_HANDLE_KILLPRIV_V2) != 0;
  f.parallel_dirops = (on & FUSE_PARALLEL_DIROPS) != 0;
  f.posix_acl = (on & FUSE_POSIX_ACL) != 0;
  f.readdirplus = (on & FUSE_DO_READDIRPLUS) != 0;
  f.writeback = (on & FUSE_WRITEBACK_CACHE) != 0;
  switch (passing_.load(std::memory_order_relaxed)) {
    case Passing::unasked: f.passthrough = "not asked for"; break;
    case Passing::no_kernel: f.passthrough = "not offered by the kernel"; break;
    case Passing::not_allowed: f.passthrough = "not allowed to this user"; break;
    case Passing::not_beneath: f.passthrough = "not possible on the file system beneath"; break;
    case Passing::on: f.passthrough = "in force"; break;
  }
  f.splice_write = (on & FUSE_SPLICE_WRITE) != 0;
  f.tmpfile = f.protocol_minor >= 37;
  f.max_write = max_write_.load(std::memory_order_relaxed);
  f.max_background = max_background_.load(std::memory_order_relaxed);
  return f;
}

}  // namespace somfs::fs
