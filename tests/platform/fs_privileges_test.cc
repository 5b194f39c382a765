// SPDX-License-Identifier: Apache-2.0
// What a write takes away: set-id bits and file capabilities, exactly where the file system beneath takes them away.
#include <cstring>
#include <functional>
#include <grp.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

#include "tests/platform/fs_fixture.h"

namespace somfs::fs::test {
namespace {

void spill(const std::string& path, const std::string& text, int flags = O_CREAT | O_TRUNC) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0644));
  ASSERT_TRUE(fd) << path << ": " << std::strerror(errno);
  ASSERT_EQ(write_all(fd.get(), text), 0) << std::strerror(errno);
}

// Without the fast negotiation the kernel asks for security.capability on every write.
TEST(Privileges, SomebodyElsesWriteClearsSetIds) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  std::string f = s.path + "/f";
  spill(f, "x");
  ASSERT_EQ(::chmod(f.c_str(), 06777), 0);
  spill(f, "by root", 0);
  struct stat st;
  ASSERT_EQ(::stat(f.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 06777u);
  m.sink.take();
  pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setgid(1001) != 0 || ::setuid(1001) != 0) ::_exit(1);
    int fd = ::open(f.c_str(), O_WRONLY);
    ::_exit(fd >= 0 && ::write(fd, "y", 1) == 1 ? 0 : 2);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
  ASSERT_EQ(::stat(f.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0777u);
  std::vector<Seen> seen = m.sink.take();
  ASSERT_GE(seen.size(), 2u);
  EXPECT_EQ(seen.front().what, ChangeKind::attr);
  EXPECT_EQ(seen.back().what, ChangeKind::write);
}

TEST(Privileges, StrangersCannotMakeSetIdsFallWithoutWriting) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  std::string f = s.path + "/f";
  spill(f, "x");
  ASSERT_EQ(::chmod(f.c_str(), 06777), 0);
  pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setgid(1001) != 0 || ::setuid(1001) != 0) ::_exit(1);
    if (::chown(f.c_str(), static_cast<uid_t>(-1), static_cast<gid_t>(-1)) == 0 || errno != EPERM) ::_exit(2);
    struct stat st;
    if (::stat(f.c_str(), &st) != 0 || (st.st_mode & 07777) != 06777u) ::_exit(3);
    // To write is allowed, in whichever way.
    int fd = ::open(f.c_str(), O_WRONLY);
    ::_exit(fd >= 0 && ::fallocate(fd, 0, 0, 8192) == 0 ? 0 : 4);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_EQ(WEXITSTATUS(status), 0);
  struct stat st;
  ASSERT_EQ(::stat(f.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0777u);
}

TEST(Privileges, WritesTakeFileCapabilitiesAway) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  std::string f = s.path + "/f";
  spill(f, "x");
  const char cap[20] = {0, 0, 0, 2, 1};
  ASSERT_EQ(::setxattr(f.c_str(), "security.capability", cap, sizeof cap, 0), 0) << std::strerror(errno);
  m.sink.take();
  spill(f, "y", 0);
  EXPECT_EQ(::getxattr(f.c_str(), "security.capability", nullptr, 0), -1);
  std::vector<Seen> seen = m.sink.take();
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen[0].what, ChangeKind::xattr);
}

// A store into a mapped page is no write(2): capabilities and set-id bits stay, also when the page is written back.
std::string after_a_mapped_write(const std::string& dir) {
  const std::string f = dir + "/f";
  spill(f, std::string(4096, 'x'));
  const char cap[20] = {0, 0, 0, 2, 1};
  Fd fd(::open(f.c_str(), O_RDWR | O_CLOEXEC));
  void* map = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (map == MAP_FAILED || ::chmod(f.c_str(), 06777) != 0 || ::setxattr(f.c_str(), "security.capability", cap, sizeof cap, 0) != 0)
    return std::strerror(errno);
  auto state = [&] {
    struct stat st {};
    ::stat(f.c_str(), &st);
    return std::to_string(st.st_mode & 07777) + (::getxattr(f.c_str(), "security.capability", nullptr, 0) > 0 ? " capable " : " none ");
  };
  std::memcpy(map, "mapped", 6);
  ::msync(map, 4096, MS_SYNC);
  std::string told = state();
  ::munmap(map, 4096);
  if (::chmod(f.c_str(), 0755) != 0 || ::pwrite(fd.get(), "y", 1, 0) != 1) return std::strerror(errno);
  told += state();
  ::fsync(fd.get());
  return told + state();
}

TEST(Privileges, MappedWritesTakeNothingAway) {
  SOMFS_NEEDS_MOUNTS();
  Scratch native;
  const std::string expected = after_a_mapped_write(native.path);
  EXPECT_EQ(expected, "3583 capable 493 none 493 none ");
  for (bool writeback : {false, true}) {
    Scratch s;
    MountedWith with;
    with.mount.writeback = writeback;
    Mounted m(s.path, with);
    ASSERT_TRUE(m.mount);
    EXPECT_EQ(after_a_mapped_write(s.path), expected) << (writeback ? "writeback" : "write-through");
  }
}

