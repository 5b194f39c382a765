// SPDX-License-Identifier: Apache-2.0
// Where a frame stands in the groups of one direction of a connection (docs/formats/channel.md, "Groups"): `begin` is frame 0 of its epoch, batches of
// records are 1, 2…, `commit` or `abort` is the last. What else is said belongs to no group, and neither does what comes outside one: whether that is
// due is for the conversation. Each end counts for itself, in the order of the wire; one writes what it counted, the other takes nothing else. Pure.
#pragma once

#include <cstdint>

#include "replicator/wire.h"

namespace somfs::replicator {

struct FramePlace {
  std::uint64_t group = 0;              // epoch; 0: none
  std::uint32_t index = 0, count = 0;   // count: frames of the group, where that is known: in its last one. Both modulo 2^32
  bool operator==(const FramePlace&) const = default;
};

class GroupPlace {
 public:
  // Of the next frame. `epoch`: what a `begin` says, 0 where it cannot be read; else not looked at.
  FramePlace next(MessageType type, std::uint64_t epoch) {
    if (type == MessageType::begin) return last_ = {epoch, 0, 0};
    const bool ends = type == MessageType::commit || type == MessageType::abort;
    if (last_.group == 0 || (!ends && type != MessageType::records)) return {};
    ++last_.index;
    if (!ends) return last_;
    const FramePlace end{last_.group, last_.index, last_.index + 1};
    last_ = {};
    return end;
  }

 private:
  FramePlace last_;                          // of the group under way
};

}  // namespace somfs::replicator
