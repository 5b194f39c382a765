// SPDX-License-Identifier: Apache-2.0
// What a view knows of the logs of its snapshot and of the newer ones: for each name, attribute set and range the pre-image of
// the oldest that has one. Follows the logs as they grow, in any process. Thread-safe.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/fd.h"
#include "common/sync.h"
#include "snapshot/store_head.h"
#include "snapshot/store_log.h"

namespace somfs::snapshot {

struct NamePre {   // what a name named at the cut; child {}: nothing
  ObjectId child;
  Kind kind = Kind::none;
  Handle handle;
};
struct AttrPre {
  Attr attr;
  Xattrs xattrs;
  std::vector<std::string> unread;
};
struct LogSource {     // one snapshot's directory; descriptors outlive its removal
  StoreEntry entry;
  Fd log, data, kept;
  std::uint64_t read = 0;
};
struct RunPre {        // consecutive chunks
  std::uint64_t count = 0;
  std::uint64_t data_off = 0;
  std::uint64_t length = 0;      // bytes; the last chunk may be short
  bool hole = false;
  std::shared_ptr<const LogSource> source;
};
using Runs = std::map<std::uint64_t, RunPre>;  // by first chunk, disjoint

class ViewIndex {
 public:
  static Result<std::unique_ptr<ViewIndex>> open(int store_fd, const std::string& name);

  const SnapshotInfo& info() const { return info_; }
  // After a read of the backing file: brings everything in that was preserved before it. An atomic load when nothing was.
  // Exit::no_space: the snapshot was dropped or removed.
  Status sync();

  std::optional<NamePre> name(const ObjectId& parent, const std::string& name) const;
  std::map<std::string, NamePre> names(const ObjectId& parent) const;
  std::shared_ptr<const AttrPre> attr(const ObjectId& object) const;
  // The runs of `object` that touch chunks [first, last].
  Runs runs(const ObjectId& object, std::uint64_t first, std::uint64_t last) const;
  bool whole(const ObjectId& object) const;
  std::uint64_t version() const;                 // grows with every record taken in
  bool lost_name(const ObjectId& object) const;  // it had a name at the cut that it lost since
  Fd open_kept(const ObjectId& object, int flags) const;   // the object itself, by a link of the store
  Fd open_whole(const ObjectId& object) const;             // what holds all chunks without a record, when whole()
  std::uint32_t own_links(const ObjectId& object) const;

 private:
  ViewIndex() = default;
  Status rescan() REQUIRES(mutex_);
  Status read_logs() REQUIRES(mutex_);
  void take(LogRecord&& record, const std::shared_ptr<const LogSource>& from) REQUIRES(mutex_);
  std::string why_lost() const;

  Fd dir_;
  StoreHead head_;
  SnapshotInfo info_;
  StoreEntry self_;
  std::atomic<std::uint64_t> synced_ = 0;        // `changes` that everything below includes
  std::atomic<bool> empty_ = true;

  mutable SharedMutex mutex_;
  std::uint64_t structure_ GUARDED_BY(mutex_) = ~0ull;
  std::uint64_t version_ GUARDED_BY(mutex_) = 0;
  bool lost_ GUARDED_BY(mutex_) = false;
  std::string lost_why_ GUARDED_BY(mutex_);  // once asked for
  std::vector<std::shared_ptr<LogSource>> chain_ GUARDED_BY(mutex_);   // this snapshot and newer ones, oldest first
  std::vector<std::shared_ptr<LogSource>> all_ GUARDED_BY(mutex_);     // every directory that may hold links
  std::unordered_map<ObjectId, std::map<std::string, NamePre>> names_ GUARDED_BY(mutex_);
  std::unordered_set<ObjectId> lost_names_ GUARDED_BY(mutex_);
  std::unordered_map<ObjectId, std::shared_ptr<const AttrPre>> attrs_ GUARDED_BY(mutex_);
  struct Data {
    Runs runs;
    bool whole = false;
  };
  std::unordered_map<ObjectId, Data> data_ GUARDED_BY(mutex_);
};

}  // namespace somfs::snapshot
