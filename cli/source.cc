// SPDX-License-Identifier: Apache-2.0
#include "cli/source.h"

#include <sys/stat.h>

#include "common/bytes.h"

namespace somfs::cli {

Result<SourceLease> SourceLease::open(const std::string& dir, const Wish& wish) {
  SOMFS_TRY_ASSIGN(Mounted m, find_mounted(dir));
  SourceLease lease;
  SOMFS_TRY_ASSIGN(lease.connection_, connect_to(m));
  SOMFS_TRY(lease.connection_.send({{"verb", "source-open"}, {"purpose", wish.purpose}, {"target", wish.target}, {"snapshot", wish.snapshot},
                                    {"crash_consistent", wish.crash_consistent}, {"timeout", wish.timeout_s}}));
  std::vector<Fd> fds;
  SOMFS_TRY_ASSIGN(lease.answer_, answer_of(lease.connection_.receive(&fds)));
  if (fds.size() != 2) return fail(Exit::temporary, "the somfs process sent no descriptors");
  lease.root_ = std::move(fds[0]);
  lease.store_ = std::move(fds[1]);
  lease.snapshot_ = lease.answer_.value("snapshot", "");
  lease.target_ = wish.target;
  return lease;
}

Result<replicator::Source> SourceLease::source(snapshot::View& view) {
  replicator::Source s;
  s.view = &view;
  SOMFS_TRY_ASSIGN(s.volume, Uuid::parse(answer_.value("volume", "")));
  SOMFS_TRY_ASSIGN(s.generation, Uuid::parse(answer_.value("generation", "")));
  for (const auto& a : answer_["ancestors"]) {
    SOMFS_TRY_ASSIGN(Uuid u, Uuid::parse(a.get<std::string>()));
    s.ancestors.push_back(u);
  }
  s.base_epoch = answer_.value("base_epoch", std::uint64_t{0});
  s.epoch = answer_.value("epoch", std::uint64_t{0});
  s.compare_content = answer_.value("content", false);
  s.gap = answer_.value("gap", false);
  for (const auto& e : answer_["excludes"]) s.excludes.push_back(e.get<std::string>());
  s.dirty_since = [this](std::uint64_t epoch) { return dirty_since(epoch); };
  return s;
}

Result<replicator::Changes> SourceLease::dirty_since(std::uint64_t epoch) {
  SOMFS_TRY(connection_.send({{"verb", "dirty-since"}, {"epoch", epoch}}));
  std::vector<Fd> fds;
  SOMFS_TRY_ASSIGN(Json answer, answer_of(connection_.receive(&fds)));
  if (fds.size() != 1) return fail(Exit::temporary, "the somfs process sent no dirty set");
  struct stat st{};
  if (::fstat(fds[0].get(), &st) != 0) return fail_errno("cannot read the dirty set");
  std::string bytes(static_cast<std::size_t>(st.st_size), '\0');
  std::size_t got = 0;
  replicator::Changes changes;
  if (pread_all(fds[0].get(), bytes.data(), bytes.size(), 0, &got) != 0 || got != bytes.size() || !snapshot::DirtySet::decode(bytes, &changes.set))
    return fail(Exit::temporary, "the somfs process sent a malformed dirty set");
  changes.complete = answer.value("complete", false);
  return changes;
}

Status SourceLease::acknowledge(const Uuid& mirror, std::uint64_t epoch) {
  SOMFS_TRY(connection_.send({{"verb", "acknowledge"}, {"mirror", mirror.text()}, {"epoch", epoch}}));
  SOMFS_TRY(answer_of(connection_.receive()));
  return {};
}

Status SourceLease::flag_gap() {
  SOMFS_TRY(connection_.send({{"verb", "flag-gap"}}));
  SOMFS_TRY(answer_of(connection_.receive()));
  return {};
}

}  // namespace somfs::cli
