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
  // Around the transport of a conversation (borrowed), which it ends with Exit::locked between two epochs when the mirror has to stand still.
  std::unique_ptr<Transport> yielding(Transport& transport);

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

}  // namespace somfs::replicator
