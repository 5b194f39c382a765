// SPDX-License-Identifier: Apache-2.0
// The daemon's end of the control socket: listens, checks who connects, hands each request to the volume.
#pragma once

#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>

#include "cli/control.h"
#include "common/result.h"
#include "common/sync.h"

namespace somfs::cli {

class ControlServer {
 public:
  // Serves one connection until it is done; runs on a thread of its own, at most 64 at a time.
  using Serve = std::function<void(Connection& connection, const Json& request)>;

  // Registers the volume in the run directory. A registration of the same mount point whose process is gone is replaced.
  static Result<std::unique_ptr<ControlServer>> start(const std::string& dir, const std::string& mountpoint, Serve serve);
  ~ControlServer();      // stops listening, shuts every connection and joins

 private:
  ControlServer() = default;
  void accept_loop(const std::stop_token& stop);
  struct Session {
    std::thread thread;
    int fd = -1;
    std::atomic<bool> done{false};
  };
  void reap(bool all);

  Fd listener_, wake_;
  std::string socket_path_, description_path_;
  Serve serve_;
  Mutex mutex_;
  std::list<std::unique_ptr<Session>> sessions_ GUARDED_BY(mutex_);
  std::jthread acceptor_;
};

}  // namespace somfs::cli
