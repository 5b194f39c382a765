// SPDX-License-Identifier: Apache-2.0
// The mount on the real kernel: life and death, identity, descriptors, what is recorded.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <csignal>
#include <dirent.h>
#include <functional>
#include <grp.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include "tests/platform/fs_fixture.h"
#include "tests/unit/sync_calls.h"

namespace somfs::fs::test {
namespace {

// A store whose own link comes to be between the question who the object is and the question how many links are the store's.
class LinkingMeanwhile : public PreImages {
 public:
  bool wanted() const noexcept override { return false; }
  void before_data(const ObjectId&, int, Extent) noexcept override {}
  void before_attr(const ObjectId&, int) noexcept override {}
  void before_name(const ObjectId&, int, std::string_view, const ObjectId&, const Handle*, int, bool) noexcept override {}
  std::uint32_t own_links(const ObjectId&) const noexcept override {
    if (armed.exchange(false)) linked = ::link(from.c_str(), to.c_str()) == 0;
    return linked ? 1 : 0;
  }
  std::string from, to;
  mutable std::atomic<bool> armed{false}, linked{false};
};

TEST(Mount, LinkCountsAreRightWhileTheStoreLinks) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s, other;
  spill(s.path + "/one", "1");
  // The same inode reached beside the mount.
  Fd beneath(::open(s.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  LinkingMeanwhile store;
  store.from = "/proc/self/fd/" + std::to_string(beneath.get()) + "/one";
  store.to = other.path + "/kept";
  MountedWith with;
  with.pre_images = &store;
  Mounted m(s.path, with);
  ASSERT_TRUE(m.mount);
  store.armed = true;
  struct stat st {};
  ASSERT_EQ(::stat((s.path + "/one").c_str(), &st), 0);
  EXPECT_TRUE(store.linked);
  EXPECT_EQ(st.st_nlink, 1u);
}

TEST(Mount, FlagsOfARequestCountNotThoseOfTheOpen) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  spill(s.path + "/f", "x");
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  // Taken back by fcntl(2), O_DIRECT no longer asks for alignment; the last block of dd oflag=direct is such a write.
  Fd fd(::open((s.path + "/f").c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  ASSERT_TRUE(fd);
  m.sink.take_intents();
  ASSERT_EQ(::fcntl(fd.get(), F_SETFL, 0), 0);
  EXPECT_EQ(::pwrite(fd.get(), "odd", 3, 1), 3);
  char back[4] = {};
  EXPECT_EQ(::pread(fd.get(), back, 4, 0), 4);
  EXPECT_EQ(std::string(back, 4), "xodd");
  // O_DIRECT that came later, and a flag of one write: the mark must be durable before.
  Fd plain(::open((s.path + "/f").c_str(), O_RDWR | O_CLOEXEC));
  m.sink.take_intents();
  iovec one{back, 4};
  ASSERT_EQ(::pwritev2(plain.get(), &one, 1, 0, RWF_DSYNC), 4);
  auto intents = m.sink.take_intents();
  ASSERT_FALSE(intents.empty());
  EXPECT_EQ(intents.back().second, Promise::now);
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

std::string deep_name() { return std::string(200, 'd'); }

TEST(Mount, PathsBeyondPathMax) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  std::vector<Fd> chain;
  chain.emplace_back(::open(s.path.c_str(), O_RDONLY | O_DIRECTORY));
  for (int i = 0; i < 40; ++i) {
    ASSERT_EQ(::mkdirat(chain.back().get(), deep_name().c_str(), 0755), 0) << i << std::strerror(errno);
    Fd next(::openat(chain.back().get(), deep_name().c_str(), O_RDONLY | O_DIRECTORY));
    ASSERT_TRUE(next) << i;
    chain.push_back(std::move(next));
  }
  Fd file(::openat(chain.back().get(), "f", O_CREAT | O_RDWR, 0644));
  ASSERT_TRUE(file);
  EXPECT_EQ(write_all(file.get(), "deep"), 0);
  EXPECT_EQ(::renameat(chain.back().get(), "f", chain[3].get(), "g"), 0);
  struct stat st;
  EXPECT_EQ(::fstatat(chain[3].get(), "g", &st, 0), 0);
  EXPECT_EQ(st.st_size, 4);
}

TEST(Mount, UnnamedFilesTravelWhenTheyAreLinked) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  Fd fd(::open(s.path.c_str(), O_TMPFILE | O_RDWR, 0640));
  ASSERT_TRUE(fd) << std::strerror(errno);
  EXPECT_EQ(write_all(fd.get(), "unnamed"), 0);
  EXPECT_EQ(::fchmod(fd.get(), 0600), 0);
  struct stat st;
  ASSERT_EQ(::fstat(fd.get(), &st), 0);
  EXPECT_EQ(st.st_nlink, 0u);
  EXPECT_TRUE(names_in(s.path).empty());
  ASSERT_EQ(::linkat(AT_FDCWD, proc_path(fd.get()).c_str(), AT_FDCWD, (s.path + "/named").c_str(), AT_SYMLINK_FOLLOW), 0);
  EXPECT_EQ(slurp(s.path + "/named"), "unnamed");
  std::vector<Seen> seen = m.sink.take();
  ASSERT_EQ(seen.size(), 4u);
  EXPECT_EQ(seen[0].what, ChangeKind::born);
  EXPECT_EQ(seen[3].what, ChangeKind::bind);
  EXPECT_EQ(seen[3].object, seen[0].object);
  EXPECT_TRUE(seen[3].has_handle);
}

TEST(Mount, UnlinkedOpenFilesStayUsable) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  Fd fd(::open((s.path + "/f").c_str(), O_CREAT | O_RDWR, 0644));
  ASSERT_TRUE(fd);
  ASSERT_EQ(::unlink((s.path + "/f").c_str()), 0);
  EXPECT_EQ(write_all(fd.get(), "still here"), 0);
  EXPECT_EQ(::fchmod(fd.get(), 0600), 0);
  EXPECT_EQ(::ftruncate(fd.get(), 5), 0);
  EXPECT_EQ(::fsetxattr(fd.get(), "user.x", "y", 1, 0), 0);
  struct stat st;
  ASSERT_EQ(::fstat(fd.get(), &st), 0);
  EXPECT_EQ(st.st_size, 5);
  EXPECT_EQ(st.st_nlink, 0u);
}

// Names that are renamed, replaced and exchanged say so, with what they named before.
TEST(Mount, RemovedDirectoriesCanBeLookedAtFromWithin) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  std::string d = s.path + "/d";
  ASSERT_EQ(::mkdir(d.c_str(), 0755), 0);
  Fd inside(::open(d.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  ASSERT_TRUE(inside);
  ASSERT_EQ(::rmdir(d.c_str()), 0);
  struct stat st;
  ASSERT_EQ(::fstat(inside.get(), &st), 0) << std::strerror(errno);
  EXPECT_TRUE(S_ISDIR(st.st_mode));
}

TEST(Mount, RecordsNames) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  auto at = [&](const char* n) { return s.path + "/" + n; };
  auto id = [&](const char* n) { return inode_at(m.backing->fd(), n)->id; };
  spill(at("a"), "");
  spill(at("b"), "");
  ObjectId a = id("a");
  ObjectId b = id("b");
  m.sink.take();
  ASSERT_EQ(::renameat2(AT_FDCWD, at("a").c_str(), AT_FDCWD, at("b").c_str(), RENAME_EXCHANGE), 0);
  std::vector<Seen> seen = m.sink.take();
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].what, ChangeKind::bind);
  EXPECT_EQ(seen[0].name, "a");
  EXPECT_EQ(seen[0].object, b);
  EXPECT_EQ(seen[0].old, a);
  EXPECT_EQ(seen[1].name, "b");
  EXPECT_EQ(seen[1].object, a);
  EXPECT_EQ(seen[1].old, b);
  ASSERT_EQ(::rename(at("a").c_str(), at("b").c_str()), 0);
  seen = m.sink.take();
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].what, ChangeKind::unbind);
  EXPECT_EQ(seen[0].old, b);
  EXPECT_EQ(seen[1].what, ChangeKind::bind);
  EXPECT_EQ(seen[1].object, b);
  EXPECT_EQ(seen[1].old, a);
  ASSERT_EQ(::unlink(at("b").c_str()), 0);
  seen = m.sink.take();
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].what, ChangeKind::unbind);
  EXPECT_EQ(seen[0].old, b);
}

