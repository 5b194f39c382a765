// SPDX-License-Identifier: Apache-2.0
// Read-only opens that pass us by: what they read, what writers beside them do, who waits and who is refused, and that nothing escapes.
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <random>

#include "fs/io_modes.h"
#include "tests/platform/fs_fixture.h"

namespace somfs::fs::test {
namespace {

using std::chrono::steady_clock;

MountedWith passing() {
  MountedWith with;
  with.mount.passthrough = true;
  with.mount.passthrough_from = 0;
  return with;
}

#define SOMFS_NEEDS_PASSTHROUGH(m)                                                                              \
  do {                                                                                                          \
    ASSERT_TRUE((m).mount);                                                                                     \
    EXPECT_EQ(slurp(s.path + "/first"), "first"); /* what lies beneath is looked at then, not before */         \
    if (const std::string has = (m).mount->in_force().passthrough; has != "in force") {                         \
      skipped() = true;                                                                                         \
      GTEST_SKIP() << "passthrough is " << has;                                                                 \
    }                                                                                                           \
  } while (false)

struct Volume : Scratch {
  Volume() { spill(path + "/first", "first"); }
};

std::string read_at(int fd, std::size_t size, off_t off = 0) {
  std::string out(size, '\0');
  ssize_t n = ::pread(fd, out.data(), size, off);
  if (n < 0) return std::strerror(errno);
  out.resize(static_cast<std::size_t>(n));
  return out;
}

off_t size_of(int fd) {
  struct stat st = {};
  return ::fstat(fd, &st) == 0 ? st.st_size : -1;
}

struct Mapping {
  Mapping(int fd, std::size_t n, int prot, int flags) : size(n), at(::mmap(nullptr, n, prot, flags, fd, 0)) {}
  ~Mapping() {
    if (*this) ::munmap(at, size);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  explicit operator bool() const { return at != MAP_FAILED; }
  std::string text(std::size_t n) const { return *this ? std::string(static_cast<char*>(at), n) : "not mapped"; }
  const std::size_t size;
  void* const at;
};

TEST(PassthroughMount, SaysWhatIsInForce) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  {
    Mounted m(s.path);
    ASSERT_TRUE(m.mount);
    EXPECT_EQ(slurp(s.path + "/first"), "first");
    EXPECT_STREQ(m.mount->in_force().passthrough, "not asked for");
    EXPECT_GT(m.mount->reads(), 0u);
  }
  Mounted m(s.path, passing());
  SOMFS_NEEDS_PASSTHROUGH(m);
  EXPECT_FALSE(m.mount->in_force().writeback);
}

// The kernel has them one at a time.
TEST(PassthroughMount, IsNotForWriteback) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  MountedWith with = passing();
  with.mount.writeback = true;
  Mounted m(s.path, with);
  ASSERT_TRUE(m.mount);
  EXPECT_EQ(slurp(s.path + "/first"), "first");
  EXPECT_TRUE(m.mount->in_force().writeback);
  EXPECT_STRNE(m.mount->in_force().passthrough, "in force");
}

TEST(PassthroughMount, ReadersOfEveryKindAskUsForNothing) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  std::string text(1 << 20, '\0');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 31 >> 3);
  spill(s.path + "/f", text);
  ASSERT_EQ(std::system(("cp /bin/true '" + s.path + "/true'").c_str()), 0);
  Mounted m(s.path, passing());
  SOMFS_NEEDS_PASSTHROUGH(m);
  EXPECT_EQ(slurp(s.path + "/f"), text);
  Fd fd(::open((s.path + "/f").c_str(), O_RDONLY));
  ASSERT_TRUE(fd);
  EXPECT_EQ(read_at(fd.get(), 4096, 123), text.substr(123, 4096));
  EXPECT_EQ(read_at(fd.get(), 4096, static_cast<off_t>(text.size()) - 10), text.substr(text.size() - 10));
  EXPECT_EQ(Mapping(fd.get(), text.size(), PROT_READ, MAP_SHARED).text(text.size()), text);
  Mapping own(fd.get(), text.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE);
  ASSERT_TRUE(own);
  EXPECT_EQ(own.text(text.size()), text);
  std::memset(own.at, 'x', 4096);
  EXPECT_EQ(read_at(fd.get(), 4096), text.substr(0, 4096)) << "a private copy";
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  Fd from(ends[0]), to(ends[1]);
  off_t at = 100;
  EXPECT_EQ(::sendfile(to.get(), fd.get(), &at, 4096), 4096);
  std::string sent(4096, '\0');
  EXPECT_EQ(::read(from.get(), sent.data(), sent.size()), 4096);
  EXPECT_EQ(sent, text.substr(100, 4096));
  if (Fd direct(::open((s.path + "/f").c_str(), O_RDONLY | O_DIRECT)); direct) {
    std::unique_ptr<char, void (*)(void*)> mem(static_cast<char*>(std::aligned_alloc(4096, 65536)), std::free);
    EXPECT_EQ(::pread(direct.get(), mem.get(), 65536, 65536), 65536);
    EXPECT_EQ(std::string(mem.get(), 65536), text.substr(65536, 65536));
  }
  EXPECT_EQ(::lseek(fd.get(), 0, SEEK_HOLE), static_cast<off_t>(text.size()));
  EXPECT_EQ(std::system(("'" + s.path + "/true'").c_str()), 0);
  EXPECT_EQ(m.mount->reads(), 0u);
}

