// SPDX-License-Identifier: Apache-2.0
// The mirror's side of a conversation: the order of messages and their sizes are checked here, their contents where they are used.
#include <thread>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/printable.h"
#include "common/sync.h"
#include "replicator/merkle.h"
#include "replicator/mirror.h"

namespace somfs::replicator {

namespace {

constexpr std::uint64_t kProgressEvery = 8u << 20;
constexpr std::size_t kInspectBatch = 512u << 10;
constexpr std::size_t kMaxFarewell = 64;

tl::unexpected<Error> out_of_order(const char* what) {
  return fail(Exit::temporary, "refusing a message of the peer", {}, what);
}

class Conversation {
 public:
  Conversation(Transport& transport, const OpenMirror& open)
      : transport_(transport), open_(open) {}

  // Whether it is over.
  Result<bool> one(Message message);
  void give_up() {
    if (mirror_) mirror_->abort();
  }

 private:
  Status hello(const std::string& body);
  Status begin(const std::string& body);
  Status records(const std::string& body, std::string leaf);
  Status commit(const std::string& body);
  Status list(const std::string& body);
  Status signature(const std::string& body);
  Status staged();
  Status inspect(const std::string& body);
  Status send(MessageType type, std::string body) { return transport_.send({type, std::move(body)}); }
  static Result<ObjectId> object_in(const std::string& body);

  Transport& transport_;
  const OpenMirror& open_;
  std::unique_ptr<Mirror> mirror_;
  bool looks_ = false;                     // its hello was to look
  bool begun_ = false;
  std::uint64_t received_ = 0, told_ = 0;
  StageSums before_;                       // the transport's, when the epoch began
  double written_s_ = 0;
};

Result<ObjectId> Conversation::object_in(const std::string& body) {
  ByteReader r{std::string_view(body)};
  ObjectId id = r.id();
  if (!r.at_end()) return out_of_order("its body is not an object id");
  return id;
}

Status Conversation::hello(const std::string& body) {
  if (mirror_) return out_of_order("hello comes once");
  Hello h;
  if (!decode(body, &h)) return out_of_order("its hello is malformed");
  if (h.protocol != kProtocol)
    return fail(Exit::peer_version, "the source speaks protocol " + std::to_string(h.protocol), {},
                "this mirror speaks " + std::to_string(kProtocol), "install the same version of somfs on both sides");
  SOMFS_TRY_ASSIGN(mirror_, open_(h));
  SOMFS_TRY(mirror_->greet(h));
  looks_ = h.wants == kVerify;
  return send(MessageType::welcome, encode(mirror_->welcome()));
}

Status Conversation::begin(const std::string& body) {
  Begin b;
  if (looks_) return out_of_order("its hello was to verify, not to begin anything");
  if (begun_ || !decode(body, &b)) return out_of_order("its begin is malformed or not due");
  SOMFS_TRY(mirror_->begin(b));
  begun_ = true;
  received_ = told_ = 0;
  before_ = transport_.stages();
  written_s_ = 0;
  return {};
}

Status Conversation::records(const std::string& body, std::string leaf) {
  if (!begun_) return out_of_order("records come after begin");
  const std::int64_t start = SystemClock().mono_ns();
  SOMFS_TRY(mirror_->receive(body, std::move(leaf)));
  written_s_ += static_cast<double>(SystemClock().mono_ns() - start) / 1e9;
  received_ += body.size();
  if (received_ - told_ < kProgressEvery) return {};
  told_ = received_;
  std::string bytes;
  ByteWriter(bytes).varint(received_);
  return send(MessageType::progress, std::move(bytes));
}

Status Conversation::commit(const std::string& body) {
  if (!begun_ || body.size() != kHash) return out_of_order("its commit is malformed or not due");
  begun_ = false;
  Status answered;
  // What the source sends next may come while this epoch is applied; it is looked at afterwards.
  SOMFS_TRY_ASSIGN(const Committed done, mirror_->commit(body, [&](Committed c) {
    const StageSums sums = transport_.stages() - before_;
    for (Stage stage : {Stage::transfer, Stage::decrypt, Stage::decompress}) c.times[static_cast<std::size_t>(stage)] = sums.wall[static_cast<std::size_t>(stage)];
    c.times[static_cast<std::size_t>(Stage::write)] = written_s_;
    answered = send(MessageType::committed, encode(c));
  }));
  SOMFS_TRY(answered);
  if (done.held) return {};
  return send(MessageType::applied, encode(Applied{done.epoch, done.times[static_cast<std::size_t>(Stage::apply)]}));
}

Status Conversation::list(const std::string& body) {
  const bool perhaps = body.ends_with(kPerhaps) && body.size() == kIdBytes + kPerhaps.size();
  SOMFS_TRY_ASSIGN(ObjectId dir, object_in(perhaps ? body.substr(0, kIdBytes) : body));
  SOMFS_TRY_ASSIGN(auto rows, mirror_->list(dir, perhaps));
  std::size_t at = 0;
  for (;;) {
    std::size_t n = std::min(kListRows, rows.size() - at);
    std::vector<ListRow> part(std::make_move_iterator(rows.begin() + static_cast<std::ptrdiff_t>(at)),
                              std::make_move_iterator(rows.begin() + static_cast<std::ptrdiff_t>(at + n)));
    SOMFS_TRY(send(MessageType::listing, encode(part, dir)));
    at += n;
    if (n < kListRows) return {};
  }
}

Status Conversation::signature(const std::string& body) {
  SOMFS_TRY_ASSIGN(ObjectId object, object_in(body));
  SOMFS_TRY(mirror_->signature(object, [&](std::string_view piece) { return send(MessageType::signed_, std::string(piece)); }));
  return send(MessageType::signed_, {});
}

Status Conversation::staged() {
  SOMFS_TRY_ASSIGN(auto rows, mirror_->staged());
  constexpr std::size_t kMost = 32768;   // what does not fit is sent again by the source
  if (rows.size() > kMost) rows.resize(kMost);
  return send(MessageType::stages, encode(rows));
}

Status Conversation::inspect(const std::string& body) {
  if (!body.empty() && body != "deep") return out_of_order("an inspection is plain or deep");
  std::vector<InspectRow> batch;
  std::size_t size = 0;
  Status walked = mirror_->inspect([&](InspectRow row) -> Status {
    for (const std::string& name : row.path) size += name.size() + 2;
    size += 128 + row.trouble.size();
    batch.push_back(std::move(row));
    if (size < kInspectBatch) return {};
    size = 0;
    return send(MessageType::inspected, encode(std::exchange(batch, {})));
  }, !body.empty());
  SOMFS_TRY(walked);
  if (!batch.empty()) SOMFS_TRY(send(MessageType::inspected, encode(batch)));
  return send(MessageType::inspected, encode(std::vector<InspectRow>{}));
}

Result<bool> Conversation::one(Message m) {
  if (m.body.size() > kMaxBody) return out_of_order("it is too large");
  if (m.type == MessageType::bye) return m.body.size() <= kMaxFarewell ? Result<bool>(true) : out_of_order("its farewell is too long");
  if (m.type != MessageType::hello && !mirror_) return out_of_order("hello comes first");
  Status s;
  switch (m.type) {
    case MessageType::hello: s = hello(m.body); break;
    case MessageType::begin: s = begin(m.body); break;
    case MessageType::records: s = records(m.body, std::move(m.leaf)); break;
    case MessageType::commit: s = commit(m.body); break;
    case MessageType::list: s = list(m.body); break;
    case MessageType::signature: s = signature(m.body); break;
    case MessageType::staged: s = staged(); break;
    case MessageType::inspect: s = inspect(m.body); break;
    case MessageType::alive:
      if (!m.body.empty()) return out_of_order("being alive has no body");
      break;
    case MessageType::abort:
      mirror_->abort();
      begun_ = false;
      break;
    case MessageType::error: {
      ErrorBody e;
      if (!decode(m.body, &e)) return out_of_order("its error is malformed");
      return fail(Exit::temporary, "the source gave up", {}, printable(e.line));
    }
    default: return out_of_order("it is none a source sends");
  }
  if (!s) return pass_on(std::move(s).error());
  return false;
}

// Closes a transport over which nothing comes: who says nothing must not occupy a process for ever.
class FirstMessage {
 public:
  FirstMessage(Transport& transport, std::chrono::milliseconds within)
      : transport_(transport), until_(std::chrono::steady_clock::now() + within), watch_([this] { watch(); }) {}
  ~FirstMessage() { came(); }

