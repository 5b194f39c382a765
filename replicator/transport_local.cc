// SPDX-License-Identifier: Apache-2.0
// Two ends in one process: a queue for each direction, bounded by bytes.
#include <deque>

#include "common/sync.h"
#include "replicator/wire.h"

namespace somfs::replicator {
namespace {

// One direction. What was queued before the end is still handed out after it: an error message is read before the link is down.
class Queue {
 public:
  explicit Queue(std::size_t bound) : bound_(bound) {}

  Status put(Message message) {
    Lock l(mutex_);
    while (!ended_ && !queue_.empty() && bytes_ + message.body.size() > bound_) room_.wait(mutex_);
    if (ended_) return fail(Exit::link_down, "cannot send", {}, "the other side went away");
    bytes_ += message.body.size();
    passed_ += message.body.size();
    queue_.push_back(std::move(message));
    ready_.notify_one();
    return {};
  }

  Result<Message> take() {
    Lock l(mutex_);
    while (!ended_ && queue_.empty()) ready_.wait(mutex_);
    if (queue_.empty()) return fail(Exit::link_down, "cannot receive", {}, "the other side went away");
    Message message = std::move(queue_.front());
    queue_.pop_front();
    bytes_ -= message.body.size();
    room_.notify_one();
    return message;
  }

  void end() noexcept {
    Lock l(mutex_);
    ended_ = true;
    room_.notify_all();
    ready_.notify_all();
  }

  std::uint64_t passed() const {
    Lock l(mutex_);
    return passed_;
  }

 private:
  const std::size_t bound_;
  mutable Mutex mutex_;
  CondVar room_, ready_;
  std::deque<Message> queue_ GUARDED_BY(mutex_);
  std::size_t bytes_ GUARDED_BY(mutex_) = 0;
  std::uint64_t passed_ GUARDED_BY(mutex_) = 0;
  bool ended_ GUARDED_BY(mutex_) = false;
};

class LocalEnd final : public Transport {
 public:
  LocalEnd(std::shared_ptr<Queue> in, std::shared_ptr<Queue> out) : in_(std::move(in)), out_(std::move(out)) {}
  ~LocalEnd() override { close(); }

  Status send(Message message) override {
    if (message.body.size() > kMaxBody) return fail(Exit::temporary, "cannot send", {}, "the message is larger than the protocol allows");
    return out_->put(std::move(message));
  }
  Result<Message> receive() override { return in_->take(); }
  void close() noexcept override {
    in_->end();
    out_->end();
  }
  std::uint64_t bytes_sent() const override { return out_->passed(); }
  std::uint64_t bytes_received() const override { return in_->passed(); }

 private:
  std::shared_ptr<Queue> in_, out_;
};

}  // namespace

std::pair<std::unique_ptr<Transport>, std::unique_ptr<Transport>> make_pair_in_process(std::size_t bound) {
  auto forth = std::make_shared<Queue>(bound), back = std::make_shared<Queue>(bound);
  return {std::make_unique<LocalEnd>(back, forth), std::make_unique<LocalEnd>(forth, back)};
}

}  // namespace somfs::replicator
