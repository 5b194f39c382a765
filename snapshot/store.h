// SPDX-License-Identifier: Apache-2.0
// The pre-image store: what the newest snapshot needs to keep showing the past. One directory per snapshot with an append-only
// log (names, attributes, where chunks lie), one data file of 64 KiB chunks, and `kept/` with hard links of objects that lost
// a name. Creating a snapshot costs O(1). A pre-image is kept once, for the newest snapshot; older ones look there too.
//
// Order on disk and in memory: pre-image data, then its log record, then the shared counter in `head`, and only then the change itself.
// Readers (view.h) may be other processes: they read the backing file first and consult the log afterwards; if the chunk, attribute
// or name was preserved meanwhile they take the pre-image. Pre-images are not synced: after a power loss snapshots are dropped.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/change.h"
#include "common/clock.h"
#include "common/result.h"
#include "common/uuid.h"

namespace somfs::snapshot {

struct SnapshotInfo {
  std::string name;
  std::uint64_t epoch = 0;          // the epoch that the cut ended
  std::int64_t created_ns = 0;      // wall clock
  bool for_migration = false;       // made by a requester: expires with its lease
  std::int64_t expires_ns = 0;      // 0: never
  std::string consistency;          // "application", "crash": which writers took part
  std::uint64_t store_bytes = 0;    // space its pre-images take
};

struct DroppedSnapshot {
  std::string name, reason;
  std::int64_t when_ns = 0;
};

class Store final : public PreImages {
 public:
  struct Options {
    std::uint64_t reserve_bytes = 0;          // keep this much of the file system free: default max(256 MiB, 5 %) chosen by the caller
    // Memory for the index, which is the newest snapshot's: older ones have none, and read through the newest. So beyond the bound
    // all are dropped; without the older ones it would be as large.
    std::size_t index_bytes = 64u << 20;
    std::function<void(const DroppedSnapshot&)> on_drop;  // called without locks of the store held
    std::function<void()> at_step;            // called between the steps of a removal: tests stop there
  };
  // `dir_fd`: the store's directory, on the backing file system; `root_fd`: the protected directory.
  // Snapshots found there are kept when `boot` is the boot they were last written in, else dropped with the reason.
  static Result<std::unique_ptr<Store>> open(int dir_fd, int root_fd, const Uuid& boot, const Clock& clock, Options options);
  ~Store() override;

  // PreImages
  bool wanted() const noexcept override;
  void before_data(const ObjectId& object, int fd, Extent extent) noexcept override;
  void before_attr(const ObjectId& object, int fd) noexcept override;
  void before_name(const ObjectId& parent, int parent_fd, std::string_view name, const ObjectId& child,
                   const Handle* child_handle, int child_fd, bool last) noexcept override;
  bool make_room() noexcept override;
  std::uint32_t own_links(const ObjectId& object) const noexcept override;

  // Two steps so that nothing slow happens while mutations are stopped: prepare() makes the files, take() (at the cut) makes it
  // the newest snapshot, O(1); cancel() removes what prepare() made, and a snapshot already taken whose cut did not hold. An existing
  // or invalid name: Exit::usage.
  Status prepare(const SnapshotInfo& info);
  Status take(const std::string& name, std::uint64_t epoch) noexcept;
  void cancel(const std::string& name) noexcept;
  // Known only after the cut: "application" or "crash".
  void set_consistency(const std::string& name, const std::string& consistency);

  std::vector<SnapshotInfo> list() const;             // oldest first
  std::optional<SnapshotInfo> find(const std::string& name) const;
  // Frees its space. Pre-images that older snapshots still need move to the next older one first.
  Status remove(const std::string& name);
  void drop_all(const std::string& reason);           // e.g. the tree was changed while it was not mounted
  std::vector<DroppedSnapshot> dropped() const;       // the last 16, newest first; kept across restarts
  // Drops snapshots, oldest first, until free space is above the reserve again. Called by a timer and before large pre-images.
  void keep_reserve() noexcept;
  void expire() noexcept;                             // those whose time has come

 private:
  struct Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A snapshot name is one path component of [A-Za-z0-9._:-], not starting with '.', at most 64 characters.
bool valid_snapshot_name(std::string_view name);

}  // namespace somfs::snapshot
