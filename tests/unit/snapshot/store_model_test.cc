// SPDX-License-Identifier: Apache-2.0
// Random operations, snapshots taken and removed at random: every snapshot's view shows the tree as it was at its cut.
#include <gtest/gtest.h>

#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include <fmt/format.h>

#include "snapshot/store_impl.h"
#include "tests/unit/snapshot/store_harness.h"

namespace somfs::snapshot::test {
namespace {

// Returns what differed, empty when all went well. `reopen`: the store is closed and opened again now and then.
std::string run_model(std::uint64_t seed, int steps, bool keep_views) {
  std::mt19937_64 rng(seed);
  Volume v;
  v.open_store();
  struct Past {
    std::string name;
    Tree tree;
    std::unique_ptr<View> view;
  };
  std::vector<Past> pasts;
  for (int i = 0; i < 15; ++i) v.random_step(rng);
  for (int step = 0; step < steps; ++step) {
    std::uint64_t what = rng() % 30;
    std::string did = "an operation";
    if (what == 0 && pasts.size() < 5) {
      std::string name = fmt::format("s{}", step);
      Tree now = v.live();
      v.snapshot(name, static_cast<std::uint64_t>(step));
      auto view = View::open(v.root.get(), v.dir.get(), name);
      if (!view) return view.error().line();
      pasts.push_back({name, std::move(now), std::move(*view)});
      did = "a snapshot";
    } else if (what == 1 && !pasts.empty()) {
      std::size_t at = rng() % pasts.size();
      if (auto s = v.store->remove(pasts[at].name); !s) return s.error().line();
      did = "removing " + pasts[at].name;
      auto gone = pasts[at].view->root();
      if (gone || gone.error().exit != Exit::no_space) return "a view of a removed snapshot went on";
      pasts.erase(pasts.begin() + static_cast<std::ptrdiff_t>(at));
    } else if (what == 2) {
      v.close_store();
      v.open_store();
      did = "opening again";
    } else {
      v.random_step(rng);
    }
    bool check_all = what <= 2 || step % 7 == 0;
    if (!check_all) continue;
    for (Past& p : pasts) {
      auto seen = keep_views ? Volume::capture(*p.view) : v.view(p.name);
      std::string where = fmt::format("seed {} step {} after {}, snapshot {}: ", seed, step, did, p.name);
      if (!seen) return where + seen.error().line();
      std::string d = describe_difference(p.tree, *seen);
      if (!d.empty()) return where + "\n" + d;
    }
  }
  if (v.store->dropped().size() != 0) return "dropped: " + v.store->dropped()[0].reason;
  std::vector<std::string> names;
  for (const Past& p : pasts)
    if (auto s = v.store->remove(p.name); !s) return s.error().line();
  if (v.store->wanted() || v.store->list().size() != 0) return "something is left";
  for (const std::string& n : names_in(v.dir.get()))
    if (n != "head" && n != "dropped") return "left behind: " + n;
  Tree now = v.live();
  for (const auto& [path, o] : now)
    if (v.store->own_links(o.id) != 0) return "links are still counted for " + path;
  return {};
}

std::uint64_t base_seed() {
  const char* s = std::getenv("SOMFS_SEED");
  return s != nullptr ? std::strtoull(s, nullptr, 10) : 20240601;
}
int count() {
  const char* s = std::getenv("SOMFS_RUNS");
  return s != nullptr ? std::atoi(s) : 6;
}

TEST(StoreModel, ViewsOpenedAnew) {
  for (int i = 0; i < count(); ++i) ASSERT_EQ(run_model(base_seed() + static_cast<std::uint64_t>(i), 300, false), "");
}

TEST(StoreModel, ViewsKeptOpen) {
  for (int i = 0; i < count(); ++i) ASSERT_EQ(run_model(base_seed() + 1000 + static_cast<std::uint64_t>(i), 300, true), "");
}

TEST(StoreModel, OrdinaryUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(2);
    std::string d;
    for (int i = 0; i < count() / 2 && d.empty(); ++i)
      d = run_model(base_seed() + 2000 + static_cast<std::uint64_t>(i), 300, i % 2 == 0);
    if (!d.empty()) fmt::print(stderr, "{}\n", d);
    ::_exit(d.empty() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace somfs::snapshot::test