// To arrange it costs more than one request.
TEST(PassthroughMount, SmallFilesAreCached) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  MountedWith with = passing();
  with.mount.passthrough_from = 4096;
  spill(s.path + "/small", std::string(4095, 's'));
  spill(s.path + "/large", std::string(4096, 'l'));
  Mounted m(s.path, with);
  EXPECT_EQ(slurp(s.path + "/large").size(), 4096u);
  if (m.mount->reads() != 0) GTEST_SKIP() << "passthrough is " << m.mount->in_force().passthrough;
  Fd small(::open((s.path + "/small").c_str(), O_RDONLY));
  EXPECT_EQ(read_at(small.get(), 4096).size(), 4095u);
  EXPECT_GT(m.mount->reads(), 0u);
  EXPECT_TRUE(Fd(::open((s.path + "/small").c_str(), O_RDWR))) << std::strerror(errno);
}

TEST(PassthroughMount, WritersBesideReadersComeToUs) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  const std::string path = s.path + "/f";
  spill(path, std::string(8192, 'a'));
  Mounted m(s.path, passing());
  SOMFS_NEEDS_PASSTHROUGH(m);
  Fd reader(::open(path.c_str(), O_RDONLY));
  ASSERT_TRUE(reader);
  Mapping mapped(reader.get(), 16384, PROT_READ, MAP_SHARED);
  EXPECT_EQ(read_at(reader.get(), 3), "aaa");
  m.sink.take();
  Fd writer(::open(path.c_str(), O_WRONLY));
  ASSERT_TRUE(writer) << std::strerror(errno);
  struct stat before = {}, after = {};
  ASSERT_EQ(::fstat(reader.get(), &before), 0);
  ASSERT_EQ(::pwrite(writer.get(), "bcd", 3, 4000), 3);
  EXPECT_EQ(read_at(reader.get(), 5, 3999), "abcda") << "seen at once";
  EXPECT_EQ(mapped.text(4004).substr(3999), "abcda");
  Fd second(::open(path.c_str(), O_RDONLY));
  EXPECT_EQ(read_at(second.get(), 5, 3999), "abcda");
  Fd appender(::open(path.c_str(), O_WRONLY | O_APPEND));
  ASSERT_TRUE(appender);
  ASSERT_EQ(::write(appender.get(), "tail", 4), 4);
  EXPECT_EQ(size_of(reader.get()), 8196);
  EXPECT_EQ(read_at(reader.get(), 10, 8192), "tail");
  ASSERT_EQ(::fstat(reader.get(), &after), 0);
  EXPECT_TRUE(after.st_mtim.tv_sec > before.st_mtim.tv_sec || after.st_mtim.tv_nsec != before.st_mtim.tv_nsec);
  Mapping none(writer.get(), 4096, PROT_WRITE, MAP_SHARED);
  EXPECT_FALSE(none) << "who may not read cannot map";
  std::vector<Seen> seen = m.sink.take();
  std::vector<std::string> payloads;
  for (const Seen& c : seen)
    if (c.what == ChangeKind::write) payloads.push_back(c.payload);
  EXPECT_EQ(payloads, (std::vector<std::string>{"bcd", "tail"}));

  ASSERT_EQ(::truncate(path.c_str(), 4002), 0);
  EXPECT_EQ(size_of(reader.get()), 4002);
  EXPECT_EQ(read_at(reader.get(), 10, 3999), "abc");
  ASSERT_EQ(::ftruncate(writer.get(), 5000), 0);
  EXPECT_EQ(read_at(reader.get(), 4, 4001), std::string("c\0\0\0", 4));
  ASSERT_EQ(::fallocate(writer.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4001), 0) << std::strerror(errno);
  EXPECT_EQ(read_at(reader.get(), 2, 4000), std::string("\0c", 2));
  spill(s.path + "/copy", "");
  Fd copy(::open((s.path + "/copy").c_str(), O_WRONLY));
  off_t from = 3990, to = 0;
  EXPECT_EQ(::copy_file_range(reader.get(), &from, copy.get(), &to, 12, 0), 12) << std::strerror(errno);
  copy.reset();
  EXPECT_EQ(slurp(s.path + "/copy"), read_at(reader.get(), 12, 3990));
  EXPECT_EQ(::fsync(reader.get()), 0);
  EXPECT_EQ(::fsync(writer.get()), 0);
  ASSERT_EQ(::unlink(path.c_str()), 0);
  ASSERT_EQ(::pwrite(writer.get(), "gone", 4, 0), 4);
  EXPECT_EQ(read_at(reader.get(), 4), "gone");
  EXPECT_EQ(m.mount->reads(), 0u);
}

