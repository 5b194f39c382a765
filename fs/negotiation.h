// SPDX-License-Identifier: Apache-2.0
// What kernel and library agree on when the mount starts, and what goes beyond the library: some fast features are
// offered by the kernel but not asked for by older libfuse. We sit between the library and /dev/fuse, set the missing bits in the
// INIT reply, and read from each request what the library does not pass on. Everything falls back silently.
// Source: include/uapi/linux/fuse.h.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include <sys/types.h>
#include <sys/uio.h>

struct fuse_session;
struct fuse_conn_info;

namespace somfs::fs {

struct InForce {
  unsigned protocol_minor = 0;     // of the kernel
  bool killpriv_v2 = false;        // no request for security.capability on every write; set-id bits are cleared by us
  bool parallel_dirops = false;
  bool posix_acl = false;
  bool readdirplus = false;
  bool writeback = false;
  const char* passthrough = "not asked for";  // of read-only opens
  bool splice_write = false;
  bool tmpfile = false;
  unsigned max_write = 0;
  unsigned max_background = 0;
  bool by_handle = false;          // objects are reopened by kernel handle (root), else by their place in the tree
  std::size_t descriptors = 0;     // size of the ring of O_PATH descriptors
};

// The version of libfuse that is loaded.
const char* library_version();

class Negotiation {
 public:
  explicit Negotiation(bool writeback, bool passthrough = false) : writeback_(writeback), wants_passthrough_(passthrough) {}

  // After the session was mounted: puts us between the library and the kernel. The session's user data must be a SessionData.
  int attach(fuse_session* session);
  // From the library's init callback.
  void init(fuse_conn_info* conn);
  InForce in_force() const;
  bool killpriv_v2() const { return killpriv_v2_.load(std::memory_order_relaxed); }

  // Whether the request that this thread is handling asks to clear set-user-id and set-group-id (KILLPRIV_V2).
  static bool request_kills_set_ids();

  // Whether open files may pass us by.
  bool passthrough() const { return passing_.load(std::memory_order_relaxed) == Passing::on; }
  // The kernel's id of a file beneath, by a descriptor that may be closed afterwards; 0: it gives none. Each is to be closed.
  int open_backing(int fd);
  void close_backing(int id);
  // While it lives, this thread's answer to an open makes the kernel use this file beneath; 0 changes nothing.
  class Through {
   public:
    explicit Through(int backing_id);
    ~Through();
    Through(const Through&) = delete;
    Through& operator=(const Through&) = delete;
  };

  // One request from the kernel, one reply to it.
  ssize_t read(int fd, void* buf, std::size_t size);
  ssize_t write(int fd, iovec* iov, int count);

 private:
  enum class Passing : std::uint8_t { unasked, no_kernel, not_allowed, not_beneath, on };

  const bool writeback_;
  const bool wants_passthrough_;
  int fuse_fd_ = -1;
  std::atomic<Passing> passing_{Passing::unasked};
  std::atomic<bool> done_{false};
  std::uint64_t init_unique_ = 0;
  std::uint64_t offered_ = 0;      // flags and flags2 of the kernel's INIT
  std::atomic<std::uint64_t> agreed_{0};
  std::atomic<bool> killpriv_v2_{false};
  std::atomic<unsigned> minor_{0};
  std::atomic<unsigned> max_write_{0};
  std::atomic<unsigned> max_background_{0};
};

class Passthrough;

// The user data of the session.
struct SessionData {
  Passthrough* passthrough = nullptr;
  Negotiation* negotiation = nullptr;
};

}  // namespace somfs::fs
