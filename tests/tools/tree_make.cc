// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/tree_make.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <random>

#include "common/fd.h"
#include "common/printable.h"
#include "tests/tools/acl.h"

namespace somfs::tools {
namespace {

constexpr std::uint64_t kFilesPerDir = 100;

// What fails throws a Result's Error; make_tree turns it into one.
class Maker {
 public:
  explicit Maker(std::uint64_t seed) : random_(seed) {}

  using Fill = std::function<void(int)>;

  void file(int dir, const std::string& name, std::uint64_t size) {
    Fd fd = create(dir, name);
    for (std::uint64_t pos = 0; pos < size;) {
      std::string bytes = block(std::min<std::uint64_t>(size - pos, 1 << 16));
      must(pwrite_all(fd.get(), bytes, pos), name);
      pos += bytes.size();
    }
    finish(fd.get(), name);
  }

  void sparse_file(int dir, const std::string& name) {
    Fd fd = create(dir, name);
    std::uint64_t size = below(1u << 30) + 1;
    must(ftruncate(fd.get(), static_cast<off_t>(size)) == 0 ? 0 : errno, name);
    for (std::uint64_t left = below(8); left > 0; --left) {
      std::uint64_t off = below(size);
      must(pwrite_all(fd.get(), block(std::min<std::uint64_t>(below(65536) + 1, size - off)), off), name);
    }
    finish(fd.get(), name);
  }

