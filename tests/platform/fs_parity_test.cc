// SPDX-License-Identifier: Apache-2.0
// Native parity (invariant 9): the same random calls on the mount and on a plain directory have the same results, the same
// errors and leave equal trees. The first argument is the number of seeds, the second the first of them.
#include "tests/platform/fs_fixture.h"
#include "tests/platform/fs_parity.h"

namespace somfs::fs::test {
namespace {

unsigned seeds = 40;
unsigned first_seed = 1;

bool same(const std::vector<std::string>& want, const std::vector<std::string>& got, unsigned seed, const char* where) {
  std::size_t at = 0;
  while (at < want.size() && at < got.size() && want[at] == got[at]) ++at;
  if (at == want.size() && at == got.size()) return true;
  ADD_FAILURE() << "seed " << seed << ", " << where << "\n plain: " << (at < want.size() ? want[at] : "nothing")
                << "\n mount: " << (at < got.size() ? got[at] : "nothing");
  return false;
}

// False when they differ, with the first difference printed.
bool play_both(const ParityOptions& options, const MountedWith& with = {}) {
  Scratch plain;
  Scratch protected_dir;
  for (const std::string& p : {plain.path, protected_dir.path}) ::chmod(p.c_str(), 0777);
  std::vector<Outcome> expected = run_random_calls(plain.path, options);
  std::vector<Outcome> got;
  std::vector<std::string> through;
  {
    Mounted m(protected_dir.path, with);
    if (!m.mount) return false;
    got = run_random_calls(protected_dir.path, options);
    through = describe_tree(protected_dir.path);
  }
  std::size_t n = std::min(expected.size(), got.size());
  for (std::size_t i = 0; i < n; ++i) {
    if (expected[i] == got[i]) continue;
    ADD_FAILURE() << "seed " << options.seed << " call " << i << ": " << expected[i].call << "\n plain: " << expected[i].result
                  << "\n mount: " << got[i].result << "\n mount's call: " << got[i].call;
    return false;
  }
  EXPECT_EQ(expected.size(), got.size());
  std::vector<std::string> want = describe_tree(plain.path);
  return same(want, through, options.seed, "seen through the mount") &&
         same(want, describe_tree(protected_dir.path), options.seed, "beneath");
}

TEST(Parity, OfRootAndOtherUsers) {
  SOMFS_NEEDS_MOUNTS();
  for (unsigned s = first_seed; s < first_seed + seeds; ++s)
    if (!play_both({s, 400, true})) return;
}

TEST(Parity, OfRootAlone) {
  SOMFS_NEEDS_MOUNTS();
  for (unsigned s = first_seed; s < first_seed + seeds; ++s)
    if (!play_both({s, 400, false})) return;
}

// But for the one thing that is announced: what is kept open for reading cannot be opened for reading and writing.
TEST(Parity, WithPassthrough) {
  SOMFS_NEEDS_MOUNTS();
  MountedWith with;
  with.mount.passthrough = true;
  with.mount.passthrough_from = 0;
  for (unsigned s = first_seed; s < first_seed + seeds; ++s)
    if (!play_both({s, 400, true, false}, with)) return;
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (argc > 1) somfs::fs::test::seeds = static_cast<unsigned>(std::atoi(argv[1]));
  if (argc > 2) somfs::fs::test::first_seed = static_cast<unsigned>(std::atoi(argv[2]));
  int result = RUN_ALL_TESTS();
  return result == 0 && somfs::fs::test::skipped() ? 77 : result;
}
