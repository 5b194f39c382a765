// SPDX-License-Identifier: Apache-2.0
// A conversation that tells a mirror every few seconds that its source lives, whatever else is said.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "common/sync.h"
#include "replicator/wire.h"

namespace somfs::replicator {

// One sender at a time, whoever sends.
class InTurn final : public Transport {
 public:
  explicit InTurn(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}
  Status send(Message message) override {
    Lock l(mutex_);
    return transport_->send(std::move(message));
  }
  Result<Message> receive() override { return transport_->receive(); }
  void close() noexcept override { transport_->close(); }
  std::uint64_t bytes_sent() const override { return transport_->bytes_sent(); }
  std::uint64_t bytes_received() const override { return transport_->bytes_received(); }
  StageSums stages() const override { return transport_->stages(); }
  HowSent how_sent() const override {
    Lock l(mutex_);
    return transport_->how_sent();
  }

 private:
  const std::unique_ptr<Transport> transport_;
  mutable Mutex mutex_;
};

// Tells the mirror every few seconds that the source lives, for as long as the conversation does. Made before whatever closes the transport.
class SignOfLife {
 public:
  explicit SignOfLife(Transport& transport) : transport_(transport) {}
  void begin(double every_s) {
    thread_ = std::jthread([this, every = std::chrono::duration<double>(every_s)](const std::stop_token& stop) {
      std::unique_lock l(mutex_);
      while (!over_.wait_for(l, stop, every, [&] { return stop.stop_requested(); }) && !stop.stop_requested())
        if (!transport_.send({MessageType::alive, {}})) return;
    });
  }

 private:
  Transport& transport_;
  std::mutex mutex_;
  std::condition_variable_any over_;
  std::jthread thread_;   // last: it uses everything above
};

}  // namespace somfs::replicator