TEST(Mount, FailedCallsAreNotRecorded) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  ASSERT_EQ(::mkdir((s.path + "/d").c_str(), 0755), 0);
  spill(s.path + "/d/f", "");
  m.sink.take();
  EXPECT_EQ(::rmdir((s.path + "/d").c_str()), -1);
  EXPECT_EQ(errno, ENOTEMPTY);
  EXPECT_TRUE(m.sink.take().empty());
}

TEST(Mount, PromisesAreKept) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  Fd fd(::open((s.path + "/f").c_str(), O_CREAT | O_RDWR, 0644));
  ASSERT_EQ(write_all(fd.get(), "x"), 0);
  int before = m.sink.durable();
  ASSERT_EQ(::fdatasync(fd.get()), 0);
  EXPECT_GT(m.sink.durable(), before);
  before = m.sink.durable();
  Fd dir(::open(s.path.c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_EQ(::fsync(dir.get()), 0);
  EXPECT_GT(m.sink.durable(), before);
  for (int flags : {O_SYNC, O_DSYNC, O_DIRECT}) {
    Fd prompt(::open((s.path + "/f").c_str(), O_RDWR | flags));
    ASSERT_TRUE(prompt) << std::strerror(errno);
    m.sink.take_intents();
    alignas(4096) static char page[4096];
    ASSERT_EQ(::pwrite(prompt.get(), page, sizeof page, 0), 4096) << std::strerror(errno);
    auto intents = m.sink.take_intents();
    ASSERT_EQ(intents.size(), 1u);
    EXPECT_EQ(intents[0].second, Promise::now);
    ASSERT_EQ(::pread(prompt.get(), page, sizeof page, 0), 4096);
  }
}

TEST(Mount, AnFsyncIsOneBeneath) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  const pid_t client = ::gettid();
  std::atomic<int> beneath{0};
  somfs::test::on_sync([&](int, somfs::test::Sync what) { beneath += ::gettid() != client && what == somfs::test::Sync::file; });
  Fd file(::open((s.path + "/f").c_str(), O_CREAT | O_RDWR, 0644)), dir(::open(s.path.c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_EQ(write_all(file.get(), "x"), 0);
  for (int fd : {file.get(), dir.get()})
    for (auto* sync : {::fsync, ::fdatasync}) {
      const int before = beneath;
      ASSERT_EQ(sync(fd), 0);
      EXPECT_EQ(beneath, before + 1) << (fd == dir.get() ? "of a directory" : "of a file");
    }
  somfs::test::on_sync({});
}

TEST(Mount, HolesAreTold) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  Fd fd(::open((s.path + "/f").c_str(), O_CREAT | O_RDWR, 0644));
  ASSERT_EQ(::ftruncate(fd.get(), 1 << 20), 0);
  ASSERT_EQ(::pwrite(fd.get(), "x", 1, 512 << 10), 1);
  EXPECT_EQ(::lseek(fd.get(), 0, SEEK_DATA), 512 << 10);
  EXPECT_EQ(::lseek(fd.get(), 512 << 10, SEEK_HOLE), (512 << 10) + 4096);
  struct stat st;
  ASSERT_EQ(::fstat(fd.get(), &st), 0);
  EXPECT_EQ(st.st_blocks, 8);
}

TEST(Mount, BirthTimesAreTold) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  spill(s.path + "/f", "x");
  auto plain = [&] { return inode_at(AT_FDCWD, s.path + "/f")->id; };
  ObjectId beneath = plain();
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  EXPECT_EQ(plain(), beneath);
}