// What the kernel read into its cache while it was allowed to is not old when it may again.
TEST(PassthroughMount, TheCacheIsRightBeforeAndAfter) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  const std::string path = s.path + "/f";
  spill(path, std::string(4096, 'a'));
  Mounted m(s.path, passing());
  SOMFS_NEEDS_PASSTHROUGH(m);
  for (char c = 'b'; c < 'k'; ++c) {
    {
      Fd writer(::open(path.c_str(), O_WRONLY));
      Fd cached(::open(path.c_str(), O_RDONLY));
      const std::uint64_t reads = m.mount->reads();
      EXPECT_EQ(read_at(cached.get(), 4096), std::string(4096, static_cast<char>(c - 1)));
      EXPECT_GE(m.mount->reads(), reads);
    }
    Fd reader(::open(path.c_str(), O_RDONLY));
    ::posix_fadvise(reader.get(), 0, 4096, POSIX_FADV_WILLNEED);
    Fd writer(::open(path.c_str(), O_WRONLY));
    ASSERT_TRUE(reader && writer);
    ASSERT_EQ(::pwrite(writer.get(), std::string(4096, c).data(), 4096, 0), 4096);
    EXPECT_EQ(read_at(reader.get(), 4096), std::string(4096, c));
  }
}

TEST(PassthroughMount, ReadingAndWritingWaitsForReaders) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  std::string path;
  Mounted m(s.path, passing());
  SOMFS_NEEDS_PASSTHROUGH(m);
  Fd fd;
  // On a slow machine the patience may be over before the reader leaves: again then, with a file that nobody has opened so yet.
  for (int tries = 0; !fd; ++tries) {
    ASSERT_LT(tries, 20);
    path = s.path + "/f" + std::to_string(tries);
    Fd made(::openat(m.backing->fd(), path.substr(s.path.size() + 1).c_str(), O_WRONLY | O_CREAT, 0644));
    ASSERT_EQ(write_all(made.get(), std::string(4096, 'a')), 0);
    made.reset();
    auto reader = std::make_unique<Fd>(::open(path.c_str(), O_RDONLY));
    ASSERT_TRUE(*reader);
    const auto start = steady_clock::now();
    int error = 0;
    auto both = std::async(std::launch::async, [&] {
      Fd got(::open(path.c_str(), O_RDWR));
      error = errno;
      return got;
    });
    EXPECT_EQ(both.wait_for(IoModes::kPatience / 4), std::future_status::timeout);
    EXPECT_EQ(read_at(reader->get(), 3), "aaa");
    EXPECT_EQ(slurp(s.path + "/first"), "first") << "nobody else waits";
    reader.reset();
    fd = both.get();
    if (fd) break;
    ASSERT_EQ(error, ETXTBSY) << std::strerror(error);
    ASSERT_GE(steady_clock::now() - start, IoModes::kPatience);
  }
  // A file that is opened so is kept in the cache, where a mapping's pages come to us.
  m.sink.take();
  const pid_t child = ::fork();  // who maps what it also serves would wait for itself
  if (child == 0) {
    Mapping shared(fd.get(), 4096, PROT_READ | PROT_WRITE, MAP_SHARED);
    if (!shared) ::_exit(errno);
    std::memcpy(shared.at, "mapped", 6);
    ::_exit(::msync(shared.at, 4096, MS_SYNC) == 0 ? 0 : errno);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  bool seen = false;
  for (const Seen& c : m.sink.take()) seen = seen || (c.what == ChangeKind::write && c.payload.starts_with("mapped"));
  EXPECT_TRUE(seen);
  Fd other(::open(path.c_str(), O_RDONLY));
  EXPECT_EQ(read_at(other.get(), 6), "mapped");
  fd.reset();
  Fd again(::open(path.c_str(), O_RDWR));
  EXPECT_TRUE(again) << "readers of such a file are in nobody's way";
}

