// SPDX-License-Identifier: Apache-2.0
// A mirror that answers anything, to a source that migrates or verifies a small tree. Parts of the input are answers: of the type that
// was asked for, or (128) of the one the part says; with 64 the next one comes unasked behind it.
#include <condition_variable>
#include <deque>
#include <mutex>

#include "common/printable.h"
#include "replicator/migration.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/scratch_mirror.h"
#include "tests/fuzz/toy_tree.h"

using namespace somfs;
using namespace somfs::replicator;

namespace {

struct Answer {
  std::uint8_t which = 0;
  std::string body;
};

class Liar final : public Transport {
 public:
  explicit Liar(std::deque<Answer> answers) : answers_(std::move(answers)) {}

  Status send(Message m) override {
    std::lock_guard l(mutex_);
    MessageType reply = MessageType::bye;
    switch (m.type) {
      case MessageType::hello: reply = MessageType::welcome; break;
      case MessageType::commit: reply = MessageType::committed; break;
      case MessageType::list: reply = MessageType::listing; break;
      case MessageType::signature: reply = MessageType::signed_; break;
      case MessageType::staged: reply = MessageType::stages; break;
      case MessageType::inspect: reply = MessageType::inspected; break;
      default: return {};
    }
    if (answers_.empty()) over_ = true;
    const bool commit = m.type == MessageType::commit;
    for (bool more = true; more && !answers_.empty();) {
      Answer a = std::move(answers_.front());
      answers_.pop_front();
      // The root is the source's own: what follows an honest one is reached. With 32 as the part has it.
      if (Committed c; reply == MessageType::committed && (a.which & 32) == 0 && decode(a.body, &c)) {
        c.root = m.body;
        a.body = encode(c);
      }
      more = (a.which & 64) != 0;
      // A listing says of which directory it is; anything else is refused at once.
      if (reply == MessageType::listing && a.body.size() >= 16) a.body.replace(0, 16, m.body);
      out_.push_back({(a.which & 128) != 0 ? static_cast<MessageType>(1 + (a.which & 63) % 20) : reply, std::move(a.body)});
    }
    // After that it was committed comes that it was applied.
    if (commit && !answers_.empty()) {
      out_.push_back({MessageType::applied, std::move(answers_.front().body)});
      answers_.pop_front();
    } else if (commit) {
      over_ = true;
    }
    // A mirror that says nothing more is waited for; this one comes to an end.
    const bool pieces = reply == MessageType::signed_ || reply == MessageType::inspected;
    if (!over_ && out_.back().type == MessageType::progress) over_ = true;
    if (!over_ && pieces && out_.back().type == reply && out_.back().body != last_piece(reply)) out_.push_back({reply, last_piece(reply)});
    change_.notify_all();
    return {};
  }
  Result<Message> receive() override {
    std::unique_lock l(mutex_);
    change_.wait(l, [&] { return !out_.empty() || over_; });
    if (out_.empty()) return fail(Exit::link_down, "the mirror hung up");
    Message m = std::move(out_.front());
    out_.pop_front();
    return m;
  }
  void close() noexcept override {
    std::lock_guard l(mutex_);
    over_ = true;
    change_.notify_all();
  }
  std::uint64_t bytes_sent() const override { return 0; }
  std::uint64_t bytes_received() const override { return 0; }

 private:
  static std::string last_piece(MessageType of) { return of == MessageType::inspected ? encode(std::vector<InspectRow>{}) : std::string(); }

  std::mutex mutex_;
  std::condition_variable change_;
  std::deque<Answer> answers_;
  std::deque<Message> out_;
  bool over_ = false;
};

void demand_printable(const std::string& line) {
  for (char c : line) fuzz::demand(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f, "what the mirror said reaches the terminal");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  fuzz::be_quiet();
  const std::uint8_t how = data[0];
  static const model::State state = fuzz::first_state();
  fuzz::ToyTree tree(state);
  std::deque<Answer> answers;
  fuzz::each_part(fuzz::view(data, size).substr(1), [&](std::uint8_t which, std::string body) { answers.push_back({which, std::move(body)}); });
  Source source;
  source.volume = model::hello().volume;
  source.generation = model::hello().generation;
  source.base_epoch = 1;
  if ((how & 64) != 0) source.base_root = sha256("root");
  source.epoch = 2;
  snapshot::DirtySet dirty;
  for (const auto& [id, n] : state.nodes) dirty.mark(id, nullptr);
  source.dirty = dirty;
  source.gap = (how & 8) != 0;
  source.compare_content = (how & 16) != 0;
  // The welcome is the first answer; without one that decodes nothing else is reached.
  Welcome w;
  if (answers.empty() || !decode(answers.front().body, &w)) answers.push_front({});
  answers.front().which = 0;
  w.protocol = kProtocol;
  w.volume = source.volume;
  if ((how & 4) == 0) w.generation = source.generation;
  answers.front().body = encode(w);
  Liar liar(std::move(answers));
  Progress progress;
  if ((how & 3) == 3) {
    VerifyOptions options;
    auto report = verify_tree(tree, source, liar, options, progress);
    if (!report) demand_printable(report.error().line());
    else for (const Difference& d : report->differences) demand_printable(d.path + d.what);
    return 0;
  }
  MigrateOptions options;
  options.brake_share = 1;
  options.dry_run = (how & 32) != 0;
  const Distrust distrust = static_cast<Distrust>(how & 3);
  auto report = migrate_tree(tree, source, liar, options, progress, distrust);
  if (!report) return demand_printable(report.error().line()), 0;
  demand_printable(report->held_reason);
  fuzz::demand(report->epoch == 2 || report->held || report->strategy == "differential", "another epoch passes for ours");
  return 0;
}