// A root with one directory that holds one file and a link to it.
class FakeTree : public VirtualTree {
 public:
  NodeId root() override { return 1; }
  int lookup(NodeId dir, std::string_view name, NodeId* id, struct stat* attr) override {
    *id = dir == 1 && name == "snapshots" ? 2 : dir == 2 && name == "file" ? 3 : dir == 2 && name == "link" ? 4 : 0;
    return *id == 0 ? ENOENT : getattr(*id, attr);
  }
  void forget(NodeId, std::uint64_t) override {}
  int getattr(NodeId id, struct stat* attr) override {
    *attr = {};
    attr->st_ino = 1000 + id;
    attr->st_mode = id < 3 ? S_IFDIR | 0755 : id == 3 ? S_IFREG | 0644 : S_IFLNK | 0777;
    attr->st_nlink = 1;
    attr->st_size = id == 3 ? 4 : 0;
    return 0;
  }
  int list(NodeId dir, std::vector<Entry>* entries) override {
    if (dir == 1) *entries = {{"snapshots", 1002, S_IFDIR}};
    if (dir == 2) *entries = {{"file", 1003, S_IFREG}, {"link", 1004, S_IFLNK}};
    return 0;
  }
  int open(NodeId id, std::uint64_t* handle) override {
    *handle = id;
    return 0;
  }
  void close(std::uint64_t) override {}
  int read(std::uint64_t, void* buf, std::size_t n, std::uint64_t off, std::size_t* got) override {
    *got = off < 4 ? std::min<std::size_t>(n, 4 - off) : 0;
    std::memcpy(buf, &"past"[off < 4 ? off : 0], *got);
    return 0;
  }
  int readlink(NodeId, std::string* target) override {
    *target = "file";
    return 0;
  }
  int getxattr(NodeId, std::string_view name, std::string* value) override {
    *value = "v";
    return name == "user.x" || name == "trusted.t" ? 0 : ENODATA;
  }
  int listxattr(NodeId, std::string* names) override {
    names->assign("user.x\0trusted.t\0", 17);
    return 0;
  }
};

