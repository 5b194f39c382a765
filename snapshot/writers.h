// SPDX-License-Identifier: Apache-2.0
// The built-in writers (SOM-14). What each promises stands in somfs-writers(7).
//
// Everything that concerns the application happens in child processes that are killed at the deadline. What a writer does
// before the gate closes is finished, or merely held open, when prepare() returns: between close and open it neither writes nor waits, so an
// application whose files lie on the mount cannot block the snapshot that would release it.
//
// One thread at a time per writer, as the coordinator does it. `clock` outlives the writer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "common/result.h"
#include "snapshot/coordinator.h"

namespace somfs::snapshot {

// PostgreSQL 9.6 and later: an online backup (pg_backup_start) is held open across the cut by a session of psql.
struct PostgresConfig {
  std::string name = "postgresql";
  std::string volume;              // the directory as the server sees it: data, WAL and tablespaces have to lie in it
  std::string host;                // directory of the socket, or a host name; empty: psql's default
  std::string port;
  std::string user = "postgres";   // the role
  std::string database = "postgres";
  std::string os_user;             // run psql as this user (for peer authentication); empty: as ours
  std::string passfile;            // empty: psql's default
  std::string psql = "/usr/bin/psql";
  // Gets the backup label of every snapshot that took place: the text of a `backup_label` file.
  std::function<void(const std::string& snapshot, const std::string& label)> on_label;
};

// SQLite: a sqlite3 process per database holds the write lock, so that no transaction is half-way.
struct SqliteConfig {
  std::string name = "sqlite";
  std::string volume;
  std::vector<std::string> databases;  // paths or glob(7) patterns; what a pattern finds is taken if it is a database
  bool find_open = false;              // and every database in the volume that some process has open
  std::string sqlite3 = "/usr/bin/sqlite3";
};

// A cgroup, version 2 or 1: frozen before the gate closes, thawed after it opened.
struct CgroupConfig {
  std::string name = "cgroup";
  std::string path;                    // "/sys/fs/cgroup/..."
};

// Executables in a directory, in the order of their names, with the argument `prepare` or `release`.
struct HooksConfig {
  std::string name = "hooks";
  std::string dir;
  std::string volume;                  // for SOMFS_VOLUME
};

std::shared_ptr<Writer> make_postgres_writer(PostgresConfig config, const Clock& clock);
std::shared_ptr<Writer> make_sqlite_writer(SqliteConfig config, const Clock& clock);
std::shared_ptr<Writer> make_cgroup_writer(CgroupConfig config, const Clock& clock);
std::shared_ptr<Writer> make_hooks_writer(HooksConfig config, const Clock& clock);

using WriterConfig = std::variant<PostgresConfig, SqliteConfig, CgroupConfig, HooksConfig>;
// In the given order, but cgroups last: a frozen application could not answer the others. Exit::configuration where something
// is missing.
Result<std::vector<std::shared_ptr<Writer>>> make_writers(const std::vector<WriterConfig>& configs, const Clock& clock);

// Files in the volume that start as SQLite databases do and that some process has open now; sorted.
std::vector<std::string> open_sqlite_databases(const std::string& volume);

}  // namespace somfs::snapshot
