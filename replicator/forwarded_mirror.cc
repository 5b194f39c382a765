// SPDX-License-Identifier: Apache-2.0
#include "replicator/forwarded_mirror.h"

#include <unistd.h>

#include <chrono>
#include <thread>
#include <utility>

#include "common/printable.h"

namespace somfs::replicator {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(20);

Error stands_still() { return {Exit::locked, 0, "the mirror stands still", {}, "the next mirror is compared with it", "it goes on by itself"}; }

class Yielding final : public Transport {
 public:
  Yielding(Transport& transport, std::shared_ptr<const ForwardedMirror> mirror) : transport_(transport), mirror_(std::move(mirror)) {}
  Status send(Message message) override { return transport_.send(std::move(message)); }
  Result<Message> receive() override {
    if (mirror_->wanted() && !in_epoch_) return part();
    auto message = transport_.receive();
    if (!message) return message;
    // Questions are answered: they belong to an epoch that is about to begin, or to somebody who is soon gone.
    if (mirror_->wanted() && !in_epoch_ && (message->type == MessageType::alive || message->type == MessageType::begin)) return part();
    if (message->type == MessageType::begin) in_epoch_ = true;
    if (message->type == MessageType::commit || message->type == MessageType::abort) in_epoch_ = false;   // by the time of the next call it is done
    return message;
  }
  void close() noexcept override { transport_.close(); }
  std::uint64_t bytes_sent() const override { return transport_.bytes_sent(); }
  std::uint64_t bytes_received() const override { return transport_.bytes_received(); }
  StageSums stages() const override { return transport_.stages(); }

 private:
  Result<Message> part() {
    const Error e = stands_still();
    (void)transport_.send({MessageType::error, encode(ErrorBody{static_cast<std::uint8_t>(e.exit), e.line()})});
    return pass_on(e);
  }
  Transport& transport_;
  const std::shared_ptr<const ForwardedMirror> mirror_;
  bool in_epoch_ = false;
};

}  // namespace

class ForwardedMirror::Quiet final : public StandStill {
 public:
  explicit Quiet(std::shared_ptr<ForwardedMirror> all) : all_(std::move(all)) { ++all_->wanted_; }
  ~Quiet() override {
    mirror_.reset();
    --all_->wanted_;
  }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
  Mirror& mirror() override { return *mirror_; }
  void take(std::unique_ptr<Mirror> mirror) { mirror_ = std::move(mirror); }

 private:
  const std::shared_ptr<ForwardedMirror> all_;
  std::unique_ptr<Mirror> mirror_;
};

Result<std::unique_ptr<Mirror>> ForwardedMirror::open(Mirror::Mode mode) {
  SOMFS_TRY_ASSIGN(auto mirror, Mirror::open(path_, mode));
  mirror->forward(spool_);
  return mirror;
}

Result<std::unique_ptr<Mirror>> ForwardedMirror::open() {
  if (wanted()) return pass_on(stands_still());
  return open(Mirror::Mode::create);
}

std::unique_ptr<Transport> ForwardedMirror::yielding(Transport& transport) { return std::make_unique<Yielding>(transport, shared_from_this()); }

Result<std::unique_ptr<StandStill>> ForwardedMirror::stand_still(const std::function<bool()>& give_up) {
  auto quiet = std::make_unique<Quiet>(shared_from_this());
  for (;;) {
    if (give_up()) return fail(Exit::interrupted, "interrupted");
    auto mirror = open(Mirror::Mode::existing);
    if (mirror) {
      quiet->take(std::move(*mirror));
      return std::unique_ptr<StandStill>(std::move(quiet));
    }
    if (mirror.error().exit != Exit::locked) return pass_on(std::move(mirror).error());
    std::this_thread::sleep_for(kPoll);
  }
}

Status ForwardedMirror::look() {
  if (::access((path_ + "/.somfs-mirror/catalog.sqlite").c_str(), F_OK) != 0) return {};   // nobody has called yet
  if (wanted()) return pass_on(stands_still());
  return open(Mirror::Mode::existing).map([](const auto&) {});
}

}  // namespace somfs::replicator
