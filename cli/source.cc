// SPDX-License-Identifier: Apache-2.0
#include "cli/source.h"

#include <poll.h>
#include <sys/stat.h>

#include "common/bytes.h"
#include "replicator/text_codes.h"

namespace somfs::cli {
namespace {

// A lease ends before its time only with the mount.
tl::unexpected<Error> mount_ended() {
  return fail(Exit::temporary, "the mount ended meanwhile", {}, {}, "mount the volume and run it again");
}

Result<Json> of_lease(Result<Json> answer) {
  if (answer || answer.error().exit != Exit::link_down) return answer_of(std::move(answer));
  return mount_ended();
}

}  // namespace

Result<SourceLease> SourceLease::open(const std::string& dir, const Wish& wish) {
  SOMFS_TRY_ASSIGN(Mounted m, find_mounted(dir));
  SourceLease lease;
  SOMFS_TRY_ASSIGN(lease.connection_, connect_to(m));
  std::vector<Fd> fds;
  SOMFS_TRY_ASSIGN(lease.answer_, lease.ask({{"verb", "source-open"}, {"purpose", wish.purpose}, {"target", wish.target}, {"snapshot", wish.snapshot},
                                             {"crash_consistent", wish.crash_consistent}, {"timeout", wish.timeout_s}}, &fds));
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
  s.base_root = replicator::from_hex(answer_.value("base_root", "")).value_or(std::string());
  s.epoch = answer_.value("epoch", std::uint64_t{0});
  s.compare_content = answer_.value("content", false);
  s.gap = answer_.value("gap", false);
  for (const auto& e : answer_["excludes"]) s.excludes.push_back(e.get<std::string>());
  s.incomplete = [this]() -> Status {
    SOMFS_TRY(ask({{"verb", "flag-gap"}}));
    return {};
  };
  s.dirty_since = [this](std::uint64_t epoch) { return dirty_since(epoch); };
  return s;
}

Status SourceLease::still_held() const {
  pollfd p{connection_.fd(), POLLIN, 0};
  if (::poll(&p, 1, 0) > 0) return mount_ended();   // nobody speaks unasked: it is closed
  return {};
}

Result<Json> SourceLease::ask(const Json& request, std::vector<Fd>* fds) {
  if (Status sent = connection_.send(request); !sent) return of_lease(pass_on(std::move(sent).error()));
  return of_lease(connection_.receive(fds));
}

Result<replicator::Changes> SourceLease::dirty_since(std::uint64_t epoch) {
  std::vector<Fd> fds;
  SOMFS_TRY_ASSIGN(Json answer, ask({{"verb", "dirty-since"}, {"epoch", epoch}}, &fds));
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

Status SourceLease::acknowledge(const Uuid& mirror, std::uint64_t epoch, const std::string& root) {
  SOMFS_TRY(ask({{"verb", "acknowledge"}, {"mirror", mirror.text()}, {"epoch", epoch}, {"root", replicator::hex(root)}}));
  return {};
}

}  // namespace somfs::cli
