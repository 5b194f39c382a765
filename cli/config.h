// SPDX-License-Identifier: Apache-2.0
// The configuration of one volume (somfs.conf(5)): TOML. Unknown keys are errors: a misspelt safety setting must not pass silently.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/watch_config.h"
#include "common/result.h"
#include "replicator/wire.h"

namespace somfs::cli {

struct WriterConfig {
  std::string type;                  // postgresql, sqlite, cgroup, hooks
  std::string name;                  // in reports; the type by default
  std::string socket, user, database, port;  // postgresql
  std::vector<std::string> files;    // sqlite: relative to the volume, or absolute beneath it
  std::string path;                  // cgroup
  std::string directory;             // hooks
  double timeout_s = 10;
};

struct Config {
  std::string file;                  // where it was read from, empty: defaults
  std::vector<std::string> excludes; // [volume] exclude: relative to the volume
  std::string reserve = "5%";        // [snapshot] reserve: size or share of the file system
  double expire_s = 24 * 3600;       // [snapshot] expire: snapshots made for migrations
  std::uint64_t index_memory = 64u << 20;
  unsigned hold_ms = 1000, drain_ms = 500;
  std::uint64_t parked_bytes = 64u << 20;   // [snapshot] parked
  std::uint64_t journal_memory = 64u << 20; // [journal] memory: the dirty set degrades beyond it
  std::string target;                // [migrate] target
  double brake = 0.5;                // [migrate] brake
  replicator::StreamSettings link{.sending = replicator::PipelineMode::automatic};   // [migrate] bwlimit, compress, pipeline, threads
  std::vector<WriterConfig> writers; // [[writer]], numbered names where there are several of a type

  // Bytes to keep free on a file system of `total` bytes.
  std::uint64_t reserve_bytes(std::uint64_t total) const;
};

// Those of the configuration, but for what is not empty here.
Result<replicator::StreamSettings> link_settings(const Config& config, const std::string& pipeline, const std::string& compress);
Result<Config> parse_config(const std::string& text, const std::string& file);
// The file must belong to root or to whoever runs this, and be writable by nobody else: it names programs that are run.
Result<Config> load_config(const std::string& file);
// The file of a volume: $SOMFS_CONFIG_DIR or /etc/somfs, NAME.conf with the protected directory's path, '/' made '-'
// ("/srv/data" → srv-data.conf); defaults where there is none.
std::string default_config_file(const std::string& dir);

// A mirror that comes after one of the daemon's.
struct ForwardConfig {
  std::string volume, target;
  std::uint64_t spool = 1ull << 30;        // bytes kept for it
  double brake = 0.5;                      // of comparisons
  replicator::StreamSettings link{.sending = replicator::PipelineMode::automatic};   // bwlimit, compress
};

// The configuration of a mirror daemon (somfs.conf(5), "THE MIRROR DAEMON"). What is empty was not said.
struct MirrordConfig {
  std::string listen, store, log;          // [mirrord]
  std::string user;                        // [mirrord] user: whose rights workers have
  replicator::PipelineMode pipeline = replicator::PipelineMode::automatic;   // [mirrord] pipeline, threads
  unsigned threads = 0;
  double brake = 0.5;                      // [mirrord] brake: of sources without the right to confirm
  unsigned connections = 256, handshakes = 32;   // [limits]
  double handshake_s = 10;
  WatchConfig watch;                       // [watch]
  std::vector<ForwardConfig> forwards;     // [[forward]]
};
Result<MirrordConfig> parse_mirrord_config(const std::string& text, const std::string& file);
Result<MirrordConfig> load_mirrord_config(const std::string& file);   // as load_config()

}  // namespace somfs::cli
