// SPDX-License-Identifier: Apache-2.0
// Whatever an application asks for: when the disk beneath is full, or the quota, and snapshots hold room, it goes to the application.
// The system calls of the mount's threads are refused from here, so no disk need be filled, and every call is met.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstring>
#include <functional>

#include "tests/platform/fs_fixture.h"

namespace {

thread_local bool application = false;   // this thread's own calls are let through
std::atomic<int> lacking{0};             // the errno that calls needing room meet
std::atomic<int> refused{0};

bool refuse() {
  if (application || lacking == 0) return false;
  ++refused;
  errno = lacking;
  return true;
}

template <typename... Args>
long call(long number, Args... args) {
  return refuse() ? -1 : ::syscall(number, args...);
}

}  // namespace

extern "C" {

int openat(int dirfd, const char* path, int flags, ...) {
  mode_t mode = 0;
  const bool makes = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  if (makes) {
    va_list rest;
    va_start(rest, flags);
    mode = va_arg(rest, mode_t);
    va_end(rest);
  }
  return makes && refuse() ? -1 : static_cast<int>(::syscall(SYS_openat, dirfd, path, flags, mode));
}
int mkdirat(int d, const char* p, mode_t m) noexcept { return static_cast<int>(call(SYS_mkdirat, d, p, m)); }
int mknodat(int d, const char* p, mode_t m, dev_t v) noexcept { return static_cast<int>(call(SYS_mknodat, d, p, m, v)); }
int symlinkat(const char* t, int d, const char* p) noexcept { return static_cast<int>(call(SYS_symlinkat, t, d, p)); }
int linkat(int a, const char* p, int b, const char* q, int f) noexcept { return static_cast<int>(call(SYS_linkat, a, p, b, q, f)); }
int unlinkat(int d, const char* p, int f) noexcept { return static_cast<int>(call(SYS_unlinkat, d, p, f)); }
int renameat2(int a, const char* p, int b, const char* q, unsigned f) noexcept {
  return static_cast<int>(call(SYS_renameat2, a, p, b, q, f));
}
int setxattr(const char* p, const char* n, const void* v, size_t s, int f) noexcept {
  return static_cast<int>(call(SYS_setxattr, p, n, v, s, f));
}
int fchownat(int d, const char* p, uid_t u, gid_t g, int f) noexcept { return static_cast<int>(call(SYS_fchownat, d, p, u, g, f)); }
int truncate(const char* p, off_t s) noexcept { return static_cast<int>(call(SYS_truncate, p, s)); }
int ftruncate(int fd, off_t s) noexcept { return static_cast<int>(call(SYS_ftruncate, fd, s)); }
int fallocate(int fd, int m, off_t o, off_t l) { return static_cast<int>(call(SYS_fallocate, fd, m, o, l)); }
ssize_t pwrite(int fd, const void* b, size_t n, off_t o) { return call(SYS_pwrite64, fd, b, n, o); }
ssize_t copy_file_range(int a, off64_t* x, int b, off64_t* y, size_t n, unsigned f) { return call(SYS_copy_file_range, a, x, b, y, n, f); }

}  // extern "C"

namespace somfs::fs::test {
namespace {

// Holds the room of so many snapshots.
class Hoard : public PreImages {
 public:
  bool wanted() const noexcept override { return false; }
  void before_data(const ObjectId&, int, Extent) noexcept override {}
  void before_attr(const ObjectId&, int) noexcept override {}
  void before_name(const ObjectId&, int, std::string_view, const ObjectId&, const Handle*, int, bool) noexcept override {}
  std::uint32_t own_links(const ObjectId&) const noexcept override { return 0; }
  bool make_room() noexcept override {
    if (snapshots == 0) return false;
    if (--snapshots == 0) lacking = 0;
    return true;
  }
  std::atomic<int> snapshots{0};
};

TEST(FullDisk, EveryCallGetsTheRoomOfSnapshots) {
  SOMFS_NEEDS_MOUNTS();
  application = true;
  Scratch s;
  Hoard hoard;
  MountedWith with;
  with.pre_images = &hoard;
  Mounted m(s.path, with);
  ASSERT_TRUE(m.mount);
  const auto at = [&](const char* name) { return s.path + "/" + name; };
  Fd file(::open(at("file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)), other(::open(at("other").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  ASSERT_EQ(write_all(file.get(), std::string(8192, 'x')), 0);
  const std::vector<std::pair<const char*, std::function<bool()>>> calls{
      {"write", [&] { return ::write(other.get(), "x", 1) == 1; }},
      {"fallocate", [&] { return ::fallocate(other.get(), 0, 0, 4096) == 0; }},
      {"copy_file_range", [&] {
         off64_t from = 0, to = 0;
         return ::copy_file_range(file.get(), &from, other.get(), &to, 4096, 0) == 4096;
       }},
      {"ftruncate", [&] { return ::ftruncate(other.get(), 100000) == 0; }},
      {"truncate", [&] { return ::truncate(at("other").c_str(), 200000) == 0; }},
      {"chown", [&] { return ::chown(at("file").c_str(), 1001, 1001) == 0; }},
      {"setxattr", [&] { return ::setxattr(at("file").c_str(), "user.x", "1", 1, 0) == 0; }},
      {"create", [&] { return static_cast<bool>(Fd(::open(at("new").c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644))); }},
      {"O_TMPFILE", [&] { return static_cast<bool>(Fd(::open(s.path.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0644))); }},
      {"mkdir", [&] { return ::mkdir(at("dir").c_str(), 0755) == 0; }},
      {"mknod", [&] { return ::mkfifo(at("fifo").c_str(), 0644) == 0; }},
      {"symlink", [&] { return ::symlink("x", at("symlink").c_str()) == 0; }},
      {"link", [&] { return ::link(at("file").c_str(), at("link").c_str()) == 0; }},
      {"rename", [&] { return ::rename(at("new").c_str(), at("dir/new").c_str()) == 0; }},
      {"unlink", [&] { return ::unlink(at("dir/new").c_str()) == 0; }},
      {"rmdir", [&] { return ::rmdir(at("dir").c_str()) == 0; }},
  };
  for (int error : {EDQUOT, ENOSPC}) {
    for (const auto& [name, act] : calls) {
      hoard.snapshots = 0;
      lacking = error;
      EXPECT_FALSE(act()) << name << " has no room";
      EXPECT_EQ(errno, error) << name;
      hoard.snapshots = 2;
      refused = 0;
      EXPECT_TRUE(act()) << name << ": " << std::strerror(errno);
      EXPECT_EQ(refused, 2) << name;
      EXPECT_EQ(hoard.snapshots, 0) << name;
      lacking = 0;
    }
    for (const char* name : {"fifo", "symlink", "link"}) EXPECT_EQ(::unlink(at(name).c_str()), 0);
  }
}

// Two meet the full disk; the one finds no snapshot any more, but the other has not come back to its call yet.
TEST(FullDisk, RoomMadeForAnotherIsSeen) {
  SOMFS_NEEDS_MOUNTS();
  application = true;
  class Elsewhere : public Hoard {
    bool make_room() noexcept override {
      lacking = 0;
      return false;
    }
  } hoard;
  Scratch s;
  MountedWith with;
  with.pre_images = &hoard;
  Mounted m(s.path, with);
  ASSERT_TRUE(m.mount);
  lacking = ENOSPC;
  EXPECT_EQ(::mkdir((s.path + "/dir").c_str(), 0755), 0) << std::strerror(errno);
  lacking = 0;
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int result = RUN_ALL_TESTS();
  return result == 0 && somfs::fs::test::skipped() ? 77 : result;
}
