// SPDX-License-Identifier: Apache-2.0
#include "snapshot/writers.h"

#include "common/printable.h"

namespace somfs::snapshot {
namespace {

Status absolute(const std::string& writer, const char* what, const std::string& path) {
  if (!path.empty() && path.front() == '/') return {};
  return fail(Exit::configuration, "writer " + printable(writer) + ": " + what, path.empty() ? "is missing" : printable(path),
              path.empty() ? "" : "not an absolute path");
}

}  // namespace

Result<std::vector<std::shared_ptr<Writer>>> make_writers(const std::vector<WriterConfig>& configs, const Clock& clock) {
  std::vector<std::shared_ptr<Writer>> writers, cgroups;
  for (const WriterConfig& any : configs) {
    if (const auto* c = std::get_if<PostgresConfig>(&any)) {
      SOMFS_TRY(absolute(c->name, "volume", c->volume));
      SOMFS_TRY(absolute(c->name, "psql", c->psql));
      writers.push_back(make_postgres_writer(*c, clock));
    } else if (const auto* s = std::get_if<SqliteConfig>(&any)) {
      SOMFS_TRY(absolute(s->name, "volume", s->volume));
      SOMFS_TRY(absolute(s->name, "sqlite3", s->sqlite3));
      for (const std::string& d : s->databases) SOMFS_TRY(absolute(s->name, "database", d));
      writers.push_back(make_sqlite_writer(*s, clock));
    } else if (const auto* h = std::get_if<HooksConfig>(&any)) {
      SOMFS_TRY(absolute(h->name, "directory", h->dir));
      writers.push_back(make_hooks_writer(*h, clock));
    } else if (const auto* g = std::get_if<CgroupConfig>(&any)) {
      SOMFS_TRY(absolute(g->name, "path", g->path));
      cgroups.push_back(make_cgroup_writer(*g, clock));
    }
  }
  writers.insert(writers.end(), cgroups.begin(), cgroups.end());
  return writers;
}

}  // namespace somfs::snapshot