TEST(PassthroughMount, ReadingAndWritingIsRefusedInTheEnd) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  const std::string path = s.path + "/f";
  spill(path, "text");
  MountedWith with = passing();
  with.mount.threads = 2;
  Mounted m(s.path, with);
  SOMFS_NEEDS_PASSTHROUGH(m);
  {
    Fd reader(::open(path.c_str(), O_RDONLY));
    const auto start = steady_clock::now();
    std::vector<std::future<int>> all;
    for (int i = 0; i < 40; ++i)
      all.push_back(std::async(std::launch::async, [&] { return Fd(::open(path.c_str(), O_RDWR)) ? 0 : errno; }));
    EXPECT_EQ(read_at(reader.get(), 4), "text");
    for (auto& one : all) EXPECT_EQ(one.get(), ETXTBSY);
    const auto took = steady_clock::now() - start;
    EXPECT_GE(took, IoModes::kPatience);
    EXPECT_LT(took, IoModes::kPatience * 20) << "each waited for in one of two threads";
  }
  EXPECT_TRUE(Fd(::open(path.c_str(), O_RDWR))) << std::strerror(errno);
}

// A name that the kernel believes to be free, and that is another one of a file that is read: the request is one to create it.
TEST(PassthroughMount, CreatingWhatIsThereAlready) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  spill(s.path + "/f", "text");
  Mounted m(s.path, passing());
  SOMFS_NEEDS_PASSTHROUGH(m);
  Fd reader(::open((s.path + "/f").c_str(), O_RDONLY));
  auto appears = [&](const char* name) {
    EXPECT_NE(::access((s.path + "/" + name).c_str(), F_OK), 0);
    EXPECT_EQ(::linkat(m.backing->fd(), "f", m.backing->fd(), name, 0), 0);
  };
  appears("one");
  Fd writer(::open((s.path + "/one").c_str(), O_WRONLY | O_CREAT, 0644));
  ASSERT_TRUE(writer) << std::strerror(errno);
  ASSERT_EQ(::pwrite(writer.get(), "next", 4, 0), 4);
  EXPECT_EQ(read_at(reader.get(), 10), "next");
  appears("other");
  EXPECT_FALSE(Fd(::open((s.path + "/other").c_str(), O_RDWR | O_CREAT, 0644)));
  EXPECT_EQ(errno, ETXTBSY);
}

