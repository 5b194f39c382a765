// SPDX-License-Identifier: Apache-2.0
#include "replicator/link.h"

#include <iterator>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/printable.h"
#include "replicator/mirror.h"

namespace somfs::replicator {
namespace {

constexpr std::size_t kMaxListing = 16u << 20;   // names in one directory
constexpr std::size_t kMessageCost = 128;        // of a message in memory beside its body: empty ones are not free

// What a mirror may make of our own exit. Success, or that somebody interrupted, is not for it to say.
Exit exit_of_peer(std::uint8_t code) {
  for (Exit e : {Exit::usage, Exit::configuration, Exit::person, Exit::no_space, Exit::not_allowed, Exit::locked, Exit::link_down, Exit::peer_version})
    if (code == static_cast<int>(e)) return e;
  return Exit::temporary;
}

tl::unexpected<Error> unexpected_message() { return fail(Exit::peer_version, "cannot talk to the mirror", {}, "it said something that is not its turn to say"); }

}  // namespace

Link::Link(Transport& transport, Progress& progress, std::function<void()> news) : transport_(transport), progress_(progress), news_(std::move(news)) {
  receiver_ = std::jthread([this] { run(); });
}

Link::~Link() {
  {
    Lock l(mutex_);
    ended_ = true;
    change_.notify_all();
  }
  transport_.close();
}

void Link::run() {
  bool more = true;
  while (more) {
    auto m = transport_.receive();
    if (m) progress_.heard_ns = SystemClock().mono_ns();
    if (m && m->type == MessageType::progress) continue;
    const bool verdict = m && (m->type == MessageType::committed || m->type == MessageType::applied);
    more = m && m->type != MessageType::error;
    {
      Lock l(mutex_);
      if (more) {
        while (!ended_ && inbox_bytes_ + kMessageCost + m->body.size() > kInboxBytes) change_.wait(mutex_);
        if (ended_) return;
        inbox_bytes_ += kMessageCost + m->body.size();
        (verdict ? verdicts_ : inbox_).push_back(std::move(*m));
        if (verdict && verdicts_due_-- == 0) {
          error_ = unexpected_message().value();
          more = false;
        }
      } else {
        ErrorBody e;
        if (!m) error_ = m.error();
        else if (decode(m->body, &e)) error_ = Error{exit_of_peer(e.exit), 0, "the mirror: " + printable(e.line), {}, {}, {}};
        else error_ = unexpected_message().value();
      }
      change_.notify_all();
    }
    if ((verdict || !more) && news_) news_();
  }
}

Error Link::broken() {
  if (progress_.cancelled) return Error{Exit::interrupted, 0, "interrupted", {}, {}, {}};
  return *error_;
}

Status Link::send(MessageType type, std::string body, std::string leaf) {
  if (progress_.cancelled) return fail(Exit::interrupted, "interrupted");
  {
    Lock l(mutex_);
    if (error_) return pass_on(broken());
    if (type == MessageType::commit) verdicts_due_ += 2;
  }
  const std::int64_t start = SystemClock().mono_ns();
  Status sent = transport_.send({type, std::move(body), std::move(leaf)});
  sending_ns_.fetch_add(SystemClock().mono_ns() - start, std::memory_order_relaxed);
  if (sent) return sent;
  // The mirror may have said why before it went: the receiver comes to the end of what it sent.
  Lock l(mutex_);
  auto until = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while (!error_ && change_.wait_until(mutex_, until)) {}
  if (error_) return pass_on(broken());
  return sent;
}

Result<Message> Link::next_of(std::deque<Message>& from) {
  while (from.empty() && !error_ && !progress_.cancelled) change_.wait_until(mutex_, std::chrono::steady_clock::now() + std::chrono::milliseconds(200));
  if (progress_.cancelled || from.empty()) return pass_on(progress_.cancelled ? Error{Exit::interrupted, 0, "interrupted", {}, {}, {}} : broken());
  Message m = std::move(from.front());
  from.pop_front();
  inbox_bytes_ -= kMessageCost + m.body.size();
  change_.notify_all();
  return m;
}

Result<Message> Link::wait_for(MessageType type) {
  Lock l(mutex_);
  SOMFS_TRY_ASSIGN(Message m, next_of(inbox_));
  if (m.type != type) return unexpected_message();
  return m;
}

Result<Message> Link::wait_for_verdict() {
  Lock l(mutex_);
  return next_of(verdicts_);
}

bool Link::has_verdict() const {
  Lock l(mutex_);
  return !verdicts_.empty();
}

Result<Welcome> Link::greet(const Hello& hello) {
  SOMFS_TRY(send(MessageType::hello, encode(hello)));
  SOMFS_TRY_ASSIGN(Message m, wait_for(MessageType::welcome));
  Welcome welcome;
  if (!decode(m.body, &welcome)) return unexpected_message();
  if (welcome.protocol != kProtocol)
    return fail(Exit::peer_version, "cannot talk to the mirror", {}, "it speaks protocol " + std::to_string(welcome.protocol));
  return welcome;
}

bool Link::over() const {
  Lock l(mutex_);
  return error_.has_value();
}

void Link::part(std::string how, std::chrono::milliseconds within) {
  if (!transport_.send({MessageType::bye, std::move(how)})) return;
  const auto until = std::chrono::steady_clock::now() + within;
  Lock l(mutex_);
  while (!error_ && change_.wait_until(mutex_, until)) {}
}

Status Link::ask_listings() {
  while (!wanted_.empty() && asked_.size() < kWindow) {
    std::string body;
    ByteWriter(body).id(wanted_.front().dir);
    if (wanted_.front().perhaps) body += kPerhaps;
    SOMFS_TRY(send(MessageType::list, std::move(body)));
    asked_.push_back(wanted_.front().dir);
    wanted_.pop_front();
  }
  return {};
}

Result<std::vector<ListRow>> Link::receive_listing(const ObjectId& dir) {
  std::vector<ListRow> rows, piece;
  std::size_t came = 0;
  do {
    SOMFS_TRY_ASSIGN(Message m, wait_for(MessageType::listing));
    ObjectId of;
    if (!decode(m.body, &piece, &of) || of != dir || rows.size() > kMaxListing) return unexpected_message();
    came = piece.size();
    if (rows.empty()) rows = std::move(piece);
    else rows.insert(rows.end(), std::make_move_iterator(piece.begin()), std::make_move_iterator(piece.end()));
  } while (came >= kListRows);
  return rows;
}

Status Link::settle_listings() {
  while (arrived_.size() < asked_.size()) {
    SOMFS_TRY_ASSIGN(auto rows, receive_listing(asked_[arrived_.size()]));
    arrived_.push_back(std::move(rows));
  }
  return {};
}

Result<std::vector<ListRow>> Link::listing(const ObjectId& dir) {
  SOMFS_TRY(ask_listings());
  if (asked_.empty() || asked_.front() != dir) return fail(Exit::temporary, "listings are asked for out of order");
  std::vector<ListRow> rows;
  if (arrived_.empty()) {
    SOMFS_TRY_ASSIGN(rows, receive_listing(dir));
  } else {
    rows = std::move(arrived_.front());
    arrived_.pop_front();
  }
  asked_.pop_front();
  return rows;
}

Result<std::optional<Signature>> Link::next_signature() {
  while (!signatures_wanted_.empty() && signatures_asked_ < kSignatureWindow) {
    std::string body;
    ByteWriter(body).id(signatures_wanted_.front());
    SOMFS_TRY(send(MessageType::signature, std::move(body)));
    signatures_wanted_.pop_front();
    ++signatures_asked_;
  }
  Signature signature;
  while (true) {
    SOMFS_TRY_ASSIGN(Message m, wait_for(MessageType::signed_));
    if (m.body.empty()) break;
    if (!signature.feed(m.body)) return unexpected_message();   // no honest one is that large: it need not ever end
  }
  --signatures_asked_;
  if (!signature.finish()) return std::nullopt;
  return signature;
}

}  // namespace somfs::replicator
