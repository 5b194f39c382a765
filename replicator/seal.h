// SPDX-License-Identifier: Apache-2.0
// Frames after the handshake (docs/formats/channel.md, "Frames"): AES-256-GCM, the nonce a counter per direction and connection. Pure.
//
//   offset  0  "somS"      magic
//           4  u8          version of the frame: 1
//           5  u8          message type; this layer only carries it
//           6  u8          codec of the payload: 0 stored; this layer only carries it
//           7  u8          number of the key, modulo 256: one more than in the frame before after a rekey
//           8  u64         counter: 0, 1, 2… over the whole connection; also the nonce
//          16  u64         sequence number of the group, 0 outside one
//          24  u32         index of the frame in its group
//          28  u32         frames of the group, 0 where that is not known beforehand
//          32  u32         raw length: of the body, at most kMaxBody
//          36  u32         wire length: of the payload; stored: the raw length, else less
//          40  payload, encrypted; 16 bytes of tag
//
// The tag also covers what is not sent: the handshake's hash, the volume and its lineage. A counter is taken before a frame goes to a
// lane, and seal() and open() keep nothing: lanes may run them in any order, while the wire carries frames in the order of their counters.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/result.h"
#include "common/sync.h"
#include "common/uuid.h"
#include "replicator/crypto.h"

namespace somfs::replicator {

inline constexpr std::size_t kSealHeader = 40;

// What one key may seal before the next one must take over; the limits that the receiver enforces too.
struct SealLimits {
  std::uint64_t frames = 1ull << 32, bytes = 64ull << 30;   // of payload
  std::uint64_t counters = ~0ull;                           // of one connection: the last one belongs to rekeying
};

// What a connection is about. Nil until the two sides have told each other.
struct SealContext {
  Uuid volume, lineage;
};

struct SealFrame {
  std::uint8_t type = 0, codec = 0;
  std::uint64_t group = 0;
  std::uint32_t index = 0, count = 0;
  std::uint32_t raw = 0;
};

struct SealHeader {
  SealFrame frame;
  std::uint8_t key = 0;
  std::uint64_t counter = 0;
  std::uint32_t wire = 0;
  std::size_t body() const { return wire + kAeadTag; }   // bytes that follow the header
};

// The right to seal, or to open, one frame. There is no second one of a counter, and using it takes it away.
class Ticket {
 public:
  Ticket(Ticket&&) = default;
  Ticket& operator=(Ticket&&) = default;
  std::uint64_t counter() const { return counter_; }

 private:
  friend class FrameKeys;
  friend Result<std::string> seal(Ticket, const SealContext&, const SealFrame&, std::string_view);
  friend Result<std::string> open(Ticket, const SealContext&, std::string_view, std::string_view);
  struct Key {
    Secret secret;
    std::string hash;
    std::uint8_t number;
  };
  Ticket(std::shared_ptr<const Key> key, std::uint64_t counter, std::uint32_t bytes)
      : key_(std::move(key)), counter_(counter), bytes_(bytes) {}
  std::shared_ptr<const Key> key_;   // overwritten when the last frame under it is done
  std::uint64_t counter_;
  std::uint32_t bytes_;
};

// The keys and counters of one direction.
class FrameKeys {
 public:
  FrameKeys(Secret key, std::string hash, SealLimits limits);
  FrameKeys(FrameKeys&&) = default;
  bool due(std::uint64_t bytes) const;                      // the key may not seal so much more
  void rekey();                                             // nothing happens to a key that was never used
  Result<Ticket> take(std::uint32_t bytes);
  std::uint64_t next() const { return counter_; }
  std::uint8_t number() const { return key_->number; }

 private:
  SealLimits limits_;
  std::shared_ptr<const Ticket::Key> key_;
  std::uint64_t counter_ = 0, frames_ = 0, bytes_ = 0;      // frames and bytes: under this key
};

// The sender's: hands every counter out once. Any thread may call; tickets must reach the wire in the order of their counters.
class Counter {
 public:
  Counter(Secret key, std::string hash, SealLimits limits = {}) : keys_(std::move(key), std::move(hash), limits) {}
  // For a payload of at most so many bytes. Refused when the key has sealed enough (rekey() first) or the connection its last frame (connect anew).
  Result<Ticket> take(std::uint32_t bytes);
  Result<Ticket> take_rekeying(std::uint32_t bytes);        // as take(), with the next key where this one has sealed enough
  void rekey();

 private:
  Mutex mutex_;
  FrameKeys keys_ GUARDED_BY(mutex_);
};

// The receiver's: one thread, headers as the wire brings them. Whatever is refused ends the connection: everything after it is refused too.
class Acceptor {
 public:
  Acceptor(Secret key, std::string hash, SealLimits limits = {}) : keys_(std::move(key), std::move(hash), limits) {}
  // Everything that can be checked before memory is taken for the payload: among it that the counter is the next one.
  Result<SealHeader> header(std::string_view bytes);
  Result<Ticket> take(const SealHeader& header);            // once for each header

 private:
  FrameKeys keys_;
  bool broken_ = false;
};

// Header, encrypted payload and tag, ready for the wire. The ticket was taken for a payload at least as long.
Result<std::string> seal(Ticket ticket, const SealContext& context, const SealFrame& frame, std::string_view payload);
// The payload. A frame counts only when all before it were opened: lanes hand it on in the order of counters, and nothing after a failure.
Result<std::string> open(Ticket ticket, const SealContext& context, std::string_view header, std::string_view body);

}  // namespace somfs::replicator
