// SPDX-License-Identifier: Apache-2.0
// The control socket of a mounted volume: JSON lines over a Unix stream socket, descriptors beside them (SCM_RIGHTS).
// One connection carries one request, but for `source-open`, whose connection is the lease of the snapshot it made: when it
// closes, whoever held it, the snapshot goes.
//
// Sockets and their descriptions (ID.sock, ID.json) lie in the run directory: $SOMFS_RUN_DIR, else /run/somfs for root, else
// $XDG_RUNTIME_DIR/somfs, else /tmp/somfs-UID. Who looks for a mount looks in all of them, and in /run/user/UID/somfs. The socket admits root and the user the daemon runs as (SO_PEERCRED).
// A client never touches the mount itself: an answer must not depend on a gate it may have closed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/fd.h"
#include "common/result.h"

namespace somfs::cli {

using Json = nlohmann::ordered_json;

inline constexpr std::size_t kMaxLine = 16u << 20;
inline constexpr int kMaxFds = 4;

// Either end of a connection. Not thread-safe.
class Connection {
 public:
  Connection() = default;
  explicit Connection(Fd socket) : socket_(std::move(socket)) {}
  int fd() const { return socket_.get(); }
  Status send(const Json& line, const std::vector<int>& fds = {});
  // Exit::link_down at the end of the stream, Exit::temporary when it is not JSON or too long.
  Result<Json> receive(std::vector<Fd>* fds = nullptr);
  void close() { socket_.reset(); }

 private:
  Fd socket_;
  std::string pending_;
  std::vector<Fd> pending_fds_;
};

struct Mounted {           // what ID.json says
  std::string dir;         // the protected directory
  std::string mountpoint;
  std::string socket;
  int pid = 0;
};

std::string run_directory();
// The name under which a volume mounted at `mountpoint` is registered: stable for that path.
std::string registration_id(const std::string& mountpoint);
// Absolute and free of "." and "..", by its text alone. Fails where a relative path is relative to nothing.
Result<std::string> absolute_path(const std::string& path);
// Absolute and free of ".", ".." and symbolic links in all but the last component; the last one is not touched.
Result<std::string> canonical_without_touching(const std::string& path);

std::vector<Mounted> mounted_volumes();                        // live ones: the process exists and accepts
Result<Mounted> find_mounted(const std::string& dir);          // by protected directory or mountpoint; not found: Exit::temporary, no directory at all: Exit::usage
Result<Connection> connect_to(const Mounted& mounted);
// One request, one answer. An {"error":…} answer becomes the Error it describes.
Result<Json> ask(const std::string& dir, const Json& request);
Result<Json> answer_of(Result<Json> line);                     // the same conversion for a line received

Json error_json(const Error& error);                           // {"schema":1,"error":{"exit":…,"what":…,"on":…,"why":…,"to_do":…,"line":…}}

}  // namespace somfs::cli