TEST(Mount, ShowsTheVirtualTree) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  FakeTree tree;
  MountedWith with;
  with.tree = &tree;
  Mounted m(s.path, with);
  ASSERT_TRUE(m.mount);
  std::string in = s.path + "/.somfs/snapshots";
  EXPECT_TRUE(names_in(s.path).empty());
  EXPECT_EQ(names_in(s.path + "/.somfs"), (std::vector<std::string>{"snapshots"}));
  EXPECT_EQ(names_in(in), (std::vector<std::string>{"file", "link"}));
  EXPECT_EQ(slurp(in + "/file"), "past");
  EXPECT_EQ(slurp(in + "/link"), "past");
  char value[8];
  EXPECT_EQ(::getxattr((in + "/file").c_str(), "user.x", value, sizeof value), 1);
  Fd fd(::open((in + "/file").c_str(), O_RDONLY));
  EXPECT_EQ(::lseek(fd.get(), 0, SEEK_HOLE), 4);
  EXPECT_FALSE(Fd(::open((in + "/file").c_str(), O_RDWR)));
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::unlink((in + "/file").c_str()), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::mkdir((in + "/d").c_str(), 0755), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::chmod((in + "/file").c_str(), 0600), -1);
  EXPECT_EQ(errno, EROFS);
  EXPECT_EQ(::rename((in + "/file").c_str(), (s.path + "/f").c_str()), -1);
  struct stat st;
  ASSERT_EQ(::stat((in + "/file").c_str(), &st), 0);
  EXPECT_EQ(st.st_ino, 1003u);
}

