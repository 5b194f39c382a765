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

Result<Message> Yielding::receive() {
  if (wanted()) return part();
  auto message = transport_.receive();
  if (!message) return message;
  // Questions are answered: they belong to an epoch that is about to begin, or to somebody who is soon gone.
  if (wanted() && (message->type == MessageType::alive || message->type == MessageType::begin)) return part();
  if (message->type == MessageType::begin) in_epoch_ = true;
  if (message->type == MessageType::commit || message->type == MessageType::abort) in_epoch_ = false;   // by the time of the next call it is done
  return message;
}

Result<Message> Yielding::part() {
  const Error e = stands_still();
  (void)transport_.send({MessageType::error, encode(ErrorBody{static_cast<std::uint8_t>(e.exit), e.line()})});
  return pass_on(e);
}

}  // namespace somfs::replicator
