// SPDX-License-Identifier: Apache-2.0
// The mirror's side of a call until it is known who calls (docs/formats/channel.md), made for two processes: one has the connection and no
// key, this side has the key and no connection. What the caller sends is brought here, and each step says what it is sent and what to
// bring next. Keys leave only when the caller has proved that it is there, which an old call that is repeated cannot. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"
#include "replicator/channel.h"
#include "replicator/wire.h"

namespace somfs::replicator {

struct Doorkeeper {
  std::function<Result<Secret>()> own;
  std::function<Status(const PublicKey&)> admit;
  std::function<Status(const PublicKey&, std::string_view token)> redeem;
};

struct Step {
  enum class Next : std::uint8_t { message = 1, frame = 2, talk = 3 };
  Next next = Next::message;
  std::string send;                 // to the caller, as it is
  std::optional<Session> session;   // to talk with

  std::string encode() const;       // who calls wipes it
  static Result<Step> decode(std::string_view bytes);
};

class Reception {
 public:
  static constexpr std::size_t kMaxFirst = 64u << 10;   // of a first frame, after its header
  static constexpr std::size_t kMost = kSealHeader + kMaxFirst;

  explicit Reception(Doorkeeper doorkeeper) : doorkeeper_(std::move(doorkeeper)) {}

  // The caller's banner; then messages of the handshake; then, of a link, its first frame. Nothing after an error, or after `talk`.
  Result<Step> take(std::string_view brought);

  // After `talk`.
  bool pairs() const { return pairs_; }
  const PublicKey& peer() const { return peer_; }
  const Message& first() const { return first_; }       // what the first frame of a link said

 private:
  enum class Due : std::uint8_t { banner, message, frame, nothing };
  Result<Step> banner(std::string_view line);
  Result<Step> message(std::string_view message);
  Result<Step> frame(std::string_view frame);

  Doorkeeper doorkeeper_;
  Due due_ = Due::banner;
  bool pairs_ = false;
  std::optional<Handshake> handshake_;
  std::optional<Session> session_;
  PublicKey peer_;
  Message first_;
};

}  // namespace somfs::replicator
