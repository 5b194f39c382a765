// SPDX-License-Identifier: Apache-2.0
// The forwards of a mirror daemon: for each configured one a Forward (replicator/forward.h), for each volume with any the mirror that conversations
// and forwards share. A thread keeps what is known of them in `forwards` beside the daemon's keys, for somfs-ctl status.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/config.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/result.h"
#include "common/sync.h"
#include "replicator/forward.h"
#include "replicator/forwarded_mirror.h"

namespace somfs::cli {

class Forwarding {
 public:
  // `dir`: the daemon's own directory beneath the store. Exit::locked when another process forwards from there; Exit::usage or configuration when one
  // cannot be what is meant.
  static Result<std::unique_ptr<Forwarding>> make(const std::string& store, Fd dir, const std::vector<ForwardConfig>& configs, const Clock& clock);
  void begin();   // its threads: not before the signals that end the daemon are blocked
  ~Forwarding();
  Forwarding(const Forwarding&) = delete;
  Forwarding& operator=(const Forwarding&) = delete;

  // Null: no mirror comes after that one.
  std::shared_ptr<replicator::ForwardedMirror> mirror(const std::string& volume) const;

  // What is kept at a store, whether a daemon forwards now or not: {"forwarding": bool, "forwards": [...]}.
  static Result<nlohmann::json> kept(const std::string& store);

 private:
  struct One {
    ForwardConfig config;
    std::unique_ptr<replicator::Connector> connector;   // until begin()
    replicator::ForwardSettings settings;
    std::unique_ptr<replicator::Forward> forward;
  };
  Forwarding(Fd dir, Fd lock, const Clock& clock) : dir_(std::move(dir)), lock_(std::move(lock)), clock_(clock) {}
  nlohmann::json seen() const;
  void keep(const std::stop_token& stop);

  const Fd dir_, lock_;
  const Clock& clock_;
  std::map<std::string, std::shared_ptr<replicator::ForwardedMirror>> mirrors_;   // constant from make() on
  std::vector<One> all_;                                                          // from begin() on
  std::jthread keeper_;                                                           // last: it uses everything above
};

}  // namespace somfs::cli
