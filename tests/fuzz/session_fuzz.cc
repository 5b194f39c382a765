// SPDX-License-Identifier: Apache-2.0
// A whole conversation with the mirror's side. Parts of the input are messages, of the type the part says (128: as the body came; else
// a begin is made to fit the mirror, and a commit names the root of what came). Whatever was said, the mirror is sound afterwards.
#include <deque>

#include "replicator/mirror.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/scratch_mirror.h"

using namespace somfs;
using namespace somfs::replicator;

namespace {

class Script final : public Transport {
 public:
  explicit Script(std::deque<Message> in) : in_(std::move(in)) {}
  bool committed = false;
  Status send(Message m) override {
    committed |= m.type == MessageType::committed;
    fuzz::demand(m.body.size() <= kMaxBody, "a message beyond the bounds");
    return {};
  }
  Result<Message> receive() override {
    if (in_.empty()) return fail(Exit::link_down, "the script is over");
    Message m = std::move(in_.front());
    in_.pop_front();
    return m;
  }
  void close() noexcept override {}
  std::uint64_t bytes_sent() const override { return 0; }
  std::uint64_t bytes_received() const override { return 0; }

 private:
  std::deque<Message> in_;
};

void fit(std::string* body) {
  Begin b;
  if (!decode(*body, &b)) return;
  b.generation = model::hello().generation;
  if (b.base_epoch != 0) b.base_epoch = 1;
  b.epoch = std::max<std::uint64_t>(b.epoch, 2);
  *body = encode(b);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr unsigned runs_per_mirror = 50;
  static fuzz::ScratchMirror mirror;
  static unsigned runs = 0;
  if (runs++ % runs_per_mirror == 0) (void)mirror.anew();
  std::deque<Message> in;
  std::optional<EpochRoot> history;   // an honest commit names it
  fuzz::each_part(fuzz::view(data, size), [&](std::uint8_t which, std::string body) {
    const auto type = static_cast<MessageType>((which & 127) % 20);
    if (in.empty() && type != MessageType::hello) in.push_back({MessageType::hello, encode(model::hello())});
    if (type == MessageType::begin && (which & 128) == 0) fit(&body);
    if (Begin b; type == MessageType::begin && decode(body, &b)) history.emplace(model::hello().volume, b);
    if (type == MessageType::records && history) history->add(body);
    if (type == MessageType::commit && (which & 128) == 0 && history) body = history->root();
    in.push_back({type, std::move(body)});
  });
  Script talk(std::move(in));
  bool opened = false;
  (void)serve(talk, [&](const Hello&) {
    opened = true;
    return mirror.open();
  });
  if (opened) {
    auto m = mirror.sound();
    if (!m->held_reason().empty()) (void)m->decide_held(true);
    if (m->committed_epoch() != 1) runs = 0;
  }
  return 0;
}
