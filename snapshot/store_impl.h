// SPDX-License-Identifier: Apache-2.0
// The inside of the store, shared by its source files: store.cc (opening, snapshots), store_hooks.cc (pre-images),
// store_drop.cc (dropping and removing).
//
// Locks: admin → mutex. `admin` serialises the slow acts (prepare, remove); `mutex` is held for one log append or a few renames.
// What is appended to a log and what is known of it (`seen`) change together under `mutex`.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/fd.h"
#include "common/sync.h"
#include "snapshot/store.h"
#include "snapshot/store_head.h"
#include "snapshot/store_log.h"
#include "snapshot/store_seen.h"

namespace somfs::snapshot {

// One snapshot's directory, open. Constant but for what `Store::Impl::mutex` guards.
struct Snap {
  StoreEntry entry;
  SnapshotInfo info;
  Fd dir, info_file, log, data, kept;
  std::uint64_t log_end = 0;                    // guarded by the store's mutex
  std::uint64_t kept_bytes = 0;                 // likewise: space that only kept/ holds
  std::atomic<std::uint64_t> data_end = 0;
  std::atomic<bool> gone = false;

  static Result<std::shared_ptr<Snap>> create(int store_fd, const SnapshotInfo& info);
  // Opens and validates; a torn tail of the log is cut off. Every record is added to `seen`.
  static Result<std::shared_ptr<Snap>> open(int store_fd, const StoreEntry& entry, Seen* seen);
  Status for_each(const std::function<void(LogRecord&&)>& take) const;   // the log up to log_end
};

// Names in a directory, without "." and ".."; a removed one has none.
Result<std::vector<std::string>> read_names(int dir_fd);
// The same for the store's own directories: empty when it cannot be read.
std::vector<std::string> names_in(int dir_fd);

struct Store::Impl {
  Impl(const Clock& c, Options o) : clock(c), options(std::move(o)) {}

  const Clock& clock;
  const Options options;
  Fd dir, root;
  bool handles = false;                         // objects can be opened by handle (root)
  StoreHead head;
  std::atomic<bool> wanted = false;
  std::atomic<bool> can_clone = true;           // until FICLONE was refused
  // So much is copied between two looks at the free space, at most; and snapshots go when less than this is free beyond the reserve. So the
  // store does not take the reserve, not even in between.
  std::uint64_t margin() const { return std::clamp<std::uint64_t>(options.reserve_bytes / 4, 1u << 20, 16u << 20); }
  std::atomic<std::uint64_t> since_check = 0;   // bytes copied since free space was looked at
  std::atomic<std::size_t> link_count = 0;

  Mutex admin;
  Mutex mutex;
  std::vector<std::shared_ptr<Snap>> snaps GUARDED_BY(mutex);             // live and merging, oldest first
  std::map<std::string, std::shared_ptr<Snap>> prepared GUARDED_BY(mutex);
  std::shared_ptr<Snap> target GUARDED_BY(mutex);                         // the newest live one: takes the pre-images
  Seen seen GUARDED_BY(mutex);                                            // of target and of merging ones behind it
  std::vector<Seen> retired GUARDED_BY(mutex);                            // freed outside the cut
  std::unordered_map<ObjectId, std::uint32_t> links GUARDED_BY(mutex);    // the store's own, per object
  std::vector<DroppedSnapshot> dropped GUARDED_BY(mutex);                 // newest first
  std::vector<DroppedSnapshot> to_tell GUARDED_BY(mutex);
  std::vector<std::shared_ptr<Snap>> to_erase GUARDED_BY(mutex);          // directories renamed to gone-N
  unsigned erasing GUARDED_BY(mutex) = 0;                                 // threads that erase them
  CondVar erased;

  Status load(const Uuid& boot);

  // store_hooks.cc. They return an errno, 0 for success.
  int append(Snap& snap, const LogRecord& record) REQUIRES(mutex);        // and bumps the counter
  int append_target(const LogRecord& record) REQUIRES(mutex);             // and remembers it
  int preserve_attr(const ObjectId& object, int fd) REQUIRES(mutex);
  int preserve_name(const ObjectId& parent, int parent_fd, std::string_view name, const ObjectId& child,
                    const Handle* child_handle, int child_fd, bool last) REQUIRES(mutex);
  int keep(Snap& snap, int parent_fd, const std::string& name, int child_fd, const Inode& child, bool last) REQUIRES(mutex);
  int preserve_data(const ObjectId& object, int fd, Extent extent);
  int copy_run(const std::shared_ptr<Snap>& to, const ObjectId& object, int fd, std::uint64_t first, std::uint64_t length);
  // The content cannot be read before it is overwritten: whoever reads it in a snapshot is told so.
  int lose(const std::shared_ptr<Snap>& to, const ObjectId& object);
  int clone_whole(const std::shared_ptr<Snap>& to, const ObjectId& object, int fd);
  int commit(const std::shared_ptr<Snap>& to, const LogRecord& record);   // EAGAIN: `to` is no longer the target

  // store_drop.cc
  void drop(std::shared_ptr<Snap> snap, const std::string& reason) REQUIRES(mutex);
  void forget(std::shared_ptr<Snap> snap) REQUIRES(mutex);                // rename to gone-N, to be erased
  void drop_oldest(const std::string& reason) REQUIRES(mutex);
  void drop_every(const std::string& reason) REQUIRES(mutex);
  // A pre-image could not be kept: frees the oldest for want of space, else drops all. True: worth another try.
  bool recover(int error);
  void settle() noexcept;                                                 // erases what is gone, tells who asked; no lock held
  void erase(Snap& snap);
  void erase_kept(Snap& snap);
  void store_dropped();
  std::uint64_t free_bytes() const;
  Status remove(const std::string& name) REQUIRES(admin);
  Status merge(const std::shared_ptr<Snap>& from, const std::shared_ptr<Snap>& into, const Seen& have);
  int merge_record(Snap& from, Snap& into, const Seen& have, LogRecord&& record);
  int merge_chunks(Snap& from, Snap& into, const Seen& have, const ChunkRecord& record);
  int merge_kept(Snap& from, Snap& into);
  void step() const {
    if (options.at_step) options.at_step();
  }
};

}  // namespace somfs::snapshot
