// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/snapshot/store_harness.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>

#include <fmt/format.h>

#include "common/printable.h"
#include "snapshot/store_impl.h"

namespace somfs::snapshot::test {

std::string describe_difference(const Tree& want, const Tree& got) {
  std::string out;
  auto say = [&](const std::string& path, const std::string& what) { out += printable(path) + ": " + what + "\n"; };
  for (const auto& [path, w] : want) {
    auto at = got.find(path);
    if (at == got.end()) {
      say(path, "missing");
      continue;
    }
    const Seen1& g = at->second;
    if (w.id != g.id) say(path, "another object");
    if (w.attr != g.attr)
      say(path, fmt::format("attributes: mode {:o}/{:o} size {}/{} nlink {}/{} mtime {}.{}/{}.{}",
                            w.attr.mode, g.attr.mode, w.attr.size,
                            g.attr.size, w.attr.nlink, g.attr.nlink, w.attr.mtime.sec, w.attr.mtime.nsec, g.attr.mtime.sec,
                            g.attr.mtime.nsec));
    if (w.xattrs != g.xattrs) say(path, "extended attributes");
    if (w.content != g.content) {
      std::size_t i = 0;
      while (i < w.content.size() && i < g.content.size() && w.content[i] == g.content[i]) ++i;
      say(path, fmt::format("content from byte {}", i));
    }
  }
  for (const auto& [path, g] : got)
    if (!want.contains(path)) say(path, "should not be there");
  return out;
}

Volume::Volume(std::string beneath) {
  const char* t = std::getenv("TMPDIR");
  if (beneath.empty()) beneath = t != nullptr ? t : "/tmp";
  base = beneath + "/somfs-store-XXXXXX";
  if (::mkdtemp(base.data()) == nullptr) throw std::runtime_error("mkdtemp " + base);
  ::mkdir((base + "/v").c_str(), 0755);
  ::mkdir((base + "/v/.somfs").c_str(), 0755);
  ::mkdir((base + "/v/.somfs/store").c_str(), 0755);
  root = Fd(::open((base + "/v").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  dir = Fd(::open((base + "/v/.somfs/store").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

Volume::~Volume() {
  store.reset();
  std::function<void(int)> clear = [&](int fd) {
    for (const std::string& n : names_in(fd)) {
      Fd sub(::openat(fd, n.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (sub && ::fchmod(sub.get(), 0700) == 0) clear(sub.get());
      ::unlinkat(fd, n.c_str(), sub ? AT_REMOVEDIR : 0);
    }
  };
  Fd top(::open(base.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  clear(top.get());
  ::rmdir(base.c_str());
}

void Volume::open_store(Store::Options options, const Uuid& boot) {
  auto s = Store::open(dir.get(), root.get(), boot, clock, std::move(options));
  if (!s) throw std::runtime_error(s.error().line());
  store = std::move(*s);
}

void Volume::snapshot(const std::string& name, std::uint64_t epoch) {
  SnapshotInfo info;
  info.name = name;
  if (auto s = store->prepare(info); !s) throw std::runtime_error(s.error().line());
  if (auto s = store->take(name, epoch); !s) throw std::runtime_error(s.error().line());
}

Tree Volume::live() const {
  Tree out;
  std::function<void(const std::string&, int)> walk = [&](const std::string& path, int fd) {
    auto inode = inode_of(fd).value();
    Seen1 s{inode.id, inode.attr, read_xattrs(fd).value(), {}};
    s.attr.ctime = {};
    if (store) s.attr.nlink -= store->own_links(inode.id);
    if (s.attr.kind == Kind::file) {
      Fd file(::open(proc_path(fd).c_str(), O_RDONLY | O_CLOEXEC));
      s.content.resize(s.attr.size);
      std::size_t got = 0;
      pread_all(file.get(), s.content.data(), s.content.size(), 0, &got);
    } else if (s.attr.kind == Kind::symlink) {
      s.content.resize(s.attr.size);
      if (::readlinkat(fd, "", s.content.data(), s.content.size()) < 0) throw std::runtime_error("readlink");
    }
    Kind kind = s.attr.kind;
    out[path] = std::move(s);
    if (kind != Kind::dir) return;
    for (const std::string& n : names_in(fd)) {
      if (path.empty() && n == ".somfs") continue;
      Fd child(::openat(fd, n.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
      walk(path + "/" + n, child.get());
    }
  };
  walk("", root.get());
  return out;
}

Result<Tree> Volume::capture(View& v) {
  Tree out;
  std::function<Status(const std::string&, ViewFile)> walk = [&](const std::string& path, ViewFile f) -> Status {
    Seen1 s{f.ref().id, f.attr(), {}, {}};
    s.attr.ctime = {};
    SOMFS_TRY_ASSIGN(s.xattrs, f.xattrs());
    if (s.attr.kind == Kind::file) {
      s.content.resize(s.attr.size + 10);
      SOMFS_TRY_ASSIGN(std::size_t got, f.read(s.content.data(), s.content.size(), 0));
      s.content.resize(got);
      // What next_data() calls a hole has to read as zeroes.
      std::uint64_t at = 0;
      while (at < s.attr.size) {
        SOMFS_TRY_ASSIGN(auto data, f.next_data(at));
        std::uint64_t start = data ? data->off : s.attr.size;
        if (s.content.find_first_not_of('\0', at) < start) return fail(Exit::differs, "data in a hole", path);
        at = data ? data->end() : s.attr.size;
      }
    } else if (s.attr.kind == Kind::symlink) {
      SOMFS_TRY_ASSIGN(s.content, f.link_target());
    }
    Kind kind = s.attr.kind;
    out[path] = std::move(s);
    if (kind != Kind::dir) return {};
    SOMFS_TRY_ASSIGN(auto entries, v.list(f));
    for (const ViewEntry& e : entries) {
      SOMFS_TRY_ASSIGN(auto found, v.lookup(f, e.name));
      if (!found || found->id != e.ref.id) return fail(Exit::differs, "listed but not found", path + "/" + e.name);
      SOMFS_TRY_ASSIGN(ViewFile child, v.open_in(f, e));
      SOMFS_TRY(walk(path + "/" + e.name, std::move(child)));
    }
    return {};
  };
  SOMFS_TRY_ASSIGN(ViewFile top, v.root());
  SOMFS_TRY(walk("", std::move(top)));
  return out;
}

Result<Tree> Volume::view(const std::string& name) const {
  SOMFS_TRY_ASSIGN(auto v, View::open(root.get(), dir.get(), name));
  return capture(*v);
}

Volume::Place Volume::place(const std::string& path) const {
  Place p;
  std::size_t slash = path.rfind('/');
  p.name = path.substr(slash + 1);
  std::string parent = slash == 0 ? "." : path.substr(1, slash - 1);
  p.parent = Fd(::openat(root.get(), parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!p.parent) return p;
  p.parent_id = inode_of(p.parent.get()).value().id;
  p.child = Fd(::openat(p.parent.get(), p.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (p.child) p.inode = inode_of(p.child.get()).value();
  return p;
}

void Volume::before(const Place& p, bool may_be_last) {
  Handle h = p.child ? handle_of(p.child.get()) : Handle();
  bool last = may_be_last && p.child && p.inode.attr.nlink - store->own_links(p.inode.id) <= 1;
  store->before_name(p.parent_id, p.parent.get(), p.name, p.inode.id, p.child ? &h : nullptr, p.child.get(), last);
}

void Volume::create(const std::string& path, const std::string& content) {
  Place p = place(path);
  if (!p.parent || p.child) return;
  before(p, false);
  Fd(::openat(p.parent.get(), p.name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)).reset();
  if (!content.empty()) write(path, 0, content);
}

void Volume::mkdir(const std::string& path) {
  Place p = place(path);
  if (!p.parent || p.child) return;
  before(p, false);
  ::mkdirat(p.parent.get(), p.name.c_str(), 0755);
}

void Volume::symlink(const std::string& path, const std::string& target) {
  Place p = place(path);
  if (!p.parent || p.child) return;
  before(p, false);
  if (::symlinkat(target.c_str(), p.parent.get(), p.name.c_str()) != 0) return;
}

void Volume::mknod(const std::string& path, unsigned mode) {
  Place p = place(path);
  if (!p.parent || p.child) return;
  before(p, false);
  ::mknodat(p.parent.get(), p.name.c_str(), mode, 0);
}

namespace {
Fd open_rw(int fd) { return Fd(::open(proc_path(fd).c_str(), O_RDWR | O_CLOEXEC)); }
}  // namespace

void Volume::write(const std::string& path, std::uint64_t off, const std::string& bytes) {
  Place p = place(path);
  if (!p.child || p.inode.attr.kind != Kind::file) return;
  Fd fd = open_rw(p.child.get());
  if (!fd) return;
  store->before_attr(p.inode.id, fd.get());
  store->before_data(p.inode.id, fd.get(), {off, bytes.size()});
  if (int e = pwrite_all(fd.get(), bytes, off); e != 0) throw std::runtime_error("the write failed");
}

void Volume::truncate(const std::string& path, std::uint64_t size) {
  Place p = place(path);
  if (!p.child || p.inode.attr.kind != Kind::file) return;
  Fd fd = open_rw(p.child.get());
  if (!fd) return;
  store->before_attr(p.inode.id, fd.get());
  store->before_data(p.inode.id, fd.get(), {size, ~0ull});
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) throw std::runtime_error("the truncation failed");
}

void Volume::punch(const std::string& path, std::uint64_t off, std::uint64_t len) {
  Place p = place(path);
  if (!p.child || p.inode.attr.kind != Kind::file || len == 0) return;
  Fd fd = open_rw(p.child.get());
  if (!fd) return;
  store->before_attr(p.inode.id, fd.get());
  store->before_data(p.inode.id, fd.get(), {off, len});
  ::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(off), static_cast<off_t>(len));
}

void Volume::chmod(const std::string& path, unsigned mode) {
  Place p = place(path);
  if (!p.child || p.inode.attr.kind == Kind::symlink) return;
  store->before_attr(p.inode.id, p.child.get());
  ::fchmodat(p.parent.get(), p.name.c_str(), mode, 0);
}

void Volume::touch(const std::string& path, std::int64_t seconds) {
  Place p = place(path);
  if (!p.child) return;
  store->before_attr(p.inode.id, p.child.get());
  timespec t[2] = {{seconds, 1}, {seconds, 2}};
  ::utimensat(p.parent.get(), p.name.c_str(), t, AT_SYMLINK_NOFOLLOW);
}

void Volume::set_xattr(const std::string& path, const std::string& name, const std::string& value) {
  Place p = place(path);
  if (!p.child || (p.inode.attr.kind != Kind::file && p.inode.attr.kind != Kind::dir)) return;
  store->before_attr(p.inode.id, p.child.get());
  std::string proc = proc_path(p.child.get());
  if (value.empty()) ::removexattr(proc.c_str(), name.c_str());
  else ::setxattr(proc.c_str(), name.c_str(), value.data(), value.size(), 0);
}

void Volume::unlink(const std::string& path, bool is_dir) {
  Place p = place(path);
  if (!p.child || is_dir != (p.inode.attr.kind == Kind::dir)) return;
  before(p, true);
  ::unlinkat(p.parent.get(), p.name.c_str(), is_dir ? AT_REMOVEDIR : 0);
}

void Volume::rename(const std::string& from, const std::string& to, unsigned flags) {
  Place a = place(from), b = place(to);
  if (!a.child || !b.parent) return;
  before(a, false);
  before(b, (flags & RENAME_EXCHANGE) == 0);
  ::renameat2(a.parent.get(), a.name.c_str(), b.parent.get(), b.name.c_str(), flags);
}

void Volume::link(const std::string& from, const std::string& to) {
  Place a = place(from), b = place(to);
  if (!a.child || !b.parent || b.child || a.inode.attr.kind == Kind::dir) return;
  store->before_attr(a.inode.id, a.child.get());
  before(b, false);
  if (::linkat(a.parent.get(), a.name.c_str(), b.parent.get(), b.name.c_str(), 0) != 0) return;
}

void Volume::tmpfile_linked(const std::string& path, const std::string& content) {
  Place p = place(path);
  if (!p.parent || p.child) return;
  Fd fd(::openat(p.parent.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0640));
  if (!fd) return;
  ObjectId id = inode_of(fd.get()).value().id;
  store->before_attr(id, fd.get());
  store->before_data(id, fd.get(), {0, content.size()});
  write_all(fd.get(), content);
  store->before_attr(id, fd.get());
  before(p, false);
  if (::linkat(AT_FDCWD, proc_path(fd.get()).c_str(), p.parent.get(), p.name.c_str(), AT_SYMLINK_FOLLOW) != 0) return;
}

std::vector<std::string> Volume::paths() const {
  std::vector<std::string> out;
  std::function<void(const std::string&, int)> walk = [&](const std::string& path, int fd) {
    for (const std::string& n : names_in(fd)) {
      if (path.empty() && n == ".somfs") continue;
      out.push_back(path + "/" + n);
      Fd sub(::openat(fd, n.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (sub) walk(path + "/" + n, sub.get());
    }
  };
  walk("", root.get());
  return out;
}

void Volume::random_step(std::mt19937_64& rng) {
  auto below = [&](std::uint64_t n) { return rng() % n; };
  std::vector<std::string> all = paths();
  auto any = [&] { return all.empty() ? std::string("/none") : all[below(all.size())]; };
  auto fresh = [&] {
    // Few names, so that they are used again and again; in an existing directory.
    std::string parent;
    for (int i = 0; i < 4 && parent.empty() && !all.empty(); ++i) {
      std::string p = any();
      Place at = place(p);
      if (at.child && at.inode.attr.kind == Kind::dir && below(2) == 0) parent = p;
    }
    return parent + "/" + static_cast<char>('a' + below(8));
  };
  auto bytes = [&](std::size_t n) {
    std::string s(n, static_cast<char>('A' + below(26)));
    for (std::size_t i = 0; i < n; i += 997) s[i] = static_cast<char>(rng());
    return s;
  };
  auto size = [&] { return below(4) == 0 ? below(300000) : below(5000); };
  switch (below(20)) {
    case 0: case 1: create(fresh(), bytes(size())); break;
    case 2: case 3: mkdir(fresh()); break;
    case 4: symlink(fresh(), bytes(1 + below(80)).substr(0, 1) + "target"); break;
    case 5: mknod(fresh(), S_IFIFO | 0600); break;
    case 6: case 7: write(any(), below(3) == 0 ? below(400000) : below(5000), bytes(1 + size())); break;
    case 8: truncate(any(), below(2) == 0 ? 0 : below(300000)); break;
    case 9: punch(any(), below(200000), below(200000)); break;
    case 10: chmod(any(), static_cast<unsigned>(0500 | below(0200))); break;
    case 11: touch(any(), static_cast<std::int64_t>(below(2000000000))); break;
    case 12: set_xattr(any(), below(2) == 0 ? "user.x" : "user.y", below(3) == 0 ? "" : bytes(1 + below(50))); break;
    case 13: unlink(any()); break;
    case 14: unlink(any(), true); break;
    case 15: case 16: rename(any(), below(2) == 0 ? any() : fresh()); break;
    case 17: rename(any(), any(), RENAME_EXCHANGE); break;
    case 18: link(any(), fresh()); break;
    case 19: tmpfile_linked(fresh(), bytes(size())); break;
  }
}

}  // namespace somfs::snapshot::test
