// SPDX-License-Identifier: Apache-2.0
// Watches the sources of a mirror daemon (source_watch.h) as long as it lives: a thread looks at the time, keeps what is known in `watch` beside
// the daemon's keys, and a second one runs the hook at each change. Nobody who serves a source waits for either.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "cli/source_watch.h"
#include "cli/watch_config.h"
#include "common/fd.h"
#include "common/result.h"
#include "common/sync.h"
#include "replicator/wire.h"

namespace somfs::cli {

class Watchman {
 public:
  // `dir`: the daemon's own directory beneath the store. Exit::locked when another process watches there.
  static Result<std::unique_ptr<Watchman>> make(const std::string& store, Fd dir, const WatchConfig& config, const Clock& clock);
  void begin();   // its threads: not before the signals that end the daemon are blocked
  ~Watchman();
  Watchman(const Watchman&) = delete;
  Watchman& operator=(const Watchman&) = delete;

  // One conversation with a source. Of one thread.
  class Visit {
   public:
    explicit Visit(Watchman* watchman) : watchman_(watchman) {}   // null: nobody watches
    ~Visit();
    Visit(const Visit&) = delete;
    Visit& operator=(const Visit&) = delete;
    void arrived(const replicator::Hello& hello);
    void listens();
    void heard(const replicator::Message& message);

   private:
    Watchman* const watchman_;
    std::optional<std::string> volume_;
    bool replicates_ = false, at_work_ = false;
  };

  // What is kept at a store, whether a daemon watches now or not: {"running", "suspect_after_s", "lost_after_s", "written", "sources": [...]}.
  static Result<nlohmann::json> kept(const std::string& store);

 private:
  Watchman(std::string store, Fd dir, Fd lock, WatchConfig config, const Clock& clock);
  void restore();
  void watch();
  void run_hooks();
  void run_hook(const SourceWatch::Change& change);
  void save(const std::string& text);
  bool ends() EXCLUDES(mutex_);

  const std::string store_;
  const Fd dir_, lock_;
  const WatchConfig config_;
  const Clock& clock_;
  Mutex mutex_;
  CondVar wake_;
  SourceWatch sources_ GUARDED_BY(mutex_);
  bool heard_ GUARDED_BY(mutex_) = false, news_ GUARDED_BY(mutex_) = false, end_ GUARDED_BY(mutex_) = false;
  std::deque<SourceWatch::Change> hooks_ GUARDED_BY(mutex_);
  bool save_failed_ = false;        // the watching thread's
  std::jthread watcher_, runner_;   // last: they use everything above
};

}  // namespace somfs::cli
