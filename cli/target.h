// SPDX-License-Identifier: Apache-2.0
// TARGET as the commands take it, and the conversation with the mirror it names.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "common/fd.h"
#include "common/result.h"
#include "common/sync.h"
#include "replicator/dial.h"
#include "replicator/wire.h"

namespace somfs::cli {

struct Target {
  enum class Kind { directory, ssh, network } kind = Kind::directory;
  std::string path;        // absolute
  std::string host;        // ssh: [USER@]HOST
  replicator::Address address;   // network
  std::string volume;      // network: which of the daemon's mirrors
  std::string text;        // normalised: how the volume remembers it
};

// /path, dir:/path, ssh://[USER@]HOST/path, somfs://HOST:PORT/VOLUME. A relative path is taken from the working directory.
// Unknown or not yet served schemes: Exit::usage.
Result<Target> parse_target(const std::string& text);
// A mirror directory in the volume that it mirrors, or around it, would hold itself: Exit::usage. `dir`, `mountpoint`:
// of the volume.
Status refuse_overlap(const Target& target, const std::string& dir, const std::string& mountpoint);

// Conversations with the mirror, one after the other: in this process for a directory, over a spawned ssh or a connection else.
class MirrorLink {
 public:
  // A mirror directory that does not exist is made, stands for an empty one, or is an error.
  enum class Missing { make, pretend, refuse };
  MirrorLink(Target target, Missing missing, const replicator::StreamSettings& link = {});
  ~MirrorLink();
  MirrorLink(const MirrorLink&) = delete;
  MirrorLink& operator=(const MirrorLink&) = delete;

  // Ends the conversation before, whose transport must be gone, and begins one.
  Result<std::unique_ptr<replicator::Transport>> connect();
  // After a conversation: what the mirror's side ended with (in-process), or ssh's own failure.
  Status finish();
  // From any thread: whoever waits for the other side is woken, and this conversation is over.
  void interrupt();
  // Of an error that this side met and one the far side ended with: the one that says more.
  static Error telling(Error here, const Status& there);

 private:
  Result<std::unique_ptr<replicator::Transport>> connect_in_process();
  Result<std::unique_ptr<replicator::Transport>> connect_over_ssh();
  Result<std::unique_ptr<replicator::Transport>> connect_over_network();
  const Target target_;
  const Missing missing_;
  const replicator::StreamSettings link_;
  Mutex mutex_;
  std::unique_ptr<replicator::Transport> far_ GUARDED_BY(mutex_);
  int ssh_pid_ GUARDED_BY(mutex_) = -1;
  Fd socket_ GUARDED_BY(mutex_);   // the connection once more, to end it
  const Fd interrupted_;           // readable from the interruption on
  std::thread serving_;
  Status served_;
};

}  // namespace somfs::cli
