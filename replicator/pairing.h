// SPDX-License-Identifier: Apache-2.0
// Pairing by a one-time code (docs/formats/channel.md, "Pairing"). The mirror prints the code once; a person carries it to the source.
// It holds a token of 128 random bits and a hash of the mirror's key, so the source tells the token to this mirror alone, whoever
// answers the call. The mirror keeps the token's hash, what it grants and until when. Pure: the time is brought along, in seconds since 1970.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "replicator/allow_list.h"
#include "replicator/crypto.h"

namespace somfs::replicator {

class PairingCode {
 public:
  static constexpr std::size_t kToken = 16;

  static PairingCode make(const PublicKey& mirror);
  static Result<PairingCode> parse(std::string_view text);
  std::string text() const;                                   // who calls wipes it
  std::string_view token() const { return bytes_.raw().substr(0, kToken); }
  Status check_mirror(const PublicKey& key) const;            // for HandshakeSetup::admit

 private:
  Secret bytes_;   // token, first half of the mirror's hash
};

struct Invitation {
  std::string token_hash;     // 32 bytes
  std::int64_t until_s = 0;
  Grants grants;
  std::string comment;
};

// The mirror's file of codes that were printed and not used. Whoever changes it stores it before anything else happens.
class Invitations {
 public:
  static constexpr std::size_t kMost = 256, kMaxBytes = 1u << 20;

  static Result<Invitations> parse(std::string_view text, const std::string& name);
  std::string text() const;

  Result<PairingCode> issue(const PublicKey& mirror, Grants grants, std::string comment, std::int64_t now_s, std::int64_t until_s);
  // What the token grants; it is used up then. Refused when unknown, used before, or too late (Exit::not_allowed).
  Result<Invitation> redeem(std::string_view token, std::int64_t now_s);
  std::size_t size() const { return all_.size(); }

 private:
  std::vector<Invitation> all_;
};

}  // namespace somfs::replicator
