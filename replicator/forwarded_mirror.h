// SPDX-License-Identifier: Apache-2.0
// A mirror directory that conversations with its source and forwards to the next mirrors share: one of them has it open at a time. A forward that
// needs it to stand still makes the conversations step aside between two epochs.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "replicator/forward.h"

namespace somfs::replicator {

class ForwardedMirror final : public Forwarded, public std::enable_shared_from_this<ForwardedMirror> {
 public:
  ForwardedMirror(std::string path, std::uint64_t spool_bound) : path_(std::move(path)), spool_(std::make_shared<Spool>(spool_bound)) {}

  // For a conversation; made when there is none. Exit::locked at once while it has to stand still, and when somebody else has it.
  Result<std::unique_ptr<Mirror>> open();
  Spool& spool() override { return *spool_; }
  Result<std::unique_ptr<StandStill>> stand_still(const std::function<bool()>& give_up) override;
  Status look() override;
  bool wanted() const { return wanted_ != 0; }

 private:
  class Quiet;
  Result<std::unique_ptr<Mirror>> open(Mirror::Mode mode);
  const std::string path_;
  const std::shared_ptr<Spool> spool_;
  std::atomic<unsigned> wanted_{0};   // forwards that have it or wait for it
};

// Around the transport of a conversation (borrowed), which it ends with Exit::locked between two epochs when the mirror has to stand still.
class Yielding final : public Transport {
 public:
  explicit Yielding(Transport& transport) : transport_(transport) {}
  void with(std::shared_ptr<const ForwardedMirror> mirror) { mirror_ = std::move(mirror); }   // once it is known which one it is about; by whoever receives
  Status send(Message message) override { return transport_.send(std::move(message)); }
  Result<Message> receive() override;
  void close() noexcept override { transport_.close(); }
  std::uint64_t bytes_sent() const override { return transport_.bytes_sent(); }
  std::uint64_t bytes_received() const override { return transport_.bytes_received(); }
  StageSums stages() const override { return transport_.stages(); }
  HowSent how_sent() const override { return transport_.how_sent(); }

 private:
  Result<Message> part();
  bool wanted() const { return mirror_ && mirror_->wanted() && !in_epoch_; }
  Transport& transport_;
  std::shared_ptr<const ForwardedMirror> mirror_;
  bool in_epoch_ = false;
};

}  // namespace somfs::replicator
