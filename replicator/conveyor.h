// SPDX-License-Identifier: Apache-2.0
// Jobs on which several threads work at once and which leave in the order in which they came: frames between the thread that makes
// them and the one that writes them, or between the one that reads them and the one that takes them.
//
// A job passes the lanes that it was put in for, one after the other; every lane has up to `per_lane` jobs under way. Bounded by bytes.
// Thread-safe; who puts is one thread, who takes is one thread.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "common/sync.h"

namespace somfs::replicator {

template <class Job>
class Conveyor {
 public:
  static constexpr unsigned kLanes = 2;
  using Work = std::function<void(Job& job, unsigned lane, unsigned lanes)>;   // what failed is noted in the job

  Conveyor(unsigned threads, unsigned per_lane, std::size_t bound, Work work) : per_lane_(per_lane), bound_(bound), work_(std::move(work)) {
    for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
  }
  ~Conveyor() { abandon(); }

  // With `lanes` of 0 it has only its turn to wait for. Waits while too much is under way; false: nothing is taken any more.
  bool put(std::unique_ptr<Job> job, unsigned lanes, std::size_t bytes) EXCLUDES(mutex_) {
    Lock l(mutex_);
    while (!over_ && !ended_ && !jobs_.empty() && bytes_ + bytes > bound_) room_.wait(mutex_);
    if (over_ || ended_) return false;
    bytes_ += bytes;
    jobs_.push_back({std::move(job), bytes, 0, lanes, false});
    if (lanes == 0) ready_.notify_one();
    else wanted_.notify_one();
    return true;
  }

  // The oldest, when it has passed its lanes. Null: the last has left, or they were abandoned.
  std::unique_ptr<Job> take() EXCLUDES(mutex_) {
    Lock l(mutex_);
    while (!over_ && !(jobs_.empty() ? ended_ : jobs_.front().done())) ready_.wait(mutex_);
    if (over_ || jobs_.empty()) return nullptr;
    std::unique_ptr<Job> job = std::move(jobs_.front().job);
    bytes_ -= jobs_.front().bytes;
    jobs_.pop_front();
    room_.notify_one();
    if (ended_ && jobs_.empty()) wanted_.notify_all();   // the threads may go
    return job;
  }

  bool empty() const EXCLUDES(mutex_) {
    Lock l(mutex_);
    return jobs_.empty();
  }

  // Nothing more is put; what is there still leaves.
  void end() EXCLUDES(mutex_) {
    Lock l(mutex_);
    ended_ = true;
    wake();
  }

  // Nothing more leaves either. Jobs under way are let finish by their threads.
  void abandon() noexcept EXCLUDES(mutex_) {
    Lock l(mutex_);
    over_ = true;
    wake();
  }

 private:
  struct Entry {
    std::unique_ptr<Job> job;
    std::size_t bytes;
    unsigned lane, lanes;
    bool busy;
    bool done() const { return lane == lanes && !busy; }
  };

  void wake() REQUIRES(mutex_) {
    room_.notify_all();
    wanted_.notify_all();
    ready_.notify_all();
  }

  Entry* next() REQUIRES(mutex_) {
    for (Entry& e : jobs_)
      if (!e.busy && e.lane < e.lanes && active_[e.lane] < per_lane_) return &e;
    return nullptr;
  }

  // An entry that is busy stays where it is: it is not done. Null: there will be no more.
  Entry* begin() EXCLUDES(mutex_) {
    Lock l(mutex_);
    for (;;) {
      if (over_ || (ended_ && jobs_.empty())) return nullptr;
      if (Entry* e = next(); e != nullptr) {
        e->busy = true;
        ++active_[e->lane];
        return e;
      }
      wanted_.wait(mutex_);
    }
  }

  void finish(Entry& e) EXCLUDES(mutex_) {
    Lock l(mutex_);
    --active_[e.lane];
    e.busy = false;
    ++e.lane;
    if (e.done()) ready_.notify_one();
    wanted_.notify_one();   // its next lane, or who had no room in this one; this thread looks for the other itself
  }

  void run() {
    while (Entry* e = begin()) {
      work_(*e->job, e->lane, e->lanes);
      finish(*e);
    }
  }

  const unsigned per_lane_;
  const std::size_t bound_;
  const Work work_;

  mutable Mutex mutex_;
  CondVar room_, wanted_, ready_;
  std::list<Entry> jobs_ GUARDED_BY(mutex_);
  std::size_t bytes_ GUARDED_BY(mutex_) = 0;
  unsigned active_[kLanes] GUARDED_BY(mutex_) = {};
  bool ended_ GUARDED_BY(mutex_) = false, over_ GUARDED_BY(mutex_) = false;

  std::vector<std::jthread> threads_;   // last: they use everything above, and are joined first
};

}  // namespace somfs::replicator
