// SPDX-License-Identifier: Apache-2.0
// What the kernel above the mount remembers or decides by itself, and how it is brought in line with the file system beneath.
#include <grp.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <future>
#include <tuple>

#include "tests/platform/fs_fixture.h"

namespace somfs::fs::test {
namespace {

// O_NOATIME of the mount as a whole. Beneath, whoever reads a file that was written since it was read last moves its access time.
TEST(Mount, AccessTimesStayWhereTheMountSaysSo) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  timespec old[2] = {{1000, 0}, {2000, 0}};
  auto reset = [&] {
    for (const char* name : {"/dir/file", "/dir"}) ASSERT_EQ(::utimensat(AT_FDCWD, (s.path + name).c_str(), old, 0), 0);
  };
  auto read_both = [&] {
    EXPECT_EQ(slurp(s.path + "/dir/file"), "content");
    EXPECT_EQ(names_in(s.path + "/dir").size(), 1u);
  };
  auto atime = [&](const char* name) {
    struct stat st = {};
    EXPECT_EQ(::stat((s.path + name).c_str(), &st), 0);
    return st.st_atime;
  };
  ASSERT_EQ(::mkdir((s.path + "/dir").c_str(), 0755), 0);
  spill(s.path + "/dir/file", "content");
  reset();
  read_both();
  if (atime("/dir/file") == 1000) GTEST_SKIP() << "the file system beneath keeps no access times";
  struct {
    bool no_atime, no_dir_atime, read_only, file_moves, dir_moves;
  } cases[] = {{false, false, false, true, true}, {true, false, false, false, false}, {false, true, false, true, false}, {false, false, true, false, false}};
  for (auto& c : cases) {
    reset();
    {
      MountedWith with;
      with.mount.no_atime = c.no_atime;
      with.mount.no_dir_atime = c.no_dir_atime;
      with.mount.read_only = c.read_only;
      Mounted m(s.path, with);
      ASSERT_TRUE(m.mount);
      read_both();
    }
    EXPECT_EQ(atime("/dir/file") != 1000, c.file_moves) << c.no_atime << c.no_dir_atime << c.read_only;
    EXPECT_EQ(atime("/dir") != 1000, c.dir_moves) << c.no_atime << c.no_dir_atime << c.read_only;
  }
}

// Handles name objects, not places in memory: one of an object that is gone must not open whatever came to lie there.
TEST(Mount, HandlesOfRemovedFilesAreStale) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  Fd root(::open(s.path.c_str(), O_RDONLY | O_DIRECTORY));
  alignas(file_handle) char space[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
  auto* gone = reinterpret_cast<file_handle*>(space);
  int mount_id = 0;
  spill(s.path + "/gone", "");
  gone->handle_bytes = MAX_HANDLE_SZ;
  ASSERT_EQ(::name_to_handle_at(root.get(), "gone", gone, &mount_id, 0), 0) << std::strerror(errno);
  EXPECT_TRUE(Fd(::open_by_handle_at(root.get(), gone, O_RDONLY)));
  ASSERT_EQ(::unlink((s.path + "/gone").c_str()), 0);
  for (int i = 0; i < 200; ++i) {
    spill(s.path + "/" + std::to_string(i), "");
    EXPECT_FALSE(Fd(::open_by_handle_at(root.get(), gone, O_RDONLY))) << i;
    EXPECT_EQ(errno, ESTALE);
  }
}

// The kernel drops pages behind a direct write only when the writer waits for it.
TEST(Mount, ReadersSeeWhatAsynchronousDirectWritesWrote) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  const std::size_t size = 512 * 1024;
  const std::string path = s.path + "/f";
  spill(path, std::string(size, 'a'));
  {
    Fd tried(::open(path.c_str(), O_RDWR | O_DIRECT));
    if (!tried) GTEST_SKIP() << "no direct I/O beneath: " << std::strerror(errno);
  }
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  Fd direct(::open(path.c_str(), O_RDWR | O_DIRECT));
  Fd plain(::open(path.c_str(), O_RDONLY));
  ASSERT_TRUE(direct && plain);
  std::unique_ptr<char, void (*)(void*)> out(static_cast<char*>(std::aligned_alloc(4096, size)), std::free);
  aio_context_t context = 0;
  ASSERT_EQ(::syscall(SYS_io_setup, 4, &context), 0);
  std::jthread reader([&](const std::stop_token& stop) {
    std::string in(size, '\0');
    while (!stop.stop_requested()) EXPECT_EQ(::pread(plain.get(), in.data(), size, 0), static_cast<ssize_t>(size));
  });
  int stale = 0;
  for (int round = 0; round < 300 && stale == 0; ++round) {
    char byte = static_cast<char>('a' + round % 26);
    std::memset(out.get(), byte, size);
    iocb one = {};
    one.aio_lio_opcode = IOCB_CMD_PWRITE;
    one.aio_fildes = static_cast<std::uint32_t>(direct.get());
    one.aio_buf = reinterpret_cast<std::uint64_t>(out.get());
    one.aio_nbytes = size;
    iocb* all[] = {&one};
    io_event done = {};
    ASSERT_EQ(::syscall(SYS_io_submit, context, 1, all), 1);
    ASSERT_EQ(::syscall(SYS_io_getevents, context, 1, 1, &done, nullptr), 1);
    ASSERT_EQ(done.res, static_cast<std::int64_t>(size));
    std::string in(size, '\0');
    ASSERT_EQ(::pread(plain.get(), in.data(), size, 0), static_cast<ssize_t>(size));
    if (in.find_first_not_of(byte) != std::string::npos) stale = round + 1;
  }
  EXPECT_EQ(stale, 0) << "the round that saw old bytes";
  reader = {};
  ::syscall(SYS_io_destroy, context);
}

