// SPDX-License-Identifier: Apache-2.0
// Who may talk to a mirror, and what each may do to which volume (docs/formats/channel.md, "Allow-list"). A text that people edit;
// lines that are none of ours are kept as they are. Pure: whoever reads the file makes sure that nobody but its owner can write it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "replicator/crypto.h"

namespace somfs::replicator {

// What a peer may do. The last three are given only when they are named: whoever holds a source's key can read neither the mirror nor
// its past, cannot remove it, and cannot let pass what the brake holds. No message reads contents back or removes a restore point, so nothing
// takes those two today.
enum class Right : std::uint8_t { push = 1, migrate = 2, read_back = 4, remove = 8, confirm = 16 };

class Rights {
 public:
  Rights() = default;
  Rights(std::initializer_list<Right> rights) {
    for (Right r : rights) *this |= r;
  }
  Rights& operator|=(Right r) {
    bits_ |= static_cast<std::uint8_t>(r);
    return *this;
  }
  Rights& operator|=(Rights other) {
    bits_ |= other.bits_;
    return *this;
  }
  bool has(Right r) const { return (bits_ & static_cast<std::uint8_t>(r)) != 0; }
  bool none() const { return bits_ == 0; }
  bool operator==(const Rights&) const = default;
  std::string text() const;                                    // push,migrate
  static std::optional<Rights> parse(std::string_view text);   // every name once

 private:
  std::uint8_t bits_ = 0;
};

inline const Rights kSourceRights{Right::push, Right::migrate};

bool volume_name_ok(std::string_view name);   // 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter, a digit or _

using Grants = std::map<std::string, Rights>;   // by name of volume
std::string grants_text(const Grants& grants);  // data=push,migrate mail=push
// Whether every word is a grant, of a volume not named before.
bool parse_grants(std::string_view words, Grants& out);
std::string clean_comment(std::string_view comment);   // one printable line without blanks at its ends, at most 128 bytes

struct Peer {
  PublicKey key;
  Grants grants;
  std::string comment;
};

class AllowList {
 public:
  static constexpr std::size_t kMaxBytes = 1u << 20, kMaxPeers = 4096;

  // `name` of the file stands in errors, with the line (Exit::configuration).
  static Result<AllowList> parse(std::string_view text, const std::string& name);
  std::string text() const;

  const Peer* find(const PublicKey& key) const;
  Status known(const PublicKey& key) const;                    // for the handshake: Exit::not_allowed otherwise
  Status allow(const PublicKey& key, std::string_view volume, Right right) const;
  // Whether it may do what its hello wants (wire.h): replicating takes `push`, a migration `migrate`; whoever has one of these, or `read-back`, may
  // verify, for that tells hashes of what is there and nothing else. Exit::not_allowed otherwise.
  Status admit(const PublicKey& key, std::string_view volume, std::string_view wants) const;
  Status add(const Peer& peer);                                // grants are added to those of a known peer
  bool remove(const PublicKey& key);

 private:
  struct Entry {
    std::string other;   // a comment or an empty line
    std::optional<Peer> peer;
  };
  std::vector<Entry> entries_;
};

}  // namespace somfs::replicator
