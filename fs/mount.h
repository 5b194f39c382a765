// SPDX-License-Identifier: Apache-2.0
// The mount: a libfuse session over a Backing, and the threads that serve it.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/result.h"
#include "common/sync.h"
#include "fs/backing.h"
#include "fs/filter.h"
#include "fs/negotiation.h"
#include "fs/virtual_tree.h"

struct fuse_session;

namespace somfs::fs {

struct MountOptions {
  std::vector<std::string> options;   // as after -o: "nosuid", "sync"; what libfuse and the kernel do not know is refused
  bool allow_other = true;            // root only
  bool read_only = false;             // leaves access times alone too
  bool no_atime = false;
  bool no_dir_atime = false;
  bool writeback = false;             // faster small writes; a snapshot is then at best what a power cut would leave
  bool passthrough = false;           // faster reading; not with writeback. Opens for reading and writing may be refused, see IoModes
  off_t passthrough_from = 64 << 10;  // smaller files do not gain by it
  std::string fsname;                 // empty: the protected directory
  unsigned threads = 16;
  std::size_t descriptors = 0;        // O_PATH descriptors to keep; 0: what the limits allow, at most 10 000
  bool debug = false;
};

class Passthrough;

class Mount {
 public:
  // Mounts. `backing` is borrowed and outlives this, as does everything else handed in; sink, pre_images, tree and witness may be null.
  // The journal and the store can be opened beneath backing.fd() before.
  static Result<std::unique_ptr<Mount>> open(const Backing& backing, const MountOptions& options, Chain chain,
                                             PreImages* pre_images, ChangeSink* sink, VirtualTree* tree, Witness* witness = nullptr);
  ~Mount();
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  // Serves until it is unmounted, by umount(8) or stop(). Parked operations must have been released, and what waits for the witness
  // answered, before this is destroyed.
  Status run();
  // Unmounts; from any thread but one that serves. Files still open keep the tree from going at once: it is flushed and detached.
  void stop();
  InForce in_force() const;
  std::uint64_t reads() const;        // requests to read a file that came to us
  // fsync, through the mount, of every inode that is open for writing, in a child process that is killed when `longest` has
  // passed. True: all were flushed. For before the gate closes; needs run() in progress.
  bool barrier(std::chrono::milliseconds longest);

 private:
  Mount(const Backing& backing, Chain chain);
  void serve(std::stop_token stop);
  bool is_mounted() const;
  void end_workers();
  void reap(bool wait);

  const Backing& backing_;
  const Chain chain_;
  std::unique_ptr<Negotiation> negotiation_;
  std::unique_ptr<Passthrough> passthrough_;
  SessionData data_;
  fuse_session* session_ = nullptr;
  unsigned threads_ = 0;
  std::string device_;  // of our mount: how it is told from what else may be mounted there

  Mutex mutex_;
  CondVar ended_;
  unsigned serving_ GUARDED_BY(mutex_) = 0;
  int failure_ GUARDED_BY(mutex_) = 0;
  std::vector<pid_t> late_ GUARDED_BY(mutex_);  // children of barriers that ran out of time
};

// Best effort, as root: memory locked, spared by the out-of-memory killer, as many descriptors as allowed. The number of O_PATH
// descriptors that may be kept is returned.
std::size_t settle_process();

}  // namespace somfs::fs