TEST(Mount, ShowsTrustedAttributesOfTheVirtualTreeToRootAlone) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  FakeTree tree;
  MountedWith with;
  with.tree = &tree;
  Mounted m(s.path, with);
  ASSERT_TRUE(m.mount);
  const std::string f = s.path + "/.somfs/snapshots/file";
  char names[64];
  ASSERT_EQ(::listxattr(f.c_str(), names, sizeof names), 17);
  EXPECT_EQ(::getxattr(f.c_str(), "trusted.t", names, sizeof names), 1);
  int status = 0;
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setgroups(0, nullptr) != 0 || ::setgid(1001) != 0 || ::setuid(1001) != 0) ::_exit(1);
    if (::listxattr(f.c_str(), nullptr, 0) != 7 || ::listxattr(f.c_str(), names, sizeof names) != 7) ::_exit(2);
    if (std::string_view(names, 7) != std::string_view("user.x", 7)) ::_exit(3);
    if (::getxattr(f.c_str(), "user.x", names, sizeof names) != 1) ::_exit(4);
    ::_exit(::getxattr(f.c_str(), "trusted.t", names, sizeof names) == -1 && errno == ENODATA ? 0 : 5);
  }
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Mount, FlagsOfFiles) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  spill(s.path + "/f", "x");
  Fd fd(::open((s.path + "/f").c_str(), O_RDONLY));
  int flags = 0;
  ASSERT_EQ(::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags), 0) << std::strerror(errno);
  flags |= FS_APPEND_FL;
  ASSERT_EQ(::ioctl(fd.get(), FS_IOC_SETFLAGS, &flags), 0) << std::strerror(errno);
  EXPECT_FALSE(Fd(::open((s.path + "/f").c_str(), O_WRONLY)));
  EXPECT_EQ(errno, EPERM);
  spill(s.path + "/f", "y", O_APPEND);
  EXPECT_EQ(slurp(s.path + "/f"), "xy");
  flags &= ~FS_APPEND_FL;
  ASSERT_EQ(::ioctl(fd.get(), FS_IOC_SETFLAGS, &flags), 0);
  // The change time moves with the flags, for those who looked before as well.
  struct stat before, beneath, above;
  ASSERT_EQ(::fstat(fd.get(), &before), 0);
  do {
    flags ^= FS_NODUMP_FL;
    ASSERT_EQ(::ioctl(fd.get(), FS_IOC_SETFLAGS, &flags), 0);
    ASSERT_EQ(::fstatat(m.backing->fd(), "f", &beneath, 0), 0);
  } while (beneath.st_ctim.tv_sec == before.st_ctim.tv_sec && beneath.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
  ASSERT_EQ(::fstat(fd.get(), &above), 0);
  EXPECT_EQ(above.st_ctim.tv_nsec, beneath.st_ctim.tv_nsec);
}

TEST(Mount, DefaultAclIsInherited) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Scratch plain;
  struct Entry {
    std::uint16_t tag, perm;
    std::uint32_t id;
  };
  Entry entries[] = {{1, 7, ~0u}, {2, 5, 1002}, {4, 5, ~0u}, {16, 7, ~0u}, {32, 0, ~0u}};
  std::string acl("\2\0\0\0", 4);
  acl.append(reinterpret_cast<const char*>(entries), sizeof entries);
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  ::umask(077);
  std::vector<std::string> got;
  for (const std::string& p : {s.path, plain.path}) {
    ASSERT_EQ(::mkdir((p + "/d").c_str(), 0777), 0);
    ASSERT_EQ(::setxattr((p + "/d").c_str(), "system.posix_acl_default", acl.data(), acl.size(), 0), 0) << std::strerror(errno);
    spill(p + "/d/f", "x");
    ASSERT_EQ(::mkdir((p + "/d/sub").c_str(), 0755), 0);
    std::string all;
    for (const char* n : {"/d/f", "/d/sub"}) {
      struct stat st;
      ::stat((p + n).c_str(), &st);
      all += std::to_string(st.st_mode) + " ";
      Fd fd(::open((p + n).c_str(), O_PATH));
      auto xattrs = read_xattrs(fd.get());
      for (const auto& [name, value] : *xattrs) all += name + "=" + value + " ";
    }
    got.push_back(all);
  }
  ::umask(022);
  EXPECT_EQ(got[0], got[1]);
  EXPECT_NE(got[0].find("posix_acl_access"), std::string::npos);
}