// Whoever asks for the mode alone is answered from what the kernel has.
// Workers wait here: the first before it acts until it is let go, and like all others until the end.
class Crossing : public Admission {
 public:
  void pass(std::size_t, const std::function<void()>&, std::function<void()> act) override {
    Lock l(mutex_);
    if (open_) return act();
    const int mine = arrived_++;
    changed_.notify_all();
    if (mine == 0) {
      while (!first_) changed_.wait(mutex_);
      act();
    }
    while (!open_) changed_.wait(mutex_);
    if (mine != 0) act();
  }
  void wait_for(int arrived) {
    Lock l(mutex_);
    while (arrived_ < arrived) changed_.wait(mutex_);
  }
  void let_the_first_go() {
    Lock l(mutex_);
    first_ = true;
    changed_.notify_all();
  }
  void open() {
    Lock l(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int arrived_ GUARDED_BY(mutex_) = 0;
  bool first_ GUARDED_BY(mutex_) = false;
  bool open_ GUARDED_BY(mutex_) = false;
};

// Waits until so many threads of this process wait for a page. Gives up at last, as not every kernel tells.
void wait_for_a_page(int n) {
  for (int tries = 0; tries < 2000; ++tries) {
    int found = 0;
    for (const std::string& task : names_in("/proc/self/task"))
      if (slurp("/proc/self/task/" + task + "/wchan").find("folio") != std::string::npos) ++found;
    if (found >= n) return;
    std::this_thread::yield();
  }
}

// Whoever drops the pages behind a direct write waits for a reader that holds one, and the reader for a worker.
TEST(Mount, EndsWhileAReaderHoldsThePagesOfADirectWrite) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  const std::string path = s.path + "/f", other = s.path + "/g";
  spill(path, std::string(8192, 'a'));
  spill(other, "");
  {
    Fd tried(::open(path.c_str(), O_RDWR | O_DIRECT));
    if (!tried) GTEST_SKIP() << "no direct I/O beneath: " << std::strerror(errno);
  }
  Crossing crossing;
  MountedWith with;
  with.admission = &crossing;
  with.mount.threads = 2;
  auto m = std::make_unique<Mounted>(s.path, with);
  ASSERT_TRUE(m->mount);
  Fd direct(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  Fd plain(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  Fd busy(::open(other.c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(direct && plain && busy);
  char byte = 0;
  ASSERT_EQ(::pread(plain.get(), &byte, 1, 0), 1);
  std::unique_ptr<char, void (*)(void*)> out(static_cast<char*>(std::aligned_alloc(4096, 8192)), std::free);
  std::memset(out.get(), 'b', 8192);
  aio_context_t context = 0;
  ASSERT_EQ(::syscall(SYS_io_setup, 1, &context), 0);
  iocb one = {};
  one.aio_lio_opcode = IOCB_CMD_PWRITE;
  one.aio_fildes = static_cast<std::uint32_t>(direct.get());
  one.aio_buf = reinterpret_cast<std::uint64_t>(out.get());
  one.aio_nbytes = 8192;
  iocb* all[] = {&one};
  ASSERT_EQ(::syscall(SYS_io_submit, context, 1, all), 1);
  crossing.wait_for(1);
  std::jthread changer([&] { EXPECT_EQ(::fchmod(busy.get(), 0600), 0); });
  crossing.wait_for(2);  // no worker is left
  std::jthread reader([&] { std::ignore = ::pread(plain.get(), &byte, 1, 0); });  // in vain, when the mount has ended
  wait_for_a_page(1);
  crossing.let_the_first_go();
  wait_for_a_page(2);
  ASSERT_EQ(::umount2(s.path.c_str(), MNT_DETACH), 0);
  auto stopped = std::async(std::launch::async, [&] { m->mount->stop(); });
  stopped.wait_for(std::chrono::milliseconds(100));  // it may return at once, or when the reader has its page
  crossing.open();
  stopped.get();
  m.reset();
  reader.join();
  changer.join();
  io_event done = {};
  EXPECT_EQ(::syscall(SYS_io_getevents, context, 1, 1, &done, nullptr), 1);
  EXPECT_EQ(done.res, 8192);
  ::syscall(SYS_io_destroy, context);
}

int descriptors_of_removed_files() {
  int n = 0;
  for (const std::string& fd : names_in("/proc/self/fd")) {
    char to[4096] = {};
    if (::readlink(("/proc/self/fd/" + fd).c_str(), to, sizeof to - 1) > 0 && std::strstr(to, "/removed") != nullptr) ++n;
  }
  return n;
}

// A full file system has room again when rm(1) returns, not when the kernel gets round to forgetting the file.
TEST(Mount, RemovedFilesKeepNoRoomAndAreStillKnown) {
  SOMFS_NEEDS_MOUNTS();
  for (bool by_rename : {false, true}) {
    Scratch s;
    const std::string path = s.path + "/removed";
    spill(path, "12345");
    spill(s.path + "/other", "");
    Mounted m(s.path);
    ASSERT_TRUE(m.mount);
    Fd known(::open(path.c_str(), O_PATH | O_CLOEXEC));   // opens nothing beneath, and keeps the kernel from forgetting it
    Fd open(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(known && open);
    struct stat st {};
    ASSERT_EQ(::fstat(known.get(), &st), 0);
    ASSERT_EQ(by_rename ? ::rename((s.path + "/other").c_str(), path.c_str()) : ::unlink(path.c_str()), 0);
    char text[8] = {};
    EXPECT_EQ(::pread(open.get(), text, sizeof text, 0), 5);
    ASSERT_EQ(::fstat(known.get(), &st), 0) << std::strerror(errno);
    EXPECT_EQ(st.st_nlink, 0u);
    EXPECT_EQ(st.st_size, 5);
    open.reset();
    // The kernel tells of the close by the way.
    for (int tries = 0; tries < 20000 && descriptors_of_removed_files() > 1; ++tries) std::this_thread::yield();
    EXPECT_EQ(descriptors_of_removed_files(), 1);
    ASSERT_EQ(::fstat(known.get(), &st), 0) << std::strerror(errno);
    EXPECT_EQ(st.st_nlink, 0u);
    EXPECT_EQ(st.st_size, 5);
  }
}

TEST(Mount, RemovedFilesThatNobodyHasOpenKeepNoRoom) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  const std::string path = s.path + "/removed";
  spill(path, "12345");
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  Fd known(::open(path.c_str(), O_PATH | O_CLOEXEC));
  ASSERT_TRUE(known);
  struct stat st {};
  ASSERT_EQ(::fstat(known.get(), &st), 0);
  ASSERT_EQ(::unlink(path.c_str()), 0);
  EXPECT_EQ(descriptors_of_removed_files(), 1);
  ASSERT_EQ(::fstat(known.get(), &st), 0) << std::strerror(errno);
  EXPECT_EQ(st.st_nlink, 0u);
}

TEST(Mount, SetIdsThatFellWithoutAWriteAreSeenToBeGone) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  std::string f = s.path + "/f", from = s.path + "/from";
  spill(from, "0123456789");
  for (bool copies : {false, true}) {
    spill(f, "x");
    ASSERT_EQ(::chmod(f.c_str(), 06777), 0);
    pid_t child = ::fork();
    if (child == 0) {
      if (::setgroups(0, nullptr) != 0 || ::setgid(1001) != 0 || ::setuid(1001) != 0) ::_exit(1);
      int to = ::open(f.c_str(), O_WRONLY), in = ::open(from.c_str(), O_RDONLY);
      ::_exit((copies ? ::copy_file_range(in, nullptr, to, nullptr, 10, 0) == 10 : ::fallocate(to, 0, 0, 8192) == 0) ? 0 : 2);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_EQ(status, 0);
    struct statx x;
    ASSERT_EQ(::statx(AT_FDCWD, f.c_str(), 0, STATX_MODE, &x), 0);
    EXPECT_EQ(x.stx_mode & 07777, 0777) << copies;
  }
}

// A process that has `count` files of `dir` open for writing, until it is told to end or `longest_ms` have passed.
class Holder {
 public:
  Holder(const std::string& dir, int count, const char* name, int longest_ms) {
    int ready[2], end[2];
    if (::pipe(ready) != 0 || ::pipe(end) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_NAME, name);
      ::close(end[1]);
      for (int i = 0; i < count; ++i) ::open((dir + "/" + std::to_string(i)).c_str(), O_CREAT | O_WRONLY, 0644);
      ::close(ready[1]);
      pollfd p{end[0], POLLIN, 0};
      ::poll(&p, 1, longest_ms);
      ::_exit(0);
    }
    ::close(ready[1]);
    ::close(end[0]);
    end_ = Fd(end[1]);
    char c;
    (void)!::read(ready[0], &c, 1);
    ::close(ready[0]);
  }
  ~Holder() {
    end_ = Fd();
    ::waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_;
  Fd end_;
};

TEST(Mount, ManyOpenFilesBeneathAreNamedBriefly) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Holder other(s.path, 40, "other", -1);
  BackingOptions o;
  o.dir = s.path;
  auto b = Backing::open(o);
  ASSERT_FALSE(b);
  EXPECT_NE(b.error().line().find(" and 35 more"), std::string::npos) << b.error().line();
}

// umount(8) returns before the process of the mount has ended.
TEST(Mount, WaitsForAnEndingMount) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Holder ending(s.path, 3, "somfs", 1000);
  BackingOptions o;
  o.dir = s.path;
  auto b = Backing::open(o);
  EXPECT_TRUE(b) << b.error().line();
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int result = RUN_ALL_TESTS();
  return result == 0 && somfs::fs::test::skipped() ? 77 : result;
}
