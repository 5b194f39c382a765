// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/tree_compare.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "common/fd.h"
#include "common/printable.h"
#include "tests/tools/tree_walk.h"

namespace somfs::tools {
namespace {

constexpr std::size_t kBlock = 1 << 18;

// The first byte at or after `from` that is not in a hole; `size` when there is none.
std::uint64_t next_data(int fd, std::uint64_t from, std::uint64_t size) {
  off_t at = lseek(fd, static_cast<off_t>(from), SEEK_DATA);
  return at >= 0 ? static_cast<std::uint64_t>(at) : errno == ENXIO ? size : from;
}

std::string link_target(int path_fd) {
  std::string target(1 << 12, '\0');
  ssize_t n = readlinkat(path_fd, "", target.data(), target.size());
  target.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
  return target;
}

class Comparison {
 public:
  explicit Comparison(const CompareOptions& options) : options_(options) {}

  Status run(const std::string& a, const std::string& b) {
    Fd at_a(open(a.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!at_a) return fail_errno("cannot open", printable(a));
    Fd at_b(open(b.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!at_b) return fail_errno("cannot open", printable(b));
    path_ = ".";
    SOMFS_TRY(attributes(at_a.get(), at_b.get()).map([](Kind) {}));
    path_.clear();
    std::vector<Frame> above;
    SOMFS_TRY_ASSIGN(Frame frame, enter(at_a.get(), at_b.get(), true));
    // Down by opening a child, up by "..": the frames keep names only.
    while (found_.size() < options_.most) {
      if (frame.next == frame.names.size()) {
        if (above.empty()) break;
        at_a = Fd(openat(at_a.get(), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        at_b = Fd(openat(at_b.get(), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!at_a || !at_b) return fail_errno("cannot go up from", printable(frame.path));
        frame = std::move(above.back());
        above.pop_back();
        continue;
      }
      const std::string& name = frame.names[frame.next++];
      path_ = frame.path.empty() ? name : frame.path + "/" + name;
      Fd a_fd(openat(at_a.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
      Fd b_fd(openat(at_b.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
      if (!a_fd || !b_fd) {
        differs(!a_fd ? "only in the second" : "only in the first");
        continue;
      }
      SOMFS_TRY_ASSIGN(Kind both, attributes(a_fd.get(), b_fd.get()));
      if (both == Kind::file) SOMFS_TRY(contents(at_a.get(), at_b.get(), name));
      if (both != Kind::dir) continue;
      at_a = Fd(openat(at_a.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      at_b = Fd(openat(at_b.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!at_a || !at_b) return fail_errno("cannot open", printable(path_));
      above.push_back(std::move(frame));
      SOMFS_TRY_ASSIGN(frame, enter(at_a.get(), at_b.get(), false));
    }
    return {};
  }
  std::vector<Difference> take() { return std::move(found_); }

 private:
  struct Frame {
    std::string path;
    std::vector<std::string> names;  // of both sides
    std::size_t next = 0;
  };

  void differs(std::string what) { found_.push_back({path_, std::move(what)}); }
  bool wants(const char* what) const { return !options_.ignore.contains(what); }

  Result<Frame> enter(int a, int b, bool top) {
    SOMFS_TRY_ASSIGN(std::vector<std::string> of_a, names_in(a));
    SOMFS_TRY_ASSIGN(std::vector<std::string> of_b, names_in(b));
    Frame frame{path_, {}, 0};
    std::set_union(of_a.begin(), of_a.end(), of_b.begin(), of_b.end(), std::back_inserter(frame.names));
    if (top) std::erase_if(frame.names, [&](const std::string& name) { return options_.skip.contains(name); });
    return frame;
  }

  // Returns the kind when it is the same on both sides, else none.
  Result<Kind> attributes(int a_fd, int b_fd) {
    SOMFS_TRY_ASSIGN(Inode a, inode_of(a_fd));
    SOMFS_TRY_ASSIGN(Inode b, inode_of(b_fd));
    Kind kind = a.attr.kind;
    if (kind != b.attr.kind) {
      differs(fmt::format("kind {} / {}", static_cast<int>(a.attr.kind), static_cast<int>(b.attr.kind)));
      return Kind::none;
    }
    if (wants("mode") && a.attr.mode != b.attr.mode) differs(fmt::format("mode {:o} / {:o}", a.attr.mode, b.attr.mode));
    if (wants("owner") && (a.attr.uid != b.attr.uid || a.attr.gid != b.attr.gid))
      differs(fmt::format("owner {}:{} / {}:{}", a.attr.uid, a.attr.gid, b.attr.uid, b.attr.gid));
    if ((kind == Kind::chr || kind == Kind::blk) && a.attr.rdev != b.attr.rdev)
      differs(fmt::format("device {:x} / {:x}", a.attr.rdev, b.attr.rdev));
    if (kind == Kind::file && a.attr.size != b.attr.size) differs(fmt::format("size {} / {}", a.attr.size, b.attr.size));
    if (wants("mtime") && (kind != Kind::dir || wants("dir-mtime")) && a.attr.mtime != b.attr.mtime)
      differs(fmt::format("mtime {}.{:09} / {}.{:09}", a.attr.mtime.sec, a.attr.mtime.nsec, b.attr.mtime.sec, b.attr.mtime.nsec));
    if (kind == Kind::symlink && link_target(a_fd) != link_target(b_fd))
      differs(fmt::format("target {} / {}", printable(link_target(a_fd)), printable(link_target(b_fd))));
    if (kind != Kind::dir && wants("links")) hard_links(a, b);
    if (wants("xattrs")) SOMFS_TRY(xattrs(a_fd, b_fd));
    return kind;
  }

  // Names are hard links to one another when the first name seen of their inode is the same.
  void hard_links(const Inode& a, const Inode& b) {
    const std::string& first_a = first_a_.try_emplace({a.dev, a.id.ino}, path_).first->second;
    const std::string& first_b = first_b_.try_emplace({b.dev, b.id.ino}, path_).first->second;
    if (first_a == first_b) return;
    auto tell = [&](const std::string& first) { return first == path_ ? std::string("none before") : printable(first); };
    differs(fmt::format("hard link to {} / {}", tell(first_a), tell(first_b)));
  }

  Status xattrs(int a_fd, int b_fd) {
    SOMFS_TRY_ASSIGN(Xattrs a, read_xattrs(a_fd));
    SOMFS_TRY_ASSIGN(Xattrs b, read_xattrs(b_fd));
    if (a == b) return {};
    std::map<std::string, std::string> of_a(a.begin(), a.end()), of_b(b.begin(), b.end());
    for (const auto& [name, value] : of_a)
      if (!of_b.contains(name))
        differs("xattr " + printable(name) + " only in the first");
      else if (of_b[name] != value)
        differs("xattr " + printable(name) + " has another value");
    for (const auto& [name, value] : of_b)
      if (!of_a.contains(name)) differs("xattr " + printable(name) + " only in the second");
    return {};
  }

  Status contents(int a_dir, int b_dir, const std::string& name) {
    if (!wants("content")) return {};
    Fd a(openat(a_dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    Fd b(openat(b_dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    struct stat st_a {
    }, st_b{};
    if (!a || !b || fstat(a.get(), &st_a) != 0 || fstat(b.get(), &st_b) != 0) return fail_errno("cannot open", printable(path_));
    auto size = static_cast<std::uint64_t>(std::min(st_a.st_size, st_b.st_size));
    block_a_.resize(kBlock);
    block_b_.resize(kBlock);
    for (std::uint64_t pos = 0;;) {
      pos = std::min(next_data(a.get(), pos, size), next_data(b.get(), pos, size));
      if (pos >= size) return {};
      std::size_t want = std::min<std::uint64_t>(kBlock, size - pos);
      std::size_t got_a = 0, got_b = 0;
      if (int e = pread_all(a.get(), block_a_.data(), want, pos, &got_a); e != 0)
        return fail_errno("cannot read", printable(path_), e);
      if (int e = pread_all(b.get(), block_b_.data(), want, pos, &got_b); e != 0)
        return fail_errno("cannot read", printable(path_), e);
      if (got_a != want || got_b != want) return fail(Exit::temporary, "the file shrank", printable(path_));
      auto end = block_a_.begin() + static_cast<std::ptrdiff_t>(want);
      auto where = std::mismatch(block_a_.begin(), end, block_b_.begin()).first;
      if (where != end) {
        differs(fmt::format("content from byte {}", pos + static_cast<std::uint64_t>(where - block_a_.begin())));
        return {};
      }
      pos += want;
    }
  }

  const CompareOptions& options_;
  std::string path_;
  std::vector<Difference> found_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, std::string> first_a_, first_b_;  // (dev, ino) -> first name seen
  std::string block_a_, block_b_;
};

}  // namespace

Result<std::vector<Difference>> compare_trees(const std::string& a, const std::string& b, const CompareOptions& options) {
  Comparison comparison(options);
  SOMFS_TRY(comparison.run(a, b));
  return comparison.take();
}

std::string line(const Difference& d) {
  std::string name = d.path.size() <= 300
                         ? printable(d.path)
                         : printable(d.path.substr(0, 140)) + "[...]" + printable(d.path.substr(d.path.size() - 140));
  return name + ": " + d.what;
}

}  // namespace somfs::tools
