// SPDX-License-Identifier: Apache-2.0
// What a service manager and its service tell each other: sockets to serve (sd_listen_fds(3)) and how it goes (sd_notify(3)).
#pragma once

#include <string>
#include <vector>

#include "common/fd.h"
#include "common/result.h"

namespace somfs::cli {

class ServiceManager {
 public:
  // Takes what is meant for this process out of the environment, so that no child takes it for its own. Before there are threads.
  // Sockets that are none to accept callers on are Exit::configuration.
  static Result<ServiceManager> from_environment();

  std::vector<Fd> sockets;   // close-on-exec, non-blocking
  // Lines of KEY=VALUE. Nobody waits for it, and nothing happens where nobody asked for it.
  void tell(const std::string& lines) const noexcept;

 private:
  std::string notify_;       // a path, or '@' and the name of an abstract socket
};

}  // namespace somfs::cli
