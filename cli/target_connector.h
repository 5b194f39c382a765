// SPDX-License-Identifier: Apache-2.0
// Conversations with a target, for what keeps a mirror in step (replicator/relation.h, replicator/forward.h).
#pragma once

#include <memory>
#include <utility>

#include "cli/target.h"
#include "common/sync.h"
#include "replicator/relation.h"

namespace somfs::cli {

class TargetConnector final : public replicator::Connector {
 public:
  TargetConnector(Target target, const replicator::StreamSettings& link) : target_(std::move(target)), settings_(link) {}

  Result<std::unique_ptr<replicator::Transport>> connect() override {
    auto link = std::make_unique<MirrorLink>(target_, MirrorLink::Missing::make, settings_);
    MirrorLink* fresh = link.get();
    {
      Lock l(mutex_);
      link_.swap(link);
      if (interrupted_) fresh->interrupt();
    }
    return fresh->connect();
  }
  Status finish() override {
    MirrorLink* link = nullptr;   // stays where an interruption finds it
    {
      Lock l(mutex_);
      link = link_.get();
    }
    return link != nullptr ? link->finish() : Status();
  }
  void interrupt(bool on) override {
    Lock l(mutex_);
    interrupted_ = on;
    if (on && link_) link_->interrupt();
  }

 private:
  const Target target_;
  const replicator::StreamSettings settings_;
  Mutex mutex_;
  std::unique_ptr<MirrorLink> link_ GUARDED_BY(mutex_);
  bool interrupted_ GUARDED_BY(mutex_) = false;
};

}  // namespace somfs::cli
