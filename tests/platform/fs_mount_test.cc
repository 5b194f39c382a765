// SPDX-License-Identifier: Apache-2.0
// The mount on the real kernel: life and death, identity, descriptors, what is recorded.
#include <algorithm>
#include <cstring>
#include <dirent.h>
#include <sys/xattr.h>

#include "tests/platform/fs_fixture.h"

namespace somfs::fs::test {
namespace {

std::string slurp(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string out(1 << 20, '\0');
  std::size_t got = 0;
  if (!fd || read_all(fd.get(), out.data(), out.size(), &got) != 0) return "?";
  out.resize(got);
  return out;
}

void spill(const std::string& path, const std::string& text, int flags = O_CREAT | O_TRUNC) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0644));
  ASSERT_TRUE(fd) << path << ": " << std::strerror(errno);
  ASSERT_EQ(write_all(fd.get(), text), 0) << std::strerror(errno);
}

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> out;
  DIR* d = ::opendir(path.c_str());
  if (d == nullptr) return {"?"};
  while (dirent* e = ::readdir(d))
    if (std::strcmp(e->d_name, ".") != 0 && std::strcmp(e->d_name, "..") != 0) out.emplace_back(e->d_name);
  ::closedir(d);
  std::sort(out.begin(), out.end());
  return out;
}

TEST(Mount, CarriesOutAndRecords) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  spill(s.path + "/old", "before");
  {
    Mounted m(s.path);
    ASSERT_TRUE(m.mount);
    EXPECT_EQ(slurp(s.path + "/old"), "before");
    spill(s.path + "/new", "hello");
    EXPECT_EQ(slurp(s.path + "/new"), "hello");
    std::vector<Seen> seen = m.sink.take();
    ASSERT_EQ(seen.size(), 3u);
    EXPECT_EQ(seen[0].what, ChangeKind::born);
    EXPECT_EQ(seen[0].kind, Kind::file);
    EXPECT_EQ(seen[1].what, ChangeKind::bind);
    EXPECT_EQ(seen[1].name, "new");
    EXPECT_EQ(seen[2].what, ChangeKind::write);
    EXPECT_EQ(seen[2].extent, (Extent{0, 5}));
    EXPECT_EQ(seen[2].payload, "hello");
    EXPECT_EQ(names_in(s.path), (std::vector<std::string>{"new", "old"}));
    EXPECT_TRUE(m.mount->in_force().killpriv_v2);
    EXPECT_TRUE(m.mount->in_force().parallel_dirops);
    EXPECT_TRUE(m.mount->in_force().posix_acl);
  }
  EXPECT_EQ(slurp(s.path + "/new"), "hello");
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int result = RUN_ALL_TESTS();
  return result == 0 && somfs::fs::test::skipped() ? 77 : result;
}
