// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/random_operations.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "common/bytes.h"
#include "common/printable.h"
#include "tests/tools/acl.h"
#include "tests/tools/tree_walk.h"

namespace somfs::tools {
namespace {

constexpr std::uint64_t kMostOffset = 200'000;
constexpr uid_t kOwners[] = {0, 1000, 65534, static_cast<uid_t>(-1)};

struct Flag {
  int bit;
  const char* name;
};
constexpr Flag kOpenFlags[] = {{O_CREAT, "CREAT"},         {O_CREAT, "CREAT"},     {O_EXCL, "EXCL"},   {O_TRUNC, "TRUNC"},
                               {O_APPEND, "APPEND"},       {O_SYNC, "SYNC"},       {O_DSYNC, "DSYNC"}, {O_NOFOLLOW, "NOFOLLOW"},
                               {O_DIRECTORY, "DIRECTORY"}, {O_NOATIME, "NOATIME"}, {O_PATH, "PATH"}};

std::string describe_stat(const struct stat& st) {
  std::string text = fmt::format("{:o} {}:{}", st.st_mode, st.st_uid, st.st_gid);
  if (!S_ISDIR(st.st_mode)) text += fmt::format(" links {} size {}", st.st_nlink, st.st_size);
  if (S_ISCHR(st.st_mode)) text += fmt::format(" dev {}:{}", major(st.st_rdev), minor(st.st_rdev));
  return text;
}

std::uint32_t checksum_of(int dir, const std::string& name) {
  Fd fd(openat(dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  std::string block(1 << 16, '\0');
  std::uint32_t sum = 0;
  for (std::uint64_t pos = 0; fd;) {
    std::size_t got = 0;
    if (pread_all(fd.get(), block.data(), block.size(), pos, &got) != 0 || got == 0) break;
    sum = crc32c({block.data(), got}, sum);
    pos += got;
  }
  return sum;
}

std::string describe_xattrs(int fd) {
  std::vector<std::string> unread;
  auto xattrs = read_xattrs(fd, &unread);
  std::string text;
  for (const auto& [name, value] : xattrs.value_or(Xattrs{}))
    text += fmt::format(" {}={}:{:08x}", name, value.size(), crc32c(value));
  return text;
}

void describe_dir(int dir, const std::string& above, const std::function<void(const std::string&)>& line) {
  for (const std::string& name : names_in(dir).value_or(std::vector<std::string>{})) {
    Fd fd(openat(dir, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat st {};
    if (!fd || fstat(fd.get(), &st) != 0) {
      line(above + printable(name) + " " + strerrorname_np(errno));
      continue;
    }
    std::string text = above + printable(name) + " " + describe_stat(st);
    if (S_ISREG(st.st_mode)) text += fmt::format(" crc {:08x}", checksum_of(dir, name));
    line(text + describe_xattrs(fd.get()));
    if (!S_ISDIR(st.st_mode)) continue;
    Fd below(openat(dir, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (below) describe_dir(below.get(), above + printable(name) + "/", line);
  }
}

}  // namespace

const std::array<RandomOperations::Choice, 29> RandomOperations::kChoices = {{
    {14, &RandomOperations::do_open},      {4, &RandomOperations::do_close},    {2, &RandomOperations::do_dup},
    {8, &RandomOperations::do_write},      {8, &RandomOperations::do_pwrite},   {5, &RandomOperations::do_append},
    {4, &RandomOperations::do_read},       {4, &RandomOperations::do_pread},    {2, &RandomOperations::do_seek},
    {3, &RandomOperations::do_ftruncate},  {3, &RandomOperations::do_truncate}, {6, &RandomOperations::do_fallocate},
    {4, &RandomOperations::do_copy_range}, {4, &RandomOperations::do_mmap},     {1, &RandomOperations::do_sync},
    {8, &RandomOperations::do_mkdir},      {2, &RandomOperations::do_rmdir},    {6, &RandomOperations::do_unlink},
    {9, &RandomOperations::do_rename},     {5, &RandomOperations::do_link},     {4, &RandomOperations::do_symlink},
    {3, &RandomOperations::do_mknod},      {3, &RandomOperations::do_tmpfile},  {5, &RandomOperations::do_chmod},
    {4, &RandomOperations::do_chown},      {4, &RandomOperations::do_times},    {9, &RandomOperations::do_setxattr},
    {4, &RandomOperations::do_acl},        {1, &RandomOperations::do_umask},
}};

RandomOperations::RandomOperations(int dirfd, std::uint64_t seed)
    : dir_(openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), random_(seed), umask_before_(umask(022)) {
  signal(SIGPIPE, SIG_IGN);  // a FIFO whose reader was closed
}

RandomOperations::~RandomOperations() { umask(umask_before_); }

std::string RandomOperations::step() {
  unsigned total = 0;
  for (const Choice& c : kChoices) total += c.weight;
  auto dice = static_cast<unsigned>(below(total));
  std::size_t i = 0;
  while (dice >= kChoices[i].weight) dice -= kChoices[i++].weight;
  ++step_;
  errno = 0;
  return std::to_string(step_) + " " + (this->*kChoices[i].make)();
}

void RandomOperations::describe(const std::function<void(const std::string&)>& line) const { describe_dir(dir_.get(), "", line); }

// Few names, so that calls meet; `kind` is the usual first letter of its kind, 'f' or 'd'; no "..", so that nothing leads out.
std::string RandomOperations::path(char kind) {
  std::string p;
  for (std::uint64_t depth = below(8); depth > 4; --depth) p += "d" + std::to_string(below(3)) + "/";
  if (below(10) == 0) kind = kind == 'd' ? 'f' : 'd';
  p += kind + std::to_string(below(p.empty() ? 6 : 3));
  if (below(40) == 0) p += "/";
  if (below(100) == 0) p += std::string(256, 'x');
  return p;
}

std::string RandomOperations::bytes(std::size_t n) {
  std::string b(n, '\0');
  std::uint64_t r = random_();
  for (std::size_t i = 0; i < n; ++i) b[i] = static_cast<char>(r >> (i % 8 * 8));
  return b;
}

std::string RandomOperations::outcome(long result) const {
  return result >= 0 ? " = " + std::to_string(result) : std::string(" = -1 ") + strerrorname_np(errno);
}

std::string RandomOperations::after(const std::string& path) const {
  struct stat st {};
  return fstatat(dir_.get(), path.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 ? " [" + describe_stat(st) + "]" : " [none]";
}

std::string RandomOperations::after_fd(int fd) const {
  struct stat st {};
  return fstat(fd, &st) == 0 ? " [" + describe_stat(st) + "]" : " [closed]";
}

std::string RandomOperations::do_open() {
  static constexpr Flag access[] = {{O_RDONLY, "RDONLY"}, {O_WRONLY, "WRONLY"}, {O_RDWR, "RDWR"}, {O_RDWR, "RDWR"}};
  const Flag& a = access[below(std::size(access))];
  int flags = a.bit | O_NONBLOCK | O_CLOEXEC;
  std::string names = a.name;
  for (const Flag& f : kOpenFlags)
    if (below(f.bit == O_CREAT ? 2 : 10) == 0) {
      flags |= f.bit;
      names += std::string("|") + f.name;
    }
  auto mode = static_cast<mode_t>(below(5) == 0 ? below(010000) : 0644);
  std::string p = path();
  int s = slot();
  int fd = openat(dir_.get(), p.c_str(), flags, mode);
  std::string text = fmt::format("open {} {} {:o} @{}{}", p, names, mode, s, outcome(fd < 0 ? -1 : 0));
  if (fd >= 0) put(s, fd);
  return text + after(p);
}

std::string RandomOperations::do_close() {
  int s = slot();
  put(s, -1);
  return fmt::format("close @{}", s);
}

std::string RandomOperations::do_dup() {
  int from = slot(), to = slot();
  int fd = fcntl(fd_of(from), F_DUPFD_CLOEXEC, 0);
  std::string text = fmt::format("dup @{} @{}{}", from, to, outcome(fd < 0 ? -1 : 0));
  put(to, fd);
  return text;
}

std::string RandomOperations::do_write() {
  int s = slot();
  std::string b = bytes(below(9000));
  long r = write(fd_of(s), b.data(), b.size());
  std::string text = fmt::format("write @{} {}{}", s, b.size(), outcome(r));
  return text + after_fd(fd_of(s));
}

std::string RandomOperations::do_pwrite() {
  int s = slot();
  std::string b = bytes(below(20000));
  auto off = static_cast<off_t>(below(kMostOffset));
  long r = pwrite(fd_of(s), b.data(), b.size(), off);
  std::string text = fmt::format("pwrite @{} {} {}{}", s, off, b.size(), outcome(r));
  return text + after_fd(fd_of(s));
}

std::string RandomOperations::do_append() {
  std::string p = path();
  std::string b = bytes(below(5000));
  Fd fd(openat(dir_.get(), p.c_str(), O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC));
  long r = fd ? write(fd.get(), b.data(), b.size()) : -1;
  std::string text = fmt::format("append {} {}{}", p, b.size(), outcome(r));
  return text + after(p);
}

std::string RandomOperations::do_read() {
  int s = slot();
  std::string b(below(20000), '\0');
  long r = read(fd_of(s), b.data(), b.size());
  std::string text = fmt::format("read @{} {}{}", s, b.size(), outcome(r));
  return r < 0 ? text : text + fmt::format(" {:08x}", crc32c({b.data(), static_cast<std::size_t>(r)}));
}

std::string RandomOperations::do_pread() {
  int s = slot();
  std::string b(below(20000), '\0');
  auto off = static_cast<off_t>(below(kMostOffset));
  long r = pread(fd_of(s), b.data(), b.size(), off);
  std::string text = fmt::format("pread @{} {} {}{}", s, off, b.size(), outcome(r));
  return r < 0 ? text : text + fmt::format(" {:08x}", crc32c({b.data(), static_cast<std::size_t>(r)}));
}

std::string RandomOperations::do_seek() {
  int s = slot();
  static constexpr int whences[] = {SEEK_SET, SEEK_CUR};
  int whence = whences[below(2)];
  auto off = static_cast<off_t>(below(kMostOffset / 2));
  struct stat st {};  // the offsets of a directory are the file system's own affair
  bool dir = fstat(fd_of(s), &st) == 0 && S_ISDIR(st.st_mode);
  return fmt::format("lseek @{} {} {}", s, off, whence) + (dir ? " (directory)" : outcome(lseek(fd_of(s), off, whence)));
}

std::string RandomOperations::do_ftruncate() {
  int s = slot();
  auto size = static_cast<off_t>(below(kMostOffset));
  std::string text = fmt::format("ftruncate @{} {}{}", s, size, outcome(ftruncate(fd_of(s), size)));
  return text + after_fd(fd_of(s));
}

std::string RandomOperations::do_truncate() {
  std::string p = path();
  auto size = static_cast<off_t>(below(kMostOffset));
  long r = truncate((proc_path(dir_.get()) + "/" + p).c_str(), size);
  std::string text = fmt::format("truncate {} {}{}", p, size, outcome(r));
  return text + after(p);
}

std::string RandomOperations::do_fallocate() {
  static constexpr int modes[] = {0,
                                  FALLOC_FL_KEEP_SIZE,
                                  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  FALLOC_FL_ZERO_RANGE,
                                  FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                  FALLOC_FL_COLLAPSE_RANGE,
                                  FALLOC_FL_INSERT_RANGE};
  int s = slot();
  int mode = modes[below(std::size(modes))];
  std::uint64_t unit = below(4) == 0 ? 1 : 4096;
  auto off = static_cast<off_t>(below(kMostOffset) / unit * unit);
  auto len = static_cast<off_t>(below(30000) / unit * unit);
  std::string text = fmt::format("fallocate @{} {} {} {}{}", s, mode, off, len, outcome(fallocate(fd_of(s), mode, off, len)));
  return text + after_fd(fd_of(s));
}

std::string RandomOperations::do_copy_range() {
  int from = slot(), to = slot();
  auto a = static_cast<off_t>(below(kMostOffset / 2));
  auto b = static_cast<off_t>(below(kMostOffset / 2));
  std::size_t len = below(30000);
  std::string text = fmt::format("copy_file_range @{} {} @{} {} {}", from, a, to, b, len);
  text += outcome(copy_file_range(fd_of(from), &a, fd_of(to), &b, len, 0));
  return text + after_fd(fd_of(to));
}

std::string RandomOperations::do_mmap() {
  int s = slot();
  std::uint64_t page = below(kMostOffset) / 4096 * 4096;
  std::string b = bytes(1 + below(4096));
  struct stat st {};
  std::string text = fmt::format("mmap @{} {} {}", s, page, b.size());
  if (fstat(fd_of(s), &st) != 0 || !S_ISREG(st.st_mode) || static_cast<std::uint64_t>(st.st_size) <= page)
    return text + " (no page)";
  void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd_of(s), static_cast<off_t>(page));
  if (at == MAP_FAILED) return text + outcome(-1);
  std::memcpy(at, b.data(), std::min<std::size_t>(b.size(), static_cast<std::uint64_t>(st.st_size) - page));
  text += outcome(msync(at, 4096, MS_SYNC));
  munmap(at, 4096);
  return text + after_fd(fd_of(s));
}

std::string RandomOperations::do_sync() {
  int s = slot();
  bool data = below(2) == 0;
  return fmt::format("{} @{}{}", data ? "fdatasync" : "fsync", s, outcome(data ? fdatasync(fd_of(s)) : fsync(fd_of(s))));
}

std::string RandomOperations::do_mkdir() {
  std::string p = path('d');
  auto mode = static_cast<mode_t>(below(4) == 0 ? below(010000) | 0700 : 0755);
  std::string text = fmt::format("mkdir {} {:o}{}", p, mode, outcome(mkdirat(dir_.get(), p.c_str(), mode)));
  return text + after(p);
}

std::string RandomOperations::do_rmdir() {
  std::string p = path('d');
  std::string text = fmt::format("rmdir {}{}", p, outcome(unlinkat(dir_.get(), p.c_str(), AT_REMOVEDIR)));
  return text + after(p);
}

std::string RandomOperations::do_unlink() {
  std::string p = path();
  std::string text = fmt::format("unlink {}{}", p, outcome(unlinkat(dir_.get(), p.c_str(), 0)));
  return text + after(p);
}

std::string RandomOperations::do_rename() {
  static constexpr unsigned flags[] = {
      0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT, RENAME_NOREPLACE | RENAME_EXCHANGE};
  char kind = below(4) == 0 ? 'd' : 'f';
  std::string from = path(kind), to = path(kind);
  unsigned f = flags[below(std::size(flags))];
  std::string text = fmt::format("rename {} {} {}", from, to, f);
  text += outcome(renameat2(dir_.get(), from.c_str(), dir_.get(), to.c_str(), f));
  return text + after(from) + after(to);
}

std::string RandomOperations::do_link() {
  std::string from = path(), to = path();
  int flags = below(3) == 0 ? AT_SYMLINK_FOLLOW : 0;
  std::string text = fmt::format("link {} {} {}", from, to, flags);
  text += outcome(linkat(dir_.get(), from.c_str(), dir_.get(), to.c_str(), flags));
  return text + after(to);
}

std::string RandomOperations::do_symlink() {
  static const std::string targets[] = {
      "f0", "f1", "d0", "d1/f1", "./d2", "nowhere/x", "/nonexistent/x", "", std::string(3000, 't')};
  const std::string& target = targets[below(std::size(targets))];
  std::string p = path();
  std::string text =
      fmt::format("symlink {}.. {}{}", target.substr(0, 20), p, outcome(symlinkat(target.c_str(), dir_.get(), p.c_str())));
  return text + after(p);
}

std::string RandomOperations::do_mknod() {
  static constexpr mode_t kinds[] = {S_IFIFO, S_IFSOCK, S_IFREG, S_IFCHR, S_IFDIR};
  std::string p = path();
  mode_t mode = kinds[below(std::size(kinds))] | static_cast<mode_t>(below(01000));
  std::string text = fmt::format("mknod {} {:o}{}", p, mode, outcome(mknodat(dir_.get(), p.c_str(), mode, makedev(1, 3))));
  return text + after(p);
}

std::string RandomOperations::do_tmpfile() {
  std::string p = path();
  std::string b = bytes(below(3000));
  int s = slot();
  Fd fd(openat(dir_.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640));
  std::string text = fmt::format("tmpfile {} {} @{}{}", p, b.size(), s, outcome(fd ? write(fd.get(), b.data(), b.size()) : -1));
  if (!fd) return text;
  text += outcome(linkat(AT_FDCWD, proc_path(fd.get()).c_str(), dir_.get(), p.c_str(), AT_SYMLINK_FOLLOW));
  put(s, fd.release());
  return text + after_fd(fd_of(s)) + after(p);
}

std::string RandomOperations::do_chmod() {
  auto mode = static_cast<mode_t>(below(010000));
  if (below(3) == 0) {
    int s = slot();
    std::string text = fmt::format("fchmod @{} {:o}{}", s, mode, outcome(fchmod(fd_of(s), mode)));
    return text + after_fd(fd_of(s));
  }
  std::string p = path(below(3) == 0 ? 'd' : 'f');
  std::string text = fmt::format("chmod {} {:o}{}", p, mode, outcome(fchmodat(dir_.get(), p.c_str(), mode, 0)));
  return text + after(p);
}

std::string RandomOperations::do_chown() {
  uid_t uid = kOwners[below(std::size(kOwners))];
  gid_t gid = kOwners[below(std::size(kOwners))];
  std::string p = path(below(3) == 0 ? 'd' : 'f');
  int flags = below(2) == 0 ? AT_SYMLINK_NOFOLLOW : 0;
  std::string text = fmt::format("chown {} {} {} {}", p, static_cast<int>(uid), static_cast<int>(gid), flags);
  text += outcome(fchownat(dir_.get(), p.c_str(), uid, gid, flags));
  return text + after(p);
}

std::string RandomOperations::do_times() {
  std::string p = path(below(3) == 0 ? 'd' : 'f');
  timespec both[2] = {{static_cast<time_t>(below(4000000000u)), static_cast<long>(below(1000000000))},
                      {static_cast<time_t>(below(4000000000u)), static_cast<long>(below(1000000000))}};
  bool omit = below(4) == 0;
  if (omit) both[1].tv_nsec = UTIME_OMIT;
  std::string text = fmt::format("utimensat {}{}", p, omit ? " omit" : "");
  int r = utimensat(dir_.get(), p.c_str(), both, AT_SYMLINK_NOFOLLOW);
  text += outcome(r);
  struct stat st {};
  if (r == 0 && !omit && fstatat(dir_.get(), p.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0)
    text += fmt::format(" [{}.{:09}]", st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
  return text;
}

std::string RandomOperations::do_setxattr() {
  static constexpr const char* names[] = {"user.a", "user.b", "user.c", "trusted.somfs-test", "security.somfs-test", "unknown.x"};
  static constexpr int modes[] = {0, 0, XATTR_CREATE, XATTR_REPLACE};
  std::string name = names[below(std::size(names))];
  int flags = modes[below(std::size(modes))];
  std::string value = bytes(below(600));
  bool remove = below(4) == 0;
  std::string p = path(below(3) == 0 ? 'd' : 'f');
  Fd fd(openat(dir_.get(), p.c_str(), O_PATH | O_CLOEXEC));
  Xattrs there = fd ? read_xattrs(fd.get()).value_or(Xattrs{}) : Xattrs{};
  if (remove && !there.empty()) name = there.front().first;
  std::string text = fmt::format("{} {} {} {} {}", remove ? "removexattr" : "setxattr", p, name, value.size(), flags);
  if (!fd) return text + outcome(-1);
  std::string at = proc_path(fd.get());
  text += outcome(remove ? removexattr(at.c_str(), name.c_str())
                         : setxattr(at.c_str(), name.c_str(), value.data(), value.size(), flags));
  return text + describe_xattrs(fd.get());
}

std::string RandomOperations::do_acl() {
  const char* name = below(3) == 0 ? "system.posix_acl_default" : "system.posix_acl_access";
  auto bits = [&] { return static_cast<std::uint16_t>(below(8)); };
  std::string value = acl_bytes({{acl::user_obj, bits()},
                                 {acl::user, bits(), 1000},
                                 {acl::group_obj, bits()},
                                 {acl::group, bits(), 65534},
                                 {acl::mask, bits()},
                                 {acl::other, bits()}});
  if (below(10) == 0) value.resize(below(value.size()));  // malformed
  std::string p = path(below(3) == 0 ? 'd' : 'f');
  Fd fd(openat(dir_.get(), p.c_str(), O_PATH | O_CLOEXEC));
  std::string text = fmt::format("setxattr {} {} {:08x}", p, name, crc32c(value));
  if (!fd) return text + outcome(-1);
  text += outcome(setxattr(proc_path(fd.get()).c_str(), name, value.data(), value.size(), 0));
  return text + after_fd(fd.get()) + describe_xattrs(fd.get());
}

std::string RandomOperations::do_umask() {
  static constexpr mode_t masks[] = {0, 022, 027, 077};
  mode_t mask = masks[below(std::size(masks))];
  umask(mask);
  return fmt::format("umask {:o}", mask);
}

}  // namespace somfs::tools