  void came() {
    Lock l(mutex_);
    over_ = true;
    change_.notify_all();
  }
  bool late() {
    Lock l(mutex_);
    return late_;
  }

 private:
  void watch() {
    Lock l(mutex_);
    while (!over_ && std::chrono::steady_clock::now() < until_) change_.wait_until(mutex_, until_);
    if (over_) return;
    late_ = true;
    transport_.close();
  }

  Transport& transport_;
  const std::chrono::steady_clock::time_point until_;
  Mutex mutex_;
  CondVar change_;
  bool over_ GUARDED_BY(mutex_) = false, late_ GUARDED_BY(mutex_) = false;
  std::jthread watch_;   // last: it uses everything above, and is joined first
};

}  // namespace

Status serve(Transport& transport, const OpenMirror& open, std::chrono::milliseconds hello_within) {
  Conversation talk(transport, open);
  FirstMessage first(transport, hello_within);
  for (;;) {
    auto message = transport.receive();
    first.came();
    if (!message) {
      talk.give_up();
      if (first.late()) return fail(Exit::link_down, "gave up on a source", {}, "it did not say hello in time");
      return pass_on(std::move(message).error());
    }
    auto over = talk.one(std::move(*message));
    if (!over) {
      talk.give_up();
      ErrorBody e{static_cast<std::uint8_t>(over.error().exit), over.error().line()};
      (void)transport.send({MessageType::error, encode(e)});   // the peer may be gone: what went wrong is returned anyway
      return pass_on(std::move(over).error());
    }
    if (*over) {
      talk.give_up();
      return {};
    }
  }
}

}  // namespace somfs::replicator
