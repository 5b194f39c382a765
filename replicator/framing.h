// SPDX-License-Identifier: Apache-2.0
// How messages become bytes on a stream: plain frames where something else keeps strangers out (pipes, ssh), sealed ones on a network.
// Each way has a point where everything is in order, take(), and two steps that lanes may do for several frames at once.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/result.h"
#include "replicator/frame.h"
#include "replicator/group_place.h"
#include "replicator/seal.h"
#include "replicator/wire.h"

namespace somfs::replicator {

struct Channel;

// A frame on its way out, or in. What went wrong on the way is told when its turn comes.
struct Outgoing {
  Message message;
  Packed packed;
  std::optional<Ticket> ticket;    // sealed: its right to a place on the wire
  SealContext context;
  FramePlace place;
  std::string wire;                // all its bytes
  Status failed;
};
struct Incoming {
  std::string header, body;
  FrameHeader plain;
  SealHeader sealed;
  std::optional<Ticket> ticket;
  SealContext context;
  bool due = true;                 // sealed: its place in a group is the next one
  Message message;
  Status failed;
};

// take() of either way has one thread each, and what it was given goes on in that order. The steps have any thread: compress, then
// encrypt; decrypt, then decompress. After an error the stream is over.
class Framing {
 public:
  virtual ~Framing() = default;
  virtual Status take(Outgoing& frame) = 0;                                // body at most kMaxBody
  virtual void compress(Outgoing& frame, Codec codec) const = 0;
  virtual Result<std::string> encrypt(Outgoing& frame) const = 0;          // all the bytes of it

  virtual std::size_t header_size() const = 0;
  virtual Result<std::size_t> body_size(std::string_view header) = 0;      // checked before anything is allocated for it
  virtual Status take(Incoming& frame) = 0;                                // of the header that body_size() was asked for last
  virtual Result<std::string> decrypt(Incoming& frame) const = 0;          // the payload
  virtual Result<Message> decompress(Incoming& frame, std::string payload) const = 0;
  // What came is to be known before the next frame is taken: what those are sealed for depends on it.
  virtual bool pivotal(const Incoming& frame) const = 0;
  virtual void learn(const Message& message) = 0;                          // of a pivotal one
};

// All steps at once.
Result<std::string> encode(Framing& framing, const Message& message, Codec codec = Codec::snappy);
Result<Message> decode(Framing& framing, std::string header, std::string body);   // of the header that body_size() was asked for last

std::unique_ptr<Framing> plain_framing();                                  // docs/formats/wire.md, "Frames"
std::unique_ptr<Framing> stored_framing();                                 // the same, and nothing compressed is sent or taken
// docs/formats/channel.md, "Frames". What the connection is about is taken from the hello that passes.
std::unique_ptr<Framing> sealed_framing(std::unique_ptr<Channel> channel);

// As the other make_stream() of wire.h, which say what the descriptors and the settings are.
std::unique_ptr<Transport> make_stream(int in_fd, int out_fd, std::unique_ptr<Framing> framing, const StreamSettings& settings = {});

}  // namespace somfs::replicator
