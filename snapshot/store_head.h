// SPDX-License-Identifier: Apache-2.0
// `head`: one page of the store's directory, mapped by the store (writing) and by every view (reading), in any process.
// `changes` grows after every log append and every change of the set of snapshots, before the change of the volume that the
// append precedes; `structure` grows (first) when the set of snapshots changed. A reader that sees an unchanged `changes`
// knows that nothing was preserved since it looked last. `untold` counts the snapshots that were dropped and whose reason is not written
// down yet: room is made first.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/fd.h"
#include "common/result.h"
#include "common/uuid.h"

namespace somfs::snapshot {

class StoreHead {
 public:
  StoreHead() = default;
  StoreHead(StoreHead&& o) noexcept;
  StoreHead& operator=(StoreHead&& o) noexcept;
  ~StoreHead();

  // For the store: exactly one process may hold it (Exit::locked). `fresh()`: there was none, or not one of ours.
  static Result<StoreHead> open_writer(int dir_fd);
  static Result<StoreHead> open_reader(int dir_fd);

  bool fresh() const { return fresh_; }
  Uuid boot() const;
  bool synced() const;                 // closed cleanly, everything synced
  // Durable on return.
  Status begin(const Uuid& boot);
  Status mark_synced();

  std::uint64_t next_seq();            // numbers of snapshots are never given twice
  std::uint64_t changes() const { return page_->changes.load(std::memory_order_acquire); }
  std::uint64_t structure() const { return page_->structure.load(std::memory_order_acquire); }
  std::uint64_t untold() const { return page_->untold.load(std::memory_order_acquire); }
  void add_untold() { page_->untold.fetch_add(1, std::memory_order_release); }
  void told(std::uint64_t drops) { page_->untold.fetch_sub(drops, std::memory_order_release); }
  void bump() { page_->changes.fetch_add(1, std::memory_order_release); }
  void bump_structure() {
    page_->structure.fetch_add(1, std::memory_order_release);
    bump();
  }

 private:
  struct Page {
    char magic[8];
    std::uint32_t version;
    std::uint32_t synced;
    std::uint8_t boot[16];
    std::uint64_t next_seq;
    char pad[24];
    std::atomic<std::uint64_t> changes;    // offset 64
    std::atomic<std::uint64_t> structure;  // offset 72
    std::atomic<std::uint64_t> untold;     // offset 80
  };
  static_assert(std::atomic<std::uint64_t>::is_always_lock_free && sizeof(Page) == 88);

  Fd fd_;
  Page* page_ = nullptr;
  bool fresh_ = false;
};

}  // namespace somfs::snapshot