// As many files as SOMFS_TEST_FILES says under a limit of SOMFS_TEST_DESCRIPTORS.
TEST(Mount, ManyFilesFewDescriptors) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  const char* wanted = std::getenv("SOMFS_TEST_FILES");
  int files = wanted != nullptr ? std::atoi(wanted) : 5000;
  const char* allowed = std::getenv("SOMFS_TEST_DESCRIPTORS");
  const unsigned descriptors = allowed != nullptr ? static_cast<unsigned>(std::atoi(allowed)) : 400;
  for (int i = 0; i < files; ++i) {
    if (i % 100 == 0) {
      ASSERT_EQ(::mkdir((s.path + "/" + std::to_string(i / 100)).c_str(), 0755), 0);
    }
    ASSERT_TRUE(Fd(::open((s.path + "/" + std::to_string(i / 100) + "/" + std::to_string(i)).c_str(), O_CREAT | O_WRONLY, 0644)));
  }
  rlimit before = {};
  ::getrlimit(RLIMIT_NOFILE, &before);
  rlimit low = {descriptors, before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &low);
  {
    MountedWith setup;
    setup.mount.descriptors = descriptors / 4;
    Mounted m(s.path, setup);
    ASSERT_TRUE(m.mount);
    ::setrlimit(RLIMIT_NOFILE, &low);
    for (int round = 0; round < 2; ++round) {
      int seen = 0;
      for (const std::string& d : names_in(s.path))
        for (const std::string& f : names_in(s.path + "/" + d)) {
          struct stat st;
          std::string p = s.path + "/" + d + "/" + f;
          ASSERT_EQ(::stat(p.c_str(), &st), 0) << p << ": " << std::strerror(errno);
          ASSERT_EQ(::getxattr(p.c_str(), "user.none", nullptr, 0), -1);
          ASSERT_EQ(errno, ENODATA) << p;
          ++seen;
        }
      EXPECT_EQ(seen, files);
    }
  }
  ::setrlimit(RLIMIT_NOFILE, &before);
}

TEST(Mount, DeadMountIsReplacedAndLiveOneRefused) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  spill(s.path + "/f", "x");
  pid_t child = ::fork();
  if (child == 0) {
    Mounted m(s.path);
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  struct stat st;
  EXPECT_EQ(::stat((s.path + "/f").c_str(), &st), -1);
  EXPECT_EQ(errno, ENOTCONN);
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  EXPECT_TRUE(m.backing->replaced_dead_mount());
  EXPECT_EQ(slurp(s.path + "/f"), "x");
  auto again = Backing::open({s.path, {}, {}, false});
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().exit, Exit::locked);
}

// The protected directory may be a mount point of its own: stopping, in whatever way, leaves it mounted.
TEST(Mount, StopLeavesTheFileSystemBeneath) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  ASSERT_EQ(::mount("tmpfs", s.path.c_str(), "tmpfs", 0, "size=1m"), 0);
  spill(s.path + "/f", "x");
  {
    Mounted m(s.path);
    ASSERT_TRUE(m.mount);
    EXPECT_EQ(slurp(s.path + "/f"), "x");
    ASSERT_EQ(::umount2(s.path.c_str(), 0), 0);
  }
  EXPECT_EQ(slurp(s.path + "/f"), "x");
  {
    Mounted m(s.path);
    Fd busy(::open((s.path + "/f").c_str(), O_RDWR));
    m.mount->stop();
    m.server.join();
    EXPECT_EQ(slurp(s.path + "/f"), "x");
  }
  EXPECT_EQ(slurp(s.path + "/f"), "x");
  ::umount2(s.path.c_str(), MNT_DETACH);
}

