// SPDX-License-Identifier: Apache-2.0
#include "replicator/framing.h"

#include <optional>
#include <utility>

#include "common/sync.h"
#include "replicator/channel.h"
#include "replicator/frame.h"

namespace somfs::replicator {
namespace {

class Plain final : public Framing {
 public:
  explicit Plain(bool compress) : compress_(compress) {}
  Result<std::string> encode(const Message& message) override { return encode_frame(message, compress_); }
  std::size_t header_size() const override { return kFrameHeader; }
  Result<std::size_t> body_size(std::string_view header) override {
    SOMFS_TRY_ASSIGN(header_, decode_frame_header(header));
    if (header_.compressed && !compress_) return fail(Exit::link_down, "the stream from the other side is broken", {}, "a codec that was not agreed on");
    return std::size_t{header_.wire};
  }
  Result<Message> decode(std::string_view header, std::string body) override { return decode_frame_body(header, header_, std::move(body)); }

 private:
  const bool compress_;
  FrameHeader header_;
};

class Sealed final : public Framing {
 public:
  explicit Sealed(std::unique_ptr<Channel> channel) : channel_(std::move(channel)) {}

  Result<std::string> encode(const Message& message) override {
    Packed packed = pack(message.body);
    SealFrame frame;
    frame.type = static_cast<std::uint8_t>(message.type);
    frame.codec = packed.compressed ? 1 : 0;
    frame.raw = static_cast<std::uint32_t>(message.body.size());
    const std::string_view payload = packed.compressed ? std::string_view(packed.bytes) : std::string_view(message.body);
    SOMFS_TRY_ASSIGN(Ticket ticket, channel_->out.take_rekeying(static_cast<std::uint32_t>(payload.size())));
    const SealContext context = context_for(message.type);
    if (message.type == MessageType::hello) learn(message.body);
    return seal(std::move(ticket), context, frame, payload);
  }

  std::size_t header_size() const override { return kSealHeader; }

  Result<std::size_t> body_size(std::string_view header) override {
    SOMFS_TRY_ASSIGN(header_, channel_->in.header(header));
    if (!known_type(header_.frame.type)) return fail(Exit::link_down, "the stream from the other side is broken", {}, "an unknown message type");
    if (header_.frame.codec > 1) return fail(Exit::link_down, "the stream from the other side is broken", {}, "an unknown codec");
    return header_.body();
  }

  Result<Message> decode(std::string_view header, std::string body) override {
    Message m{static_cast<MessageType>(header_.frame.type), {}};
    SOMFS_TRY_ASSIGN(Ticket ticket, channel_->in.take(header_));
    SOMFS_TRY_ASSIGN(std::string payload, open(std::move(ticket), context_for(m.type), header, body));
    SOMFS_TRY_ASSIGN(m.body, unpack(std::move(payload), header_.frame.codec == 1, header_.frame.raw));
    if (m.type == MessageType::hello) learn(m.body);
    return m;
  }

 private:
  SealContext context_for(MessageType type) {
    if (type == MessageType::hello || type == MessageType::welcome) return {};
    Lock l(mutex_);
    return context_;
  }
  // A hello that cannot be read is refused by whoever it is for; nothing sealed for it opens then.
  void learn(const std::string& body) {
    Hello hello;
    if (!decode_hello(body, &hello)) return;
    Lock l(mutex_);
    context_ = {hello.volume, hello.generation};
  }
  static bool decode_hello(const std::string& body, Hello* hello) { return replicator::decode(body, hello); }

  std::unique_ptr<Channel> channel_;
  SealHeader header_;
  Mutex mutex_;
  SealContext context_ GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<Framing> plain_framing() { return std::make_unique<Plain>(true); }

std::unique_ptr<Framing> stored_framing() { return std::make_unique<Plain>(false); }

std::unique_ptr<Framing> sealed_framing(std::unique_ptr<Channel> channel) { return std::make_unique<Sealed>(std::move(channel)); }

}  // namespace somfs::replicator