TEST(PassthroughMount, AnUnmountRefusesWhoWaits) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  const std::string path = s.path + "/f";
  spill(path, "text");
  Fd reader;
  std::future<int> both;
  {
    Mounted m(s.path, passing());
    SOMFS_NEEDS_PASSTHROUGH(m);
    reader = Fd(::open(path.c_str(), O_RDONLY));
    both = std::async(std::launch::async, [&] { return Fd(::open(path.c_str(), O_RDWR)) ? 0 : errno; });
    EXPECT_EQ(both.wait_for(IoModes::kPatience / 10), std::future_status::timeout);
  }
  const int got = both.get();
  EXPECT_TRUE(got == ETXTBSY || got == ENOTCONN || got == ECONNABORTED) << std::strerror(got);
}

// On a file system of its own, where nobody else comes and goes.
TEST(PassthroughMount, ARemovedFileLeavesItsRoom) {
  SOMFS_NEEDS_MOUNTS();
  Scratch outer;
  struct Disk {
    explicit Disk(const std::string& at) : path(at), mounted(::mount("tmpfs", at.c_str(), "tmpfs", 0, "size=32m") == 0) {}
    ~Disk() {
      if (mounted) ::umount2(path.c_str(), MNT_DETACH);
    }
    const std::string path;
    const bool mounted;
  } s(outer.path);
  if (!s.mounted) GTEST_SKIP() << "no tmpfs: " << std::strerror(errno);
  spill(s.path + "/first", "first");
  const std::string path = s.path + "/big";
  spill(path, std::string(8 << 20, 'x'));
  {
    Mounted m(s.path, passing());
    SOMFS_NEEDS_PASSTHROUGH(m);
    auto blocks_free = [&] {
      struct statvfs v = {};
      ::fstatvfs(m.backing->fd(), &v);
      return v.f_bfree * v.f_frsize;
    };
    std::uint64_t held = 0;
    {
      Fd one(::open(path.c_str(), O_RDONLY)), other(::open(path.c_str(), O_RDONLY)), writer(::open(path.c_str(), O_WRONLY));
      ASSERT_TRUE(one && other && writer);
      ASSERT_EQ(::unlink(path.c_str()), 0);
      held = blocks_free();
    }
    const auto until = steady_clock::now() + std::chrono::seconds(10);
    while (blocks_free() == held && steady_clock::now() < until) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_GE(blocks_free(), held + (8u << 20)) << "somebody holds it still";
  }
}

TEST(PassthroughMount, AccessTimesAreTheMountsBusiness) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  const std::string path = s.path + "/f";
  spill(path, "text");
  const timespec old[2] = {{1000, 0}, {2000, 0}};
  for (bool quiet : {false, true}) {
    ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), old, 0), 0);
    MountedWith with = passing();
    with.mount.no_atime = quiet;
    Mounted m(s.path, with);
    SOMFS_NEEDS_PASSTHROUGH(m);
    EXPECT_EQ(slurp(path), "text");
    EXPECT_EQ(m.mount->reads(), 0u);
    struct stat st = {};
    ASSERT_EQ(::fstatat(m.backing->fd(), "f", &st, 0), 0);
    if (!quiet && st.st_atime == 1000) GTEST_SKIP() << "the file system beneath keeps no access times";
    EXPECT_EQ(st.st_atime == 1000, quiet);
    struct stat through = {};
    ASSERT_EQ(::stat(path.c_str(), &through), 0);
    EXPECT_EQ(through.st_atime, st.st_atime);
  }
}

