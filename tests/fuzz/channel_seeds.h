// SPDX-License-Identifier: Apache-2.0
// The keys with which the seeds of the channel's fuzzer are made, so that they pass and what lies behind the first check is reached. None is
// random: the short run is the same each time only from the same seeds.
#pragma once

#include <string>
#include <utility>

#include "replicator/channel.h"

namespace somfs::fuzz {

enum class ChannelInput : char { frames, own_frame, link, pair, answer, peers, codes, words, count };

inline replicator::Secret secret_of(char c) { return replicator::Secret(std::string(32, c)); }
inline const std::string kHash(32, 'h');
inline const replicator::SealContext kContext{Uuid::from_raw("volume volume vo"), Uuid::from_raw("lineage lineage ")};

inline replicator::HandshakeState handshake(const replicator::Pattern& pattern, replicator::Role role, std::string prologue = {}) {
  const bool initiator = role == replicator::Role::initiator;
  replicator::HandshakeSetup s;
  s.pattern = pattern;
  s.role = role;
  s.prologue = std::move(prologue);
  s.static_key = secret_of(initiator ? 'i' : 'r');
  s.ephemeral = secret_of(initiator ? 'e' : 'f');
  if (initiator && pattern.name == "IK") s.remote_static = replicator::public_key(secret_of('r'));
  return replicator::HandshakeState::start(std::move(s)).value();
}

}  // namespace somfs::fuzz