// Root, or somebody else, with CAP_FSETID or without it.
bool become(uid_t uid, bool fsetid) {
  if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0 || ::setgroups(0, nullptr) != 0 || ::setgid(uid) != 0 || ::setuid(uid) != 0) return false;
  __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &head, data) != 0) return false;
  if (uid != 0) data[0].effective = data[1].effective = 0;
  data[0].effective = fsetid ? data[0].effective | 1u << CAP_FSETID : data[0].effective & ~(1u << CAP_FSETID);
  return ::syscall(SYS_capset, &head, data) == 0;
}

struct Act {
  const char* name;
  std::function<bool(const std::string& file, const std::string& other)> run;
};

bool with_file(const std::string& path, int flags, const std::function<bool(int)>& run) {
  Fd fd(::open(path.c_str(), O_CLOEXEC | flags));
  return fd && run(fd.get());
}

const Act acts[] = {
    {"write", [](auto& f, auto&) { return with_file(f, O_WRONLY, [](int fd) { return ::write(fd, "y", 1) == 1; }); }},
    {"append", [](auto& f, auto&) { return with_file(f, O_WRONLY | O_APPEND, [](int fd) { return ::write(fd, "y", 1) == 1; }); }},
    {"two writes",
     [](auto& f, auto&) { return with_file(f, O_WRONLY, [](int fd) { return ::write(fd, "y", 1) == 1 && ::write(fd, "z", 1) == 1; }); }},
    {"truncate", [](auto& f, auto&) { return ::truncate(f.c_str(), 2) == 0; }},
    {"ftruncate", [](auto& f, auto&) { return with_file(f, O_WRONLY, [](int fd) { return ::ftruncate(fd, 2) == 0; }); }},
    {"open", [](auto& f, auto&) { return with_file(f, O_WRONLY | O_TRUNC, [](int) { return true; }); }},
    {"fallocate", [](auto& f, auto&) { return with_file(f, O_WRONLY, [](int fd) { return ::fallocate(fd, 0, 0, 8192) == 0; }); }},
    {"copy",
     [](auto& f, auto& other) {
       Fd in(::open(other.c_str(), O_RDONLY | O_CLOEXEC));
       return with_file(f, O_WRONLY, [&](int fd) { return ::copy_file_range(in.get(), nullptr, fd, nullptr, 2, 0) == 2; });
     }},
    {"chown", [](auto& f, auto&) { return ::chown(f.c_str(), static_cast<uid_t>(-1), static_cast<gid_t>(-1)) == 0; }},
};

std::string after_each_act(const std::string& dir) {
  const std::string f = dir + "/f", other = dir + "/other";
  const char cap[20] = {0, 0, 0, 2, 1};
  std::string told;
  ::chmod(dir.c_str(), 0777);
  spill(other, "other");
  for (mode_t mode : {0777u, 04777u, 02777u, 02767u})
    for (bool capable : {false, true})
      for (uid_t uid : {0u, 1001u})
        for (bool fsetid : {false, true})
          for (const Act& act : acts) {
            // The kernel takes the capabilities away before it lets anybody judge a stranger's chown.
            if (uid != 0 && capable && (mode & 06000) != 0 && act.name == std::string("chown")) continue;
            spill(f, "hello");
            ::chmod(f.c_str(), mode);
            if (capable) ::setxattr(f.c_str(), "security.capability", cap, sizeof cap, 0);
            pid_t child = ::fork();
            if (child == 0) ::_exit(!become(uid, fsetid) ? 2 : act.run(f, other) ? 0 : 1);
            int status = 0;
            ::waitpid(child, &status, 0);
            struct stat st {};
            ::stat(f.c_str(), &st);
            char line[128];
            std::snprintf(line, sizeof line, "%04o%s, %s%s, %s: %d, %04o%s\n", mode, capable ? " capable" : "", uid == 0 ? "root" : "user",
                          fsetid ? " with CAP_FSETID" : "", act.name, WEXITSTATUS(status), st.st_mode & 07777,
                          ::getxattr(f.c_str(), "security.capability", nullptr, 0) > 0 ? " capable" : "");
            told += line;
            ::unlink(f.c_str());
          }
  return told;
}

TEST(Privileges, FallAndStayAsBeneath) {
  SOMFS_NEEDS_MOUNTS();
  Scratch native;
  const std::string expected = after_each_act(native.path);
  for (bool writeback : {false, true}) {
    Scratch s;
    MountedWith with;
    with.mount.writeback = writeback;
    Mounted m(s.path, with);
    ASSERT_TRUE(m.mount);
    EXPECT_EQ(after_each_act(s.path), expected) << (writeback ? "writeback" : "write-through");
  }
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int result = RUN_ALL_TESTS();
  return result == 0 && somfs::fs::test::skipped() ? 77 : result;
}
