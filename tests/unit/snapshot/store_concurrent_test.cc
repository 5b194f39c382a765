// SPDX-License-Identifier: Apache-2.0
// Views do not change while writers run at full speed, in threads and from another process.
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include <fmt/format.h>

#include "common/sync.h"
#include "tests/unit/snapshot/store_harness.h"

namespace somfs::snapshot::test {
namespace {

// Works in its own directory, so that no two writers need a lock on the same object.
void work(Volume& v, SharedMutex& gate, int number, int steps) {
  std::mt19937_64 rng(static_cast<std::uint64_t>(number));
  std::string home = fmt::format("/t{}", number);
  for (int i = 0; i < steps; ++i) {
    ReadLock l(gate);
    std::string one = fmt::format("{}/{}", home, rng() % 12), other = fmt::format("{}/{}", home, rng() % 12);
    switch (rng() % 7) {
      case 0: v.create(one, std::string(rng() % 100000, 'c')); break;
      case 1: v.write(one, rng() % 150000, std::string(1 + rng() % 70000, static_cast<char>('a' + i % 26))); break;
      case 2: v.truncate(one, rng() % 100000); break;
      case 3: v.unlink(one); break;
      case 4: v.rename(one, other); break;
      case 5: v.link(one, other); break;
      case 6: v.chmod(one, static_cast<unsigned>(0600 | rng() % 0100)); break;
    }
  }
}

TEST(StoreConcurrent, ViewsStandStillInThreads) {
  Volume v;
  v.open_store();
  for (int i = 0; i < 3; ++i) v.mkdir(fmt::format("/t{}", i));
  SharedMutex gate;
  std::atomic<int> looks = 0;
  Mutex trouble_mutex;
  std::string trouble;
  auto say = [&](const std::string& what) {
    Lock l(trouble_mutex);
    if (trouble.empty()) trouble = what;
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i) threads.emplace_back([&, i] { work(v, gate, i, 400); });
    for (int s = 0; s < 6; ++s) {
      std::string name = fmt::format("s{}", s);
      auto tree = std::make_shared<Tree>();
      {
        WriteLock l(gate);
        *tree = v.live();
        v.snapshot(name);
      }
      // Even ones are looked at, odd ones are in the way and get removed.
      if (s % 2 == 1) {
        threads.emplace_back([&, name] {
          if (auto r = v.store->remove(name); !r) say(r.error().line());
        });
        continue;
      }
      threads.emplace_back([&, name, tree] {
        auto view = View::open(v.root.get(), v.dir.get(), name);
        if (!view) return say(view.error().line());
        for (int i = 0; i < 4; ++i) {
          auto got = Volume::capture(**view);
          std::string d = got ? describe_difference(*tree, *got) : got.error().line();
          if (!d.empty()) return say(name + ": " + d);
          ++looks;
        }
      });
    }
  }
  EXPECT_EQ(trouble, "");
  EXPECT_EQ(looks.load(), 12);
  EXPECT_TRUE(v.store->dropped().empty());
}

TEST(StoreConcurrent, ViewInAnotherProcess) {
  Volume v;
  v.open_store();
  std::mt19937_64 rng(3);
  for (int i = 0; i < 60; ++i) v.random_step(rng);
  Tree before = v.live();
  v.snapshot("s");
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto view = View::open(v.root.get(), v.dir.get(), "s");
    for (int i = 0; view && i < 30; ++i) {
      auto got = Volume::capture(**view);
      std::string d = got ? describe_difference(before, *got) : got.error().line();
      if (d.empty()) continue;
      fmt::print(stderr, "{}\n", d);
      ::_exit(1);
    }
    ::_exit(view ? 0 : 2);
  }
  int status = 0;
  for (int i = 0; i < 20000 && ::waitpid(child, &status, WNOHANG) == 0; ++i) {
    v.random_step(rng);
    if (i % 200 == 100) v.snapshot(fmt::format("later{}", i));
    if (i % 200 == 199) (void)v.store->remove(fmt::format("later{}", i - 99));
  }
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace somfs::snapshot::test
