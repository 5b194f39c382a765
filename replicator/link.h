// SPDX-License-Identifier: Apache-2.0
// The source's end of a conversation. A thread of its own receives, so that the mirror can always send (no side waits for the other
// while both are full); what it asked for is answered in the order of asking, and what the mirror says of the epochs it was sent
// (committed, applied) comes apart from that. One caller thread, but send() may come from another.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "common/sync.h"
#include "replicator/delta.h"
#include "replicator/sender.h"
#include "replicator/wire.h"

namespace somfs::replicator {

class Link {
 public:
  // `news` is called, on a thread of the link's, when something was said of an epoch, and when nothing more will come.
  Link(Transport& transport, Progress& progress, std::function<void()> news = {});
  ~Link();                                             // ends the conversation: the transport is closed

  // Fails with the mirror's own error when it sent one, with Exit::interrupted when the caller cancelled.
  Status send(MessageType type, std::string body, std::string leaf = {});
  Result<Message> wait_for(MessageType type);          // anything else out of turn is an error
  Result<Welcome> greet(const Hello& hello);
  bool over() const;                                   // nothing more will come
  Result<Message> wait_for_verdict();                  // the next of what is said of epochs
  bool has_verdict() const;
  double sending_s() const { return static_cast<double>(sending_ns_.load(std::memory_order_relaxed)) / 1e9; }   // spent in send()
  // The last message, even from one that was cancelled, and until the mirror has hung up on it or the time is over.
  void part(std::string how, std::chrono::milliseconds within);

  // Listings: want() says what will be asked for, in the order in which listing() will be called; at most kWindow are under way or waiting.
  // `perhaps`: the mirror need not know it, and then has no rows.
  void want_listing(const ObjectId& dir, bool perhaps = false) { wanted_.push_back({dir, perhaps}); }
  Result<std::vector<ListRow>> listing(const ObjectId& dir);

  Status settle_listings();                            // those under way arrive now, so that something else can be asked

  // Signatures: as listings, with a window of a few. nullopt: the mirror has none that can be used.
  void want_signature(const ObjectId& object) { signatures_wanted_.push_back(object); }
  Result<std::optional<Signature>> next_signature();

 private:
  static constexpr std::size_t kWindow = 64, kSignatureWindow = 4, kInboxBytes = 96u << 20;
  void run();
  Error broken() REQUIRES(mutex_);
  Status ask_listings();
  Result<std::vector<ListRow>> receive_listing(const ObjectId& dir);

  Result<Message> next_of(std::deque<Message>& from) REQUIRES(mutex_);

  Transport& transport_;
  Progress& progress_;
  const std::function<void()> news_;
  std::atomic<std::int64_t> sending_ns_{0};
  struct Wanted {
    ObjectId dir;
    bool perhaps;
  };
  std::deque<Wanted> wanted_;
  std::deque<ObjectId> asked_;
  std::deque<std::vector<ListRow>> arrived_;           // of asked_, from its front
  std::deque<ObjectId> signatures_wanted_;
  std::size_t signatures_asked_ = 0;

  mutable Mutex mutex_;
  CondVar change_;
  std::deque<Message> inbox_ GUARDED_BY(mutex_), verdicts_ GUARDED_BY(mutex_);
  std::size_t inbox_bytes_ GUARDED_BY(mutex_) = 0;
  std::size_t verdicts_due_ GUARDED_BY(mutex_) = 0;    // at most: of what is held there is one
  std::optional<Error> error_ GUARDED_BY(mutex_);      // what the mirror said, or how the link broke
  bool ended_ GUARDED_BY(mutex_) = false;
  std::jthread receiver_;
};

}  // namespace somfs::replicator
