// SPDX-License-Identifier: Apache-2.0
#include "fs/io_modes.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace somfs::fs {

IoModes::~IoModes() { finish(); }

int IoModes::open_backing(const Node& node, int fd) const {
  struct stat st;
  if (fd < 0 || ::fstat(fd, &st) != 0 || st.st_size < from_) return 0;
  // The kernel opens the file anew, by the mount and the name of the descriptor and with the application's flags: access times are the mount's business.
  Fd own;
  if (quiet_) {
    own = open_handle(quiet_root_.get(), node.handle, O_RDONLY);
    fd = own.get();
  }
  return fd < 0 ? 0 : negotiation_.open_backing(fd);
}

Way IoModes::try_enter(Node& node, int fd, Access access) {
  Counts& counts = open_[&node];
  if (access == Access::both) node.read_write.store(true, std::memory_order_relaxed);
  if (counts.passing > 0) {
    if (access == Access::both) return {};
    ++counts.passing;
    return {access == Access::read ? IoMode::passing : IoMode::direct, counts.backing_id};
  }
  if (access == Access::read && counts.cached == 0 && negotiation_.passthrough() && !node.read_write.load(std::memory_order_relaxed)) {
    counts.backing_id = open_backing(node, fd);
    if (counts.backing_id > 0) {
      counts.passing = 1;
      return {IoMode::passing, counts.backing_id};
    }
  }
  ++counts.cached;
  return {IoMode::cached, 0};
}

Way IoModes::enter(Node& node, int fd, Access access) {
  Lock l(mutex_);
  return try_enter(node, fd, access);
}

void IoModes::enter(Node& node, int fd, Access access, std::function<void(Way)> answer) {
  Way way;
  {
    Lock l(mutex_);
    way = try_enter(node, fd, access);
    if (way.mode == IoMode::none && !ends_) {
      waiting_.push_back({&node, std::chrono::steady_clock::now() + kPatience, std::move(answer)});
      if (!thread_.joinable()) thread_ = std::thread([this] { refuse_the_late(); });
      changed_.notify_all();
      return;
    }
  }
  answer(way);
}

void IoModes::leave(Node& node, IoMode mode) {
  if (mode == IoMode::none) return;
  std::vector<Waiting> now;
  {
    Lock l(mutex_);
    auto at = open_.find(&node);
    Counts& counts = at->second;
    if (mode == IoMode::cached) {
      --counts.cached;
    } else if (--counts.passing == 0) {
      negotiation_.close_backing(std::exchange(counts.backing_id, 0));
      for (Waiting& w : waiting_)
        if (w.node == &node) now.push_back(std::move(w));
      std::erase_if(waiting_, [&](const Waiting& w) { return w.node == &node; });
      counts.cached += static_cast<unsigned>(now.size());
    }
    if (counts.cached == 0 && counts.passing == 0) open_.erase(at);
  }
  for (Waiting& w : now) w.answer({IoMode::cached, 0});
}

void IoModes::finish() {
  std::thread thread;
  {
    Lock l(mutex_);
    ends_ = true;
    thread = std::move(thread_);
  }
  changed_.notify_all();
  if (thread.joinable()) thread.join();
}

void IoModes::refuse_the_late() {
  for (;;) {
    std::vector<Waiting> late;
    bool ends = false;
    {
      Lock l(mutex_);
      while (!ends_ && (waiting_.empty() || waiting_.front().until > std::chrono::steady_clock::now())) {
        if (waiting_.empty())
          changed_.wait(mutex_);
        else
          changed_.wait_until(mutex_, waiting_.front().until);
      }
      ends = ends_;
      const Time now = std::chrono::steady_clock::now();
      auto first_in_time = std::find_if(waiting_.begin(), waiting_.end(), [&](const Waiting& w) { return !ends && w.until > now; });
      late.assign(std::make_move_iterator(waiting_.begin()), std::make_move_iterator(first_in_time));
      waiting_.erase(waiting_.begin(), first_in_time);
    }
    for (Waiting& w : late) w.answer({});
    if (ends) return;
  }
}

}  // namespace somfs::fs
