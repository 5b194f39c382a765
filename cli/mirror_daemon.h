// SPDX-License-Identifier: Apache-2.0
// The mirror daemon: many mirrors under one directory, served to paired sources over the network.
//
//   STORE/VOLUME/            a mirror, as a local one
//   STORE/.somfs-mirrord/    key, peers (allow-list), codes (invitations): docs/formats/channel.md
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cli/forwarding.h"
#include "cli/watchman.h"
#include "cli/worker.h"
#include "common/fd.h"
#include "common/result.h"
#include "common/sync.h"
#include "replicator/allow_list.h"
#include "replicator/dial.h"
#include "replicator/reception.h"

namespace somfs::cli {

// Keys, peers and codes of a daemon. Changes take effect for the next connection of a running one. Thread-safe, and safe against other
// processes at the same directory.
class MirrorKeys {
 public:
  // Makes store and key where there are none.
  static Result<MirrorKeys> open(const std::string& store);
  Result<replicator::Secret> own() const;
  Result<replicator::PublicKey> shared() const;
  Result<replicator::AllowList> peers() const;
  Status allow(const replicator::Peer& peer) const;
  Result<std::string> invite(replicator::Grants grants, const std::string& comment, std::int64_t valid_s) const;   // the code's text
  Status redeem(const replicator::PublicKey& source, std::string_view token) const;
  Result<Fd> empty_directory() const;   // where workers have their root
  Result<Fd> directory() const;         // once more: for what else is kept there

 private:
  class Locked;   // the directory, for one process and one thread at a time
  explicit MirrorKeys(Fd dir) : dir_(std::move(dir)) {}
  Fd dir_;
};

class MirrorDaemon {
 public:
  struct Limits {
    unsigned connections = 256;   // further callers are hung up on
    unsigned strangers = 32;      // of them, those whose handshake is not over
    double handshake_s = 10;
    double brake = 0.5;           // the most that a source without the right to confirm may remove at a go
  };

  // Another daemon may watch the sources of this store, or forward from it, already: then this one does not, and says so.
  static Result<std::unique_ptr<MirrorDaemon>> make(const std::string& store, std::vector<Fd> listeners, const WorkerSettings& workers, const Limits& limits,
                                                    const WatchConfig& watch, const std::vector<ForwardConfig>& forwards = {});
  ~MirrorDaemon();
  // Until stop(), which may come from any thread. Conversations under way are ended. `tell`: how many callers there are, when that changes.
  Status run(const std::function<void(std::size_t callers)>& tell);
  void stop();

 private:
  struct Guest;
  MirrorDaemon(std::string store, MirrorKeys keys, Fd empty, std::vector<Fd> listeners, const WorkerSettings& workers, const Limits& limits,
               std::unique_ptr<Watchman> watchman, std::unique_ptr<Forwarding> forwarding);
  void welcome(Fd caller);
  void serve(Guest& guest);
  Status attend(Guest& guest, bool& stranger);                         // `stranger`: until the handshake is over
  Status converse(Guest& guest, bool& stranger);
  Result<replicator::Reception> introduce(Guest& guest) const;
  Result<std::unique_ptr<replicator::Mirror>> open_mirror(const std::string& volume, replicator::Yielding& conversation) const;
  std::size_t let_go(bool all);                                        // how many are left

  const std::string store_;
  const Limits limits_;
  const WorkerSettings workers_;
  const MirrorKeys keys_;
  const Fd empty_;
  const std::vector<Fd> listeners_;
  const Fd wake_;
  const std::unique_ptr<Watchman> watchman_;   // null: nobody watches
  const std::unique_ptr<Forwarding> forwarding_;   // null: another process forwards
  std::atomic<bool> stopping_{false};
  std::atomic<unsigned> strangers_{0};
  Mutex mutex_;
  std::list<Guest> guests_ GUARDED_BY(mutex_);
};

}  // namespace somfs::cli