TEST(Mount, RefusesWhatItCannotProtect) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  auto missing = Backing::open({s.path + "/none", {}, {}, false});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().exit, Exit::usage);
  spill(s.path + "/f", "x");
  auto file = Backing::open({s.path + "/f", {}, {}, false});
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().exit, Exit::usage);
  auto no_place = Backing::open({s.path, s.path + "-none", {}, false});
  ASSERT_FALSE(no_place);
  EXPECT_EQ(no_place.error().exit, Exit::usage);
  EXPECT_FALSE(Backing::open({"/usr", {}, {}, true}));
  ASSERT_EQ(::mkdir((s.path + "/sub").c_str(), 0755), 0);
  ASSERT_EQ(::mount("tmpfs", (s.path + "/sub").c_str(), "tmpfs", 0, "size=64k"), 0);
  auto nested = Backing::open({s.path, {}, {}, false});
  EXPECT_FALSE(nested);
  auto excluded = Backing::open({s.path, {}, {"sub"}, false});
  EXPECT_TRUE(excluded) << excluded.error().line();
  ::umount2((s.path + "/sub").c_str(), MNT_DETACH);
}

TEST(Mount, ListsFilesOpenBeneath) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  spill(s.path + "/f", "x");
  int gate[2];
  ASSERT_EQ(::pipe(gate), 0);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  pid_t child = ::fork();
  if (child == 0) {
    int fd = ::open((s.path + "/f").c_str(), O_WRONLY);
    ::close(gate[1]);
    char c = fd >= 0 ? 'y' : 'n';
    if (::write(ready[1], &c, 1) != 1 || ::read(gate[0], &c, 1) < 0) ::_exit(1);
    ::_exit(0);
  }
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  auto b = Backing::open({s.path, {}, {}, false});
  EXPECT_FALSE(b);
  auto forced = Backing::open({s.path, {}, {}, true});
  ASSERT_TRUE(forced);
  ASSERT_EQ(forced->open_beneath().size(), 1u);
  EXPECT_EQ(forced->open_beneath()[0].pid, child);
  EXPECT_EQ(forced->open_beneath()[0].path, s.path + "/f");
  for (int fd : {gate[0], gate[1], ready[0], ready[1]}) ::close(fd);
  int status = 0;
  ::waitpid(child, &status, 0);
}

TEST(Mount, OwnDirectoryIsHidden) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  ASSERT_EQ(::mkdir((s.path + "/.somfs").c_str(), 0700), 0);
  ASSERT_EQ(::mkdir((s.path + "/d").c_str(), 0755), 0);
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  EXPECT_EQ(names_in(s.path), (std::vector<std::string>{"d"}));
  struct stat st;
  ASSERT_EQ(::stat(s.path.c_str(), &st), 0);
  EXPECT_EQ(st.st_nlink, 3u);
  EXPECT_EQ(::stat((s.path + "/.somfs").c_str(), &st), -1);
  EXPECT_EQ(::mkdir((s.path + "/.somfs").c_str(), 0755), -1);
  EXPECT_EQ(::rename((s.path + "/d").c_str(), (s.path + "/.somfs").c_str()), -1);
  EXPECT_EQ(::mkdir((s.path + "/d/.somfs").c_str(), 0755), 0);
}

