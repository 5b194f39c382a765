// SPDX-License-Identifier: Apache-2.0
// Whoever answers the kernel holds no lock: with the answer the application goes on, closes what it had open, and the object whose
// lock is still held may be gone before it is given back. The C library's calls are watched from here, so nothing depends on timing.
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "tests/platform/fs_fixture.h"

namespace {

thread_local int locks_held = 0;
std::atomic<int> answers{0};
std::atomic<int> answers_under_a_lock{0};

template <typename F>
F real(const char* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int pthread_mutex_lock(pthread_mutex_t* m) noexcept {
  static const auto next = real<int (*)(pthread_mutex_t*)>("pthread_mutex_lock");
  const int e = next(m);
  if (e == 0) ++locks_held;
  return e;
}

int pthread_mutex_trylock(pthread_mutex_t* m) noexcept {
  static const auto next = real<int (*)(pthread_mutex_t*)>("pthread_mutex_trylock");
  const int e = next(m);
  if (e == 0) ++locks_held;
  return e;
}

int pthread_mutex_unlock(pthread_mutex_t* m) noexcept {
  static const auto next = real<int (*)(pthread_mutex_t*)>("pthread_mutex_unlock");
  --locks_held;
  return next(m);
}

// The answers to the kernel go out by writev.
ssize_t writev(int fd, const iovec* parts, int count) {
  ++answers;
  if (locks_held != 0) ++answers_under_a_lock;
  return ::syscall(SYS_writev, fd, parts, count);
}

}  // extern "C"

namespace somfs::fs::test {
namespace {

int list(const std::string& path) {
  DIR* d = ::opendir(path.c_str());
  if (d == nullptr) return -1;
  int n = 0;
  while (::readdir(d) != nullptr) ++n;
  ::rewinddir(d);
  while (::readdir(d) != nullptr) ++n;
  ::closedir(d);
  return n;
}

TEST(Replies, AreSentWithoutLocks) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  const std::string a = s.path + "/a", b = s.path + "/b", dir = s.path + "/d", x = "user.x";
  answers = answers_under_a_lock = 0;
  Fd fd(::open(a.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  ASSERT_TRUE(fd);
  std::string data(200000, 'x');
  EXPECT_EQ(::pwrite(fd.get(), data.data(), data.size(), 0), static_cast<ssize_t>(data.size()));
  EXPECT_EQ(::fsync(fd.get()), 0);
  EXPECT_EQ(::pread(fd.get(), data.data(), data.size(), 0), static_cast<ssize_t>(data.size()));
  EXPECT_EQ(::ftruncate(fd.get(), 5), 0);
  EXPECT_EQ(::fallocate(fd.get(), 0, 0, 4096), 0);
  EXPECT_EQ(::setxattr(a.c_str(), x.c_str(), "1", 1, 0), 0);
  char value[16];
  EXPECT_EQ(::getxattr(a.c_str(), x.c_str(), value, sizeof value), 1);
  EXPECT_EQ(::listxattr(a.c_str(), nullptr, 0), 7);
  EXPECT_EQ(::removexattr(a.c_str(), x.c_str()), 0);
  EXPECT_EQ(::chmod(a.c_str(), 0600), 0);
  EXPECT_EQ(::mkdir(dir.c_str(), 0755), 0);
  EXPECT_EQ(::symlink("a", (dir + "/s").c_str()), 0);
  EXPECT_EQ(::mkfifo((dir + "/p").c_str(), 0600), 0);
  EXPECT_EQ(::link(a.c_str(), (dir + "/l").c_str()), 0);
  EXPECT_EQ(::rename((dir + "/l").c_str(), b.c_str()), 0);
  EXPECT_GT(list(s.path), 0);
  EXPECT_GT(list(dir), 0);
  struct stat st {};
  EXPECT_EQ(::stat(b.c_str(), &st), 0);
  EXPECT_EQ(::unlink(b.c_str()), 0);
  EXPECT_EQ(::unlink((dir + "/p").c_str()), 0);
  EXPECT_EQ(::unlink((dir + "/s").c_str()), 0);
  EXPECT_EQ(::rmdir(dir.c_str()), 0);
  EXPECT_GT(answers.load(), 30);
  EXPECT_EQ(answers_under_a_lock.load(), 0);
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int result = RUN_ALL_TESTS();
  return result == 0 && somfs::fs::test::skipped() ? 77 : result;
}
