// SPDX-License-Identifier: Apache-2.0
// How messages become bytes on a stream: plain frames where something else keeps strangers out (pipes, ssh), sealed ones on a network.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "common/result.h"
#include "replicator/wire.h"

namespace somfs::replicator {

struct Channel;

// encode() has one thread, the other three have another one. After an error the stream is over.
class Framing {
 public:
  virtual ~Framing() = default;
  virtual Result<std::string> encode(const Message& message) = 0;          // body at most kMaxBody
  virtual std::size_t header_size() const = 0;
  virtual Result<std::size_t> body_size(std::string_view header) = 0;      // checked before anything is allocated for it
  virtual Result<Message> decode(std::string_view header, std::string body) = 0;   // of the header that body_size() was asked for
};

std::unique_ptr<Framing> plain_framing();                                  // docs/formats/wire.md, "Frames"
std::unique_ptr<Framing> stored_framing();                                 // the same, and nothing compressed is sent or taken
// docs/formats/channel.md, "Frames". What the connection is about is taken from the hello that passes.
std::unique_ptr<Framing> sealed_framing(std::unique_ptr<Channel> channel);

// As the other make_stream() of wire.h, which say what the descriptors and `bwlimit` are.
std::unique_ptr<Transport> make_stream(int in_fd, int out_fd, std::unique_ptr<Framing> framing, std::uint64_t bwlimit = 0);

}  // namespace somfs::replicator