  // Makes the directory, fills it, and sets its times when nothing more will change in it.
  void dir(int parent, const std::string& name, const Fill& fill, mode_t mode = 0755) {
    must(mkdirat(parent, name.c_str(), 0755) == 0 ? 0 : errno, name);
    Fd fd(openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    must(fd ? 0 : errno, name);
    fill(fd.get());
    must(fchmod(fd.get(), mode) == 0 ? 0 : errno, name);
    stamp(fd.get());
  }

  void symlink(int dir, const std::string& name, const std::string& target) {
    must(symlinkat(target.c_str(), dir, name.c_str()) == 0 ? 0 : errno, name);
    stamp_at(dir, name);
  }

  void node(int dir, const std::string& name, mode_t mode, dev_t device = 0) {
    if ((S_ISCHR(mode) || S_ISBLK(mode)) && geteuid() != 0) return;
    must(mknodat(dir, name.c_str(), mode, device) == 0 ? 0 : errno, name);
    must(fchmodat(dir, name.c_str(), mode & 07777, 0) == 0 ? 0 : errno, name);
    stamp_at(dir, name);
  }

  void link(int from, const std::string& name, int to, const std::string& other) {
    must(linkat(from, name.c_str(), to, other.c_str(), 0) == 0 ? 0 : errno, other);
  }

  void set_xattr(int dir, const std::string& name, const std::string& key, const std::string& value) {
    if (key.starts_with("trusted.") && geteuid() != 0) return;
    Fd fd(openat(dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    must(fd && fsetxattr(fd.get(), key.c_str(), value.data(), value.size(), 0) == 0 ? 0 : errno, name + " " + key);
  }

  void owner(int dir, const std::string& name, uid_t uid, gid_t gid) {
    if (geteuid() != 0) return;
    must(fchownat(dir, name.c_str(), uid, gid, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno, name);
  }

  void mode(int dir, const std::string& name, mode_t mode) { must(fchmodat(dir, name.c_str(), mode, 0) == 0 ? 0 : errno, name); }

  void time(int dir, const std::string& name, std::int64_t sec, long nsec) {
    timespec both[2] = {{sec, nsec}, {sec, nsec}};
    must(utimensat(dir, name.c_str(), both, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno, name);
  }

  std::uint64_t below(std::uint64_t n) { return random_() % n; }

 private:
  static void must(int error, const std::string& on) {
    if (error != 0) throw fail_errno("cannot make", printable(on), error).value();
  }

  Fd create(int dir, const std::string& name) {
    Fd fd(openat(dir, name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    must(fd ? 0 : errno, name);
    return fd;
  }

  void finish(int fd, const std::string& name) {
    static constexpr mode_t modes[] = {0644, 0644, 0644, 0600, 0755, 0400, 0666};
    must(fchmod(fd, modes[below(std::size(modes))]) == 0 ? 0 : errno, name);
    stamp(fd);
  }

  timespec moment() { return {static_cast<time_t>(946684800 + below(800000000)), static_cast<long>(below(1000000000))}; }
  void stamp(int fd) {
    timespec t = moment();
    timespec both[2] = {t, t};
    must(futimens(fd, both) == 0 ? 0 : errno, "times");
  }
  void stamp_at(int dir, const std::string& name) {
    timespec t = moment();
    time(dir, name, t.tv_sec, t.tv_nsec);
  }

  // Every other block is text that compresses about 4:1, the rest is noise.
  std::string block(std::size_t n) {
    std::string bytes;
    bytes.reserve(n + 16);
    bool text = (random_() & 1) != 0;
    while (bytes.size() < n) {
      std::uint64_t r = random_();
      if (text)
        bytes += "record " + std::to_string(r % 1000) + " of the log\n";
      else
        bytes.append(reinterpret_cast<const char*>(&r), sizeof r);
    }
    bytes.resize(n);
    return bytes;
  }

  std::mt19937_64 random_;
};

void make_deep(Maker& m, int at, const std::string& name, int levels) {
  if (levels == 0) return m.file(at, "bottom", 100);
  m.dir(at, name, [&](int below) { make_deep(m, below, name, levels - 1); });
}

void make_odd_names(Maker& m, int at) {
  for (const std::string& name :
       {std::string("newline\nin it"), std::string("\xff\xfe not UTF-8"), std::string("tab\tescape\x1b[31m"),
        std::string(" blank "), std::string("-rf"), std::string("back\\slash"), std::string("*?[x]"), std::string("..."),
        std::string(255, 'n'), std::string(254, '\xc3') + "\x01"})
    m.file(at, name, m.below(3000));
  m.dir(at, "dir\nwith newline", [&](int in) { m.file(in, "'\"$(x)`", 10); });
}

void make_odd_kinds(Maker& m, int at) {
  m.node(at, "fifo", S_IFIFO | 0640);
  m.node(at, "socket", S_IFSOCK | 0700);
  m.node(at, "null", S_IFCHR | 0666, makedev(1, 3));
  m.node(at, "block", S_IFBLK | 0660, makedev(250, 70000));
  m.symlink(at, "dangling", "/nonexistent/\xff");
  m.symlink(at, "to dir", ".");
  m.symlink(at, "long", std::string(4000, 'x'));
  m.symlink(at, "loop", "loop");
  m.symlink(at, "up", "../../../../../../etc/passwd");
  m.owner(at, "dangling", 12345, 54321);
  m.dir(at, "empty", [](int) {});
  m.dir(
      at, "sticky", [](int) {}, 01777);
  m.dir(
      at, "set-gid", [](int) {}, 02775);
  m.dir(
      at, "closed", [&](int in) { m.file(in, "inside", 10); }, 0000);
}

void make_odd_attributes(Maker& m, int at) {
  for (const char* name : {"set-uid", "owned", "before 1970", "far", "no mode", "xattrs", "acl"}) m.file(at, name, m.below(9000));
  m.owner(at, "owned", 4000000000u, 1001);
  m.owner(at, "set-uid", 1000, 1000);
  m.mode(at, "set-uid", 06755);
  m.mode(at, "no mode", 0);
  m.set_xattr(at, "xattrs", "user.empty", "");
  m.set_xattr(at, "xattrs", "user.bytes", std::string("\0\xff\n", 3));
  m.set_xattr(at, "xattrs", "user.large", std::string(2000, 'v'));
  m.set_xattr(at, "xattrs", "trusted.somfs-test", "t");
  m.set_xattr(at, "acl", "system.posix_acl_access",
              acl_bytes({{acl::user_obj, 6}, {acl::user, 4, 1234}, {acl::group_obj, 4}, {acl::mask, 6}, {acl::other, 0}}));
  m.dir(at, "acl dir", [](int) {});
  m.set_xattr(at, "acl dir", "system.posix_acl_default",
              acl_bytes({{acl::user_obj, 7}, {acl::group_obj, 5}, {acl::group, 5, 77}, {acl::mask, 5}, {acl::other, 0}}));
  m.time(at, "before 1970", -1, 999999999);
  m.time(at, "far", 4102444800, 1);
}

void make_odd(Maker& m, int top) {
  m.dir(top, "names", [&](int at) { make_odd_names(m, at); });
  m.dir(top, "kinds", [&](int at) { make_odd_kinds(m, at); });
  m.dir(top, "attributes", [&](int at) { make_odd_attributes(m, at); });
  m.dir(top, "links", [&](int at) {
    m.file(at, "one", 5000);
    m.link(at, "one", at, "two");
    m.dir(at, "elsewhere", [&](int in) { m.link(at, "one", in, "three"); });
    m.symlink(at, "soft", "one");
    m.link(at, "soft", at, "soft too");
    m.node(at, "pipe", S_IFIFO | 0600);
    m.link(at, "pipe", at, "pipe too");
  });
  m.dir(top, "holes", [&](int at) {
    for (int i = 0; i < 4; ++i) m.sparse_file(at, std::to_string(i));
  });
  m.dir(top, "long path", [&](int at) { make_deep(m, at, std::string(255, 'd'), 24); });
  m.dir(top, "deep", [&](int at) { make_deep(m, at, "d", 200); });
}

void make_one(Maker& m, int at, const std::string& name, Profile profile, const std::string& before) {
  switch (profile) {
    case Profile::odd:
    case Profile::small:
      return m.file(at, name, 1024 + m.below(7 * 1024));
    case Profile::big:
      return m.file(at, name, (4u << 20) + m.below(28u << 20));
    case Profile::sparse:
      return m.sparse_file(at, name);
    case Profile::mixed:
      break;
  }
  std::uint64_t chance = m.below(100);
  if (chance < 4 && !before.empty()) return m.link(at, before, at, name);
  if (chance < 8) return m.symlink(at, name, before.empty() ? "." : before);
  if (chance < 10) return m.sparse_file(at, name);
  m.file(at, name, chance < 75 ? m.below(16 << 10) : chance < 98 ? m.below(256 << 10) : m.below(4 << 20));
  if (chance < 20) m.set_xattr(at, name, "user.somfs-test", std::to_string(chance));
}

}  // namespace

Status make_tree(const std::string& dir, std::uint64_t seed, std::uint64_t files, Profile profile) {
  Fd top(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!top) return fail_errno("cannot open", printable(dir));
  mode_t mask = umask(0);
  Status done;
  try {
    Maker m(seed);
    if (profile == Profile::odd) make_odd(m, top.get());
    for (std::uint64_t made = 0; made < files;) {
      m.dir(top.get(), "d" + std::to_string(made / kFilesPerDir), [&](int at) {
        std::string before;
        for (std::uint64_t end = std::min(files, made + kFilesPerDir); made < end; ++made) {
          std::string name = "f" + std::to_string(made);
          make_one(m, at, name, profile, before);
          before = name;
        }
      });
    }
    timespec both[2] = {{1000000000, 0}, {1000000000, 0}};
    futimens(top.get(), both);
  } catch (const Error& e) {
    done = pass_on(e);
  }
  umask(mask);
  return done;
}

}  // namespace somfs::tools
