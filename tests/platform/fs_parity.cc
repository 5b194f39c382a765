// SPDX-License-Identifier: Apache-2.0
#include "tests/platform/fs_parity.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "common/fd.h"

namespace somfs::fs::test {
namespace {

constexpr int kSlots = 6;

// The effective user and groups of this thread alone, so that a test may change them among others.
void become(uid_t uid, gid_t gid, std::vector<gid_t> groups) {
  ::syscall(SYS_setresuid, -1, 0, -1);
  ::syscall(SYS_setgroups, groups.size(), groups.data());
  ::syscall(SYS_setresgid, -1, gid, -1);
  ::syscall(SYS_setresuid, -1, uid, -1);
}

class Player {
 public:
  Player(const std::string& root, const ParityOptions& o)
      : options_(o), random_(o.seed), dir_(::open(root.c_str(), O_RDONLY | O_DIRECTORY)) {}

  std::vector<Outcome> play() {
    for (unsigned i = 0; i < options_.calls; ++i) {
      if (options_.other_users) change_user();
      one();
    }
    for (Fd& f : open_) f.reset();
    if (options_.other_users) become(0, 0, {});
    ::umask(022);
    return std::move(log_);
  }

 private:
  unsigned pick(unsigned n) { return random_() % n; }
  bool chance(unsigned percent) { return pick(100) < percent; }

  // Few names, so that calls meet; some are long, odd or not UTF-8.
  std::string name() {
    static const std::vector<std::string> names = {"a", "b", "c", "d", "e", std::string(255, 'n'), "new\nline", "\xff\xfe bytes"};
    return names[pick(static_cast<unsigned>(names.size()))];
  }
  std::string path() {
    std::string p = name();
    for (unsigned depth = pick(3); depth > 0; --depth) p += "/" + name();
    return p;
  }
  void change_user() {
    switch (pick(4)) {
      case 0:
      case 1: who_ = "root"; become(0, 0, {}); break;
      case 2: who_ = "u1"; become(1001, 1001, {2000}); break;
      default: who_ = "u2"; become(1002, 1002, {1001, 2000});
    }
    static const mode_t masks[] = {0, 022, 077, 027};
    mask_ = masks[pick(4)];
    ::umask(mask_);
  }

  void note(std::string call, long result, std::string more = {}) {
    int e = errno;
    log_.push_back({fmt::format("{} {:o} {}", who_, mask_, call),
                    fmt::format("{}{}", result < 0 ? std::string(std::strerror(e)) : std::to_string(result), more)});
  }

  int slot() { return static_cast<int>(pick(kSlots)); }
  std::string bytes(std::size_t n) { return std::string(n, static_cast<char>('A' + pick(26))); }

  void one() {
    switch (pick(30)) {
      case 0: case 1: case 2: return open_some();
      case 3: case 4: case 5: return write_some();
      case 6: return make_dir();
      case 7: return make_node();
      case 8: return make_symlink();
      case 9: return make_link();
      case 10: return remove_name();
      case 11: return remove_dir();
      case 12: case 13: return rename_name();
      case 14: return change_mode();
      case 15: return change_owner();
      case 16: return change_times();
      case 17: return truncate_name();
      case 18: return truncate_open();
      case 19: return allocate();
      case 20: return copy_range();
      case 21: return set_attribute();
      case 22: return remove_attribute();
      case 23: return read_some();
      case 24: return stat_name();
      case 25: return seek_some();
      case 26: return open_unnamed();
      case 27: return link_unnamed();
      case 28: return set_acl();
      default: return close_some();
    }
  }