// Who may mount but has no CAP_SYS_ADMIN while serving, as an ordinary user's mount: it asks, is refused, and everything is as without.
TEST(PassthroughMount, WhereItIsNotAllowedNothingChanges) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  BackingOptions options;
  options.dir = s.path;
  auto backing = Backing::open(options);
  ASSERT_TRUE(backing) << backing.error().line();
  RecordingSink sink;
  Capture capture(sink);
  auto mount = Mount::open(*backing, passing().mount, Chain(nullptr, {&capture}), nullptr, &sink, nullptr);
  ASSERT_TRUE(mount) << mount.error().line();
  std::jthread server([&] {
    __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct caps[2] = {};
    EXPECT_EQ(::syscall(SYS_capget, &head, caps), 0);
    caps[0].effective &= ~(1u << CAP_SYS_ADMIN);
    EXPECT_EQ(::syscall(SYS_capset, &head, caps), 0);
    if (auto st = (*mount)->run(); !st) ADD_FAILURE() << st.error().line();
  });
  EXPECT_EQ(slurp(s.path + "/first"), "first");
  {
    Fd reader(::open((s.path + "/first").c_str(), O_RDONLY));
    EXPECT_TRUE(Fd(::open((s.path + "/first").c_str(), O_RDWR))) << std::strerror(errno);
  }
  const std::string has = (*mount)->in_force().passthrough;
  EXPECT_TRUE(has == "not allowed to this user" || has == "not offered by the kernel") << has;
  EXPECT_GT((*mount)->reads(), 0u);
  (*mount)->stop();
}

// One of the crowd: a process, as one that maps what it also serves would wait for itself. Its blocks are written by nobody else.
struct Crowd {
  static constexpr int kFiles = 3, kMembers = 6, kBlocks = 8;
  static constexpr std::size_t kBlock = 4096, kSize = kMembers * kBlocks * kBlock;
  std::atomic<std::uint64_t> read{0}, written{0}, refused{0};
};

int join_the_crowd(const std::string& dir, int me, bool both, Crowd* counts) {
  auto complain = [](const char* what) {
    std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
    return 1;
  };
  std::minstd_rand random(static_cast<unsigned>(me + 1));
  auto below = [&](unsigned n) { return static_cast<unsigned>(random() >> 4) % n; };
  const auto until = steady_clock::now() + std::chrono::seconds(2);
  std::vector<std::string> own(Crowd::kFiles, std::string(Crowd::kBlocks, '0'));  // what it wrote last
  while (steady_clock::now() < until) {
    const unsigned f = below(Crowd::kFiles), mine = below(Crowd::kBlocks), what = below(both ? 10 : 8);
    const std::string path = dir + "/f" + std::to_string(f);
    const off_t at = static_cast<off_t>((static_cast<unsigned>(me) * Crowd::kBlocks + mine) * Crowd::kBlock);
    if (what < 5) {
      Fd fd(::open(path.c_str(), O_RDONLY));
      if (!fd) return complain("a reader");
      if (what == 0) ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_WILLNEED);
      const std::string want(Crowd::kBlock, own[f][mine]);
      if (read_at(fd.get(), Crowd::kBlock, at) != want) return complain("read what was not written last");
      if (what < 3) {
        Mapping map(fd.get(), Crowd::kSize, PROT_READ, what == 1 ? MAP_PRIVATE : MAP_SHARED);
        fd.reset();
        if (!map) return complain("a reader's mapping");
        if (std::memcmp(static_cast<char*>(map.at) + at, want.data(), Crowd::kBlock) != 0) return complain("mapped what was not written last");
      }
      ++counts->read;
      continue;
    }
    const bool rw = what >= 8;
    Fd fd(::open(path.c_str(), rw ? O_RDWR : what == 5 ? O_WRONLY | O_CREAT : O_WRONLY, 0644));
    if (!fd && rw && errno == ETXTBSY) {
      ++counts->refused;
      continue;
    }
    if (!fd) return complain("a writer");
    const std::string text(Crowd::kBlock, static_cast<char>('A' + below(50)));
    if (what == 9) {
      Mapping map(fd.get(), Crowd::kSize, PROT_READ | PROT_WRITE, MAP_SHARED);
      if (!map) return complain("a writer's mapping");
      std::memcpy(static_cast<char*>(map.at) + at, text.data(), text.size());
      if (::msync(static_cast<char*>(map.at) + at, text.size(), MS_SYNC) != 0) return complain("msync");
    } else if (::pwrite(fd.get(), text.data(), text.size(), at) != static_cast<ssize_t>(text.size())) {
      return complain("a write");
    }
    own[f][mine] = text[0];
    ++counts->written;
  }
  return 0;
}

