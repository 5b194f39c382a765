// SPDX-License-Identifier: Apache-2.0
#include "replicator/framing.h"

#include <utility>

#include "common/sync.h"
#include "replicator/channel.h"

namespace somfs::replicator {
namespace {

tl::unexpected<Error> broken(const char* why) { return fail(Exit::link_down, "the stream from the other side is broken", {}, why); }

class Plain final : public Framing {
 public:
  explicit Plain(bool compress) : compress_(compress) {}

  Status take(Outgoing&) override { return {}; }
  void compress(Outgoing& frame, Codec codec) const override { frame.packed = pack(frame.message.body, compress_ ? codec : Codec::stored); }
  Result<std::string> encrypt(Outgoing& frame) const override { return encode_frame(frame.message.type, frame.message.body, frame.packed); }

  std::size_t header_size() const override { return kFrameHeader; }
  Result<std::size_t> body_size(std::string_view header) override {
    SOMFS_TRY_ASSIGN(header_, decode_frame_header(header));
    if (header_.codec != Codec::stored && !compress_) return broken("a codec that was not agreed on");
    return std::size_t{header_.wire};
  }
  Status take(Incoming& frame) override {
    frame.plain = header_;
    return {};
  }
  Result<std::string> decrypt(Incoming& frame) const override {
    SOMFS_TRY(check_frame(frame.header, frame.plain, frame.body));
    return std::move(frame.body);
  }
  Result<Message> decompress(Incoming& frame, std::string payload) const override {
    Message m{frame.plain.type, {}};
    SOMFS_TRY_ASSIGN(m.body, unpack(std::move(payload), frame.plain.codec, frame.plain.raw));
    return m;
  }
  bool pivotal(const Incoming&) const override { return false; }
  void learn(const Message&) override {}

 private:
  const bool compress_;
  FrameHeader header_;
};

std::uint64_t epoch_of(const Message& message) {
  Begin begin;
  return message.type == MessageType::begin && replicator::decode(message.body, &begin) ? begin.epoch : 0;
}

class Sealed final : public Framing {
 public:
  explicit Sealed(std::unique_ptr<Channel> channel) : channel_(std::move(channel)) {}

  // The place on the wire is given here, before the frame is compressed: it is for at most so many bytes as the body has.
  Status take(Outgoing& frame) override {
    SOMFS_TRY_ASSIGN(frame.ticket, channel_->out.take_rekeying(static_cast<std::uint32_t>(frame.message.body.size())));
    frame.context = context_for(frame.message.type);
    frame.place = sent_.next(frame.message.type, epoch_of(frame.message));
    if (frame.message.type == MessageType::hello) learn(frame.message);
    return {};
  }
  void compress(Outgoing& frame, Codec codec) const override { frame.packed = pack(frame.message.body, codec); }
  Result<std::string> encrypt(Outgoing& frame) const override {
    SealFrame about;
    about.type = static_cast<std::uint8_t>(frame.message.type);
    about.codec = static_cast<std::uint8_t>(frame.packed.codec);
    about.group = frame.place.group;
    about.index = frame.place.index;
    about.count = frame.place.count;
    about.raw = static_cast<std::uint32_t>(frame.message.body.size());
    const std::string_view payload = frame.packed.codec != Codec::stored ? std::string_view(frame.packed.bytes) : std::string_view(frame.message.body);
    return seal(std::move(*frame.ticket), frame.context, about, payload);
  }

  std::size_t header_size() const override { return kSealHeader; }
  Result<std::size_t> body_size(std::string_view header) override {
    SOMFS_TRY_ASSIGN(header_, channel_->in.header(header));
    if (!known_type(header_.frame.type)) return broken("an unknown message type");
    if (!known_codec(header_.frame.codec)) return broken("an unknown codec");
    return header_.body();
  }
  Status take(Incoming& frame) override {
    frame.sealed = header_;
    SOMFS_TRY_ASSIGN(frame.ticket, channel_->in.take(header_));
    const auto type = static_cast<MessageType>(header_.frame.type);
    frame.context = context_for(type);
    // Told when the frame was opened: who flips bits on the way is another trouble than a side that loses count.
    frame.due = taken_.next(type, header_.frame.group) == FramePlace{header_.frame.group, header_.frame.index, header_.frame.count};
    return {};
  }
  Result<std::string> decrypt(Incoming& frame) const override { return open(std::move(*frame.ticket), frame.context, frame.header, frame.body); }
  Result<Message> decompress(Incoming& frame, std::string payload) const override {
    Message m{static_cast<MessageType>(frame.sealed.frame.type), {}};
    if (!frame.due) return misplaced();
    SOMFS_TRY_ASSIGN(m.body, unpack(std::move(payload), static_cast<Codec>(frame.sealed.frame.codec), frame.sealed.frame.raw));
    // A begin names the group that its frame opens.
    if (m.type == MessageType::begin && epoch_of(m) != frame.sealed.frame.group) return misplaced();
    return m;
  }
  bool pivotal(const Incoming& frame) const override { return static_cast<MessageType>(frame.sealed.frame.type) == MessageType::hello; }
  // A hello that cannot be read is refused by whoever it is for; nothing sealed for it opens then.
  void learn(const Message& message) override {
    Hello hello;
    if (!replicator::decode(message.body, &hello)) return;
    Lock l(mutex_);
    context_ = {hello.volume, hello.generation};
  }

 private:
  static tl::unexpected<Error> misplaced() {
    return fail(Exit::temporary, "refusing a frame of the other side", {}, "it is not the one of its group that is due");
  }
  SealContext context_for(MessageType type) const {
    if (type == MessageType::hello || type == MessageType::welcome) return {};
    Lock l(mutex_);
    return context_;
  }

  std::unique_ptr<Channel> channel_;
  SealHeader header_;
  GroupPlace sent_, taken_;                       // each of the thread of its take()
  mutable Mutex mutex_;                           // hellos pass either way
  SealContext context_ GUARDED_BY(mutex_);
};

}  // namespace

Result<std::string> encode(Framing& framing, const Message& message, Codec codec) {
  Outgoing frame;
  frame.message = message;
  SOMFS_TRY(framing.take(frame));
  framing.compress(frame, codec);
  return framing.encrypt(frame);
}

Result<Message> decode(Framing& framing, std::string header, std::string body) {
  Incoming frame;
  frame.header = std::move(header);
  frame.body = std::move(body);
  SOMFS_TRY(framing.take(frame));
  SOMFS_TRY_ASSIGN(std::string payload, framing.decrypt(frame));
  SOMFS_TRY_ASSIGN(Message m, framing.decompress(frame, std::move(payload)));
  if (framing.pivotal(frame)) framing.learn(m);
  return m;
}

std::unique_ptr<Framing> plain_framing() { return std::make_unique<Plain>(true); }

std::unique_ptr<Framing> stored_framing() { return std::make_unique<Plain>(false); }

std::unique_ptr<Framing> sealed_framing(std::unique_ptr<Channel> channel) { return std::make_unique<Sealed>(std::move(channel)); }

}  // namespace somfs::replicator