  void open_some() {
    std::string p = path();
    static const int access[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR};
    const int way = access[pick(4)];
    int flags = (way == O_RDWR && !options_.read_write ? O_WRONLY : way) | O_CLOEXEC | O_NONBLOCK;
    if (chance(70)) flags |= O_CREAT;
    if (chance(20)) flags |= O_EXCL;
    if (chance(20)) flags |= O_TRUNC;
    if (chance(20)) flags |= O_APPEND;
    if (chance(10)) flags |= O_NOFOLLOW;
    if (chance(5)) flags |= O_SYNC;
    mode_t mode = pick(010000);
    Fd fd(::openat(dir_.get(), p.c_str(), flags, mode));
    note(fmt::format("open {} {:o} {:o}", p, flags, mode), fd ? 0 : -1);
    struct stat st;
    if (fd && ::fstat(fd.get(), &st) == 0 && S_ISREG(st.st_mode)) open_[slot()] = std::move(fd);
  }
  void open_unnamed() {
    std::string p = chance(50) ? "." : path();
    mode_t mode = pick(010000);
    int flags = O_TMPFILE | O_RDWR | O_CLOEXEC | (chance(20) ? O_EXCL : 0);
    Fd fd(::openat(dir_.get(), p.c_str(), flags, mode));
    note(fmt::format("tmpfile {} {:o} {:o}", p, flags, mode), fd ? 0 : -1);
    if (fd) open_[slot()] = std::move(fd);
  }
  void link_unnamed() {
    int s = slot();
    std::string p = path();
    // Whether a set-id file may be linked the kernel judges by the mode it remembers, which a write may have changed beneath it.
    struct stat st;
    (void)::fstat(open_[s].get(), &st);
    note(fmt::format("linkfd {} {}", s, p),
         ::linkat(AT_FDCWD, proc_path(open_[s].get()).c_str(), dir_.get(), p.c_str(), AT_SYMLINK_FOLLOW));
  }
  void close_some() {
    int s = slot();
    open_[s].reset();
    note(fmt::format("close {}", s), 0);
  }
  void write_some() {
    int s = slot();
    off_t off = pick(20000);
    std::string data = bytes(1 + pick(9000));
    if (chance(50)) {
      note(fmt::format("pwrite {} {} {}", s, off, data.size()), ::pwrite(open_[s].get(), data.data(), data.size(), off));
    } else {
      note(fmt::format("write {} {}", s, data.size()), ::write(open_[s].get(), data.data(), data.size()));
    }
  }
  void read_some() {
    int s = slot();
    off_t off = pick(20000);
    std::string data(1 + pick(9000), '\0');
    ssize_t n = ::pread(open_[s].get(), data.data(), data.size(), off);
    note(fmt::format("pread {} {} {}", s, off, data.size()), n,
         fmt::format(" {:x}",
                     n > 0 ? std::hash<std::string_view>()(std::string_view(data).substr(0, static_cast<std::size_t>(n))) : 0));
  }
  void seek_some() {
    int s = slot();
    int whence = chance(50) ? SEEK_DATA : SEEK_HOLE;
    off_t off = pick(20000);
    // Whether preallocated space counts as data depends on what is cached: only whether the call is understood is compared.
    off_t at = ::lseek(open_[s].get(), off, whence);
    note(fmt::format("lseek {} {} {}", s, off, whence), at >= 0 || errno == ENXIO ? 0 : -1);
    ::lseek(open_[s].get(), 0, SEEK_SET);
  }
  void make_dir() {
    std::string p = path();
    mode_t mode = chance(60) ? 0777 : pick(010000);
    note(fmt::format("mkdir {} {:o}", p, mode), ::mkdirat(dir_.get(), p.c_str(), mode));
  }
  void make_node() {
    static const mode_t kinds[] = {S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFREG};
    std::string p = path();
    mode_t mode = kinds[pick(5)] | pick(010000);
    note(fmt::format("mknod {} {:o}", p, mode), ::mknodat(dir_.get(), p.c_str(), mode, makedev(1, 3)));
  }
  void make_symlink() {
    std::string p = path();
    std::string to = path();
    note(fmt::format("symlink {} {}", to, p), ::symlinkat(to.c_str(), dir_.get(), p.c_str()));
  }
  void make_link() {
    std::string from = path();
    std::string to = path();
    struct stat st;
    (void)::fstatat(dir_.get(), from.c_str(), &st, AT_SYMLINK_NOFOLLOW);   // as in link_unnamed()
    note(fmt::format("link {} {}", from, to), ::linkat(dir_.get(), from.c_str(), dir_.get(), to.c_str(), 0));
  }
  void remove_name() {
    std::string p = path();
    note("unlink " + p, ::unlinkat(dir_.get(), p.c_str(), 0));
  }
  void remove_dir() {
    std::string p = path();
    note("rmdir " + p, ::unlinkat(dir_.get(), p.c_str(), AT_REMOVEDIR));
  }
  void rename_name() {
    std::string from = path();
    std::string to = path();
    static const unsigned flags[] = {
        0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT, RENAME_NOREPLACE | RENAME_EXCHANGE};
    unsigned f = flags[pick(7)];
    note(fmt::format("rename {} {} {}", from, to, f), ::renameat2(dir_.get(), from.c_str(), dir_.get(), to.c_str(), f));
  }
  void change_mode() {
    std::string p = path();
    mode_t mode = pick(010000);
    if (chance(50)) {
      note(fmt::format("chmod {} {:o}", p, mode), ::fchmodat(dir_.get(), p.c_str(), mode, 0));
    } else {
      int s = slot();
      note(fmt::format("fchmod {} {:o}", s, mode), ::fchmod(open_[s].get(), mode));
    }
  }
  void change_owner() {
    static const uid_t ids[] = {0, 1001, 1002, 2000, static_cast<uid_t>(-1)};
    uid_t uid = ids[pick(5)];
    gid_t gid = ids[pick(5)];
    // Of a call that changes nothing the mount hears too little to refuse it to strangers.
    if (uid == gid && uid == static_cast<uid_t>(-1)) gid = 1001;
    std::string p = path();
    int flags = chance(50) ? AT_SYMLINK_NOFOLLOW : 0;
    note(fmt::format("chown {} {} {} {}", p, uid, gid, flags), ::fchownat(dir_.get(), p.c_str(), uid, gid, flags));
  }
  void change_times() {
    static const long special[] = {0, 999999999, 123456789, UTIME_NOW, UTIME_OMIT};
    timespec t[2];
    for (timespec& x : t) x = {1000000000 + static_cast<time_t>(pick(1000)), special[pick(5)]};
    std::string p = path();
    int flags = chance(50) ? AT_SYMLINK_NOFOLLOW : 0;
    int r = ::utimensat(dir_.get(), p.c_str(), t, flags);
    int e = errno;
    std::string more;
    struct stat st = {};
    if (r == 0 && ::fstatat(dir_.get(), p.c_str(), &st, flags) == 0)
      for (int i : {0, 1})
        if (t[i].tv_nsec < 1000000000)
          more += fmt::format(" {}.{}", (i == 0 ? st.st_atim : st.st_mtim).tv_sec, (i == 0 ? st.st_atim : st.st_mtim).tv_nsec);
    errno = e;
    note(fmt::format("utimens {} {} {} {}", p, t[0].tv_nsec, t[1].tv_nsec, flags), r, more);
  }
  void truncate_name() {
    std::string p = path();
    off_t size = pick(30000);
    Fd fd(::openat(dir_.get(), p.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    note(fmt::format("truncate {} {}", p, size), fd ? ::ftruncate(fd.get(), size) : -1);
  }
  void truncate_open() {
    int s = slot();
    off_t size = pick(30000);
    note(fmt::format("ftruncate {} {}", s, size), ::ftruncate(open_[s].get(), size));
  }
  void allocate() {
    static const int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE};
    int s = slot();
    int mode = modes[pick(4)];
    off_t off = pick(20000);
    off_t len = pick(20000);
    note(fmt::format("fallocate {} {} {} {}", s, mode, off, len), ::fallocate(open_[s].get(), mode, off, len));
  }
  void copy_range() {
    int from = slot();
    int to = slot();
    off_t in = pick(10000);
    off_t out = pick(10000);
    std::size_t n = pick(10000);
    note(fmt::format("copy {} {} {} {} {}", from, in, to, out, n),
         ::copy_file_range(open_[from].get(), &in, open_[to].get(), &out, n, 0));
  }
  std::string attribute() {
    static const char* const names[] = {"user.one", "user.two", "trusted.three", "security.four"};
    return names[pick(4)];
  }
  // Through a descriptor's name in /proc, so that the symbolic link itself can be meant.
  std::string opened(const std::string& p, Fd* keep) {
    *keep = Fd(::openat(dir_.get(), p.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    return proc_path(keep->get());
  }
  void set_attribute() {
    std::string p = path();
    std::string n = attribute();
    std::string v = bytes(pick(200));
    int flags = chance(30) ? XATTR_CREATE : chance(30) ? XATTR_REPLACE : 0;
    Fd keep;
    std::string at = opened(p, &keep);
    note(fmt::format("setxattr {} {} {} {}", p, n, v.size(), flags),
         keep ? ::setxattr(at.c_str(), n.c_str(), v.data(), v.size(), flags) : -1);
  }
  void remove_attribute() {
    std::string p = path();
    std::string n = attribute();
    Fd keep;
    std::string at = opened(p, &keep);
    note(fmt::format("removexattr {} {}", p, n), keep ? ::removexattr(at.c_str(), n.c_str()) : -1);
  }
  // user::rwx user:1002:PERM group::PERM mask::rwx other::PERM, access or default.
  void set_acl() {
    std::string p = path();
    struct Entry {
      std::uint16_t tag, perm;
      std::uint32_t id;
    };
    constexpr std::uint32_t none = 0xffffffff;
    Entry entries[] = {{1, 7, none},
                       {2, static_cast<std::uint16_t>(pick(8)), 1002},
                       {4, static_cast<std::uint16_t>(pick(8)), none},
                       {16, static_cast<std::uint16_t>(pick(8)), none},
                       {32, static_cast<std::uint16_t>(pick(8)), none}};
    std::string v("\2\0\0\0", 4);
    v.append(reinterpret_cast<const char*>(entries), sizeof entries);
    const char* n = chance(50) ? "system.posix_acl_default" : "system.posix_acl_access";
    Fd keep;
    std::string at = opened(p, &keep);
    note(fmt::format("setacl {} {}", p, n), keep ? ::setxattr(at.c_str(), n, v.data(), v.size(), 0) : -1);
  }
  void stat_name() {
    std::string p = path();
    struct stat st = {};
    int r = ::fstatat(dir_.get(), p.c_str(), &st, AT_SYMLINK_NOFOLLOW);
    std::string more;
    if (r == 0)
      more =
          fmt::format(" {:o} {} {} {} {}", st.st_mode, st.st_nlink, st.st_uid, st.st_gid, S_ISDIR(st.st_mode) ? 0 : st.st_size);
    note("stat " + p, r, more);
  }

  const ParityOptions options_;
  std::mt19937 random_;
  Fd dir_;
  Fd open_[kSlots];
  std::string who_ = "root";
  mode_t mask_ = 022;
  std::vector<Outcome> log_;
};

std::string data_of(int dirfd, const char* name) {
  Fd fd(::openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  std::string all(1 << 17, '\0');
  std::size_t got = 0;
  if (!fd || pread_all(fd.get(), all.data(), all.size(), 0, &got) != 0) return "?";
  return fmt::format("{:x}", std::hash<std::string_view>()(std::string_view(all).substr(0, got)));
}

std::string attributes_of(int dirfd, const char* name) {
  Fd fd(::openat(dirfd, name, O_PATH | O_CLOEXEC | O_NOFOLLOW));
  auto all = read_xattrs(fd.get());
  if (!all) return all.error().line();
  std::string out;
  for (const auto& [n, v] : *all) out += fmt::format(" {}={:x}", n, std::hash<std::string>()(v));
  return out;
}

void describe(int dirfd, const std::string& path, std::vector<std::string>* out) {
  DIR* d = ::fdopendir(::fcntl(dirfd, F_DUPFD_CLOEXEC, 0));
  if (d == nullptr) return;
  ::rewinddir(d);
  while (dirent* e = ::readdir(d)) {
    if (std::strcmp(e->d_name, ".") == 0 || std::strcmp(e->d_name, "..") == 0) continue;
    struct stat st = {};
    ::fstatat(dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW);
    std::string line = fmt::format("{}/{} {:o} {}:{} links {} size {} dev {}", path, e->d_name, st.st_mode, st.st_uid, st.st_gid,
                                   st.st_nlink, S_ISDIR(st.st_mode) ? 0 : st.st_size, st.st_rdev);
    // A time that a call set, not the clock. (Access times change by being looked at.)
    if (st.st_mtim.tv_sec < 1100000000) line += fmt::format(" {}.{}", st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    if (S_ISREG(st.st_mode)) line += " data " + data_of(dirfd, e->d_name);
    if (S_ISLNK(st.st_mode)) {
      char target[4096];
      ssize_t n = ::readlinkat(dirfd, e->d_name, target, sizeof target);
      line += " -> " + std::string(target, n > 0 ? static_cast<std::size_t>(n) : 0);
    }
    line += attributes_of(dirfd, e->d_name);
    out->push_back(line);
    if (S_ISDIR(st.st_mode)) {
      Fd below(::openat(dirfd, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
      describe(below.get(), path + "/" + e->d_name, out);
    }
  }
  ::closedir(d);
}

}  // namespace

std::vector<Outcome> run_random_calls(const std::string& root, const ParityOptions& options) {
  return Player(root, options).play();
}

std::vector<std::string> describe_tree(const std::string& root) {
  std::vector<std::string> out;
  Fd fd(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  describe(fd.get(), "", &out);
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace somfs::fs::test