// The same few files are opened in every way, read, written, mapped and closed. Nobody sees an error but the one that is announced, each
// sees what it wrote itself, and what the sink was told of, in its order, is what the files hold in the end.
TEST(PassthroughMount, CrowdsOnTheSameFiles) {
  SOMFS_NEEDS_MOUNTS();
  Volume s;
  auto path = [&](int file) { return s.path + "/f" + std::to_string(file); };
  for (int i = 0; i < Crowd::kFiles; ++i) spill(path(i), std::string(Crowd::kSize, '0'));
  auto* counts = new (::mmap(nullptr, sizeof(Crowd), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Crowd;
  std::map<ObjectId, int> files;
  std::vector<Seen> told;
  std::uint64_t reads = 0;
  {
    Mounted m(s.path, passing());
    SOMFS_NEEDS_PASSTHROUGH(m);
    for (int i = 0; i < Crowd::kFiles; ++i) {
      Look seen;
      ASSERT_EQ(look(m.backing->fd(), ("f" + std::to_string(i)).c_str(), &seen), 0);
      files[seen.id] = i;
    }
    m.sink.take();
    // Those who read and write come second: a file they had once is passed through to no more. Each round begins with files of zeros.
    for (bool both : {false, true}) {
      for (int i = 0; both && i < Crowd::kFiles; ++i) spill(path(i), std::string(Crowd::kSize, '0'), 0);
      std::vector<pid_t> members;
      for (int t = 0; t < Crowd::kMembers; ++t) {
        members.push_back(::fork());
        if (members.back() == 0) ::_exit(join_the_crowd(s.path, t, both, counts));
      }
      for (pid_t pid : members) {
        int status = -1;
        ASSERT_EQ(::waitpid(pid, &status, 0), pid);
        EXPECT_EQ(status, 0);
      }
      if (!both) reads = m.mount->reads();
    }
    for (int i = 0; i < Crowd::kFiles; ++i) {
      Fd fd(::open(path(i).c_str(), O_RDONLY)), direct(::openat(m.backing->fd(), ("f" + std::to_string(i)).c_str(), O_RDONLY));
      EXPECT_TRUE(read_at(fd.get(), Crowd::kSize) == read_at(direct.get(), Crowd::kSize)) << "file " << i << " through the mount";
    }
    told = m.sink.take();
  }
  std::vector<std::string> played(Crowd::kFiles, std::string(Crowd::kSize, '0'));
  for (const Seen& c : told)
    if (auto f = files.find(c.object); c.what == ChangeKind::write && f != files.end())
      played[static_cast<std::size_t>(f->second)].replace(c.extent.off, c.payload.size(), c.payload);
  for (int i = 0; i < Crowd::kFiles; ++i) EXPECT_TRUE(slurp(path(i)) == played[static_cast<std::size_t>(i)]) << "file " << i << " is not what was told of it";
  std::printf("%llu read, %llu requests for it without those who read and write; %llu written, %llu refused\n",
              static_cast<unsigned long long>(counts->read), static_cast<unsigned long long>(reads), static_cast<unsigned long long>(counts->written),
              static_cast<unsigned long long>(counts->refused));
  EXPECT_GT(counts->read, 100u);
  EXPECT_GT(counts->written, 100u);
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int result = RUN_ALL_TESTS();
  return result == 0 && somfs::fs::test::skipped() ? 77 : result;
}