TEST(Mount, ExcludedPartsAreNotRecordedUntilTheyLeave) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  ASSERT_EQ(::mkdir((s.path + "/out").c_str(), 0755), 0);
  MountedWith setup;
  setup.backing.excludes = {"out"};
  Mounted m(s.path, setup);
  ASSERT_TRUE(m.mount);
  ASSERT_EQ(::mkdir((s.path + "/out/d").c_str(), 0755), 0);
  spill(s.path + "/out/d/f", "x");
  EXPECT_TRUE(m.sink.take().empty());
  ASSERT_EQ(::rename((s.path + "/out/d").c_str(), (s.path + "/d").c_str()), 0);
  std::vector<Seen> seen = m.sink.take();
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].what, ChangeKind::subtree);
  EXPECT_EQ(seen[1].what, ChangeKind::bind);
  spill(s.path + "/d/f", "y");
  EXPECT_FALSE(m.sink.take().empty());
  ASSERT_EQ(::rename((s.path + "/d").c_str(), (s.path + "/out/e").c_str()), 0);
  seen = m.sink.take();
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].what, ChangeKind::unbind);
}

// Parks everything while closed; releases in order on the thread that opens it.
class FakeGate : public Admission {
 public:
  void pass(std::size_t, const std::function<void()>& own, std::function<void()> go) override {
    {
      Lock l(mutex_);
      if (closed_) {
        own();
        parked_.push_back(std::move(go));
        changed_.notify_all();
        return;
      }
    }
    go();
  }
  void close() {
    Lock l(mutex_);
    closed_ = true;
  }
  void wait_for(std::size_t n) {
    Lock l(mutex_);
    while (parked_.size() < n) changed_.wait(mutex_);
  }
  void open() {
    std::vector<std::function<void()>> all;
    {
      Lock l(mutex_);
      closed_ = false;
      all = std::exchange(parked_, {});
    }
    for (auto& go : all) go();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool closed_ GUARDED_BY(mutex_) = false;
  std::vector<std::function<void()>> parked_ GUARDED_BY(mutex_);
};

TEST(Mount, ParkedWritersBlockNobodyElse) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  FakeGate gate;
  MountedWith setup;
  setup.admission = &gate;
  Mounted m(s.path, setup);
  ASSERT_TRUE(m.mount);
  constexpr std::size_t kWriters = 20;
  std::vector<std::string> files;
  for (std::size_t i = 0; i < kWriters; ++i) {
    files.push_back(s.path + "/f" + std::to_string(i));
    spill(files.back(), "old");
  }
  m.sink.take();
  gate.close();
  std::vector<std::jthread> writers;
  for (const std::string& f : files) writers.emplace_back([f] { spill(f, "new text of " + f, 0); });
  gate.wait_for(kWriters);
  struct stat st;
  for (const std::string& f : files) ASSERT_EQ(::stat(f.c_str(), &st), 0);
  EXPECT_EQ(names_in(s.path).size(), kWriters);
  EXPECT_TRUE(m.sink.take().empty());
  gate.open();
  writers.clear();
  EXPECT_EQ(m.sink.take().size(), kWriters);
  for (const std::string& f : files) EXPECT_EQ(slurp(f), "new text of " + f);
}

TEST(Mount, BarrierFlushesMappedPages) {
  SOMFS_NEEDS_MOUNTS();
  Scratch s;
  Mounted m(s.path);
  ASSERT_TRUE(m.mount);
  Fd fd(::open((s.path + "/f").c_str(), O_CREAT | O_RDWR, 0644));
  ASSERT_EQ(::ftruncate(fd.get(), 4096), 0);
  ASSERT_EQ(::unlink((s.path + "/f").c_str()), 0);  // no name is needed
  void* map = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  ASSERT_NE(map, MAP_FAILED);
  std::memcpy(map, "mapped", 6);
  m.sink.take();
  EXPECT_TRUE(m.mount->barrier(std::chrono::seconds(20)));
  std::vector<Seen> seen = m.sink.take();
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].payload.substr(0, 6), "mapped");
  ::munmap(map, 4096);
}

}  // namespace
}  // namespace somfs::fs::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int result = RUN_ALL_TESTS();
  return result == 0 && somfs::fs::test::skipped() ? 77 : result;
}
