// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dirent.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "snapshot/journal.h"
#include "tests/unit/snapshot/scratch.h"
#include "tests/unit/sync_calls.h"

namespace somfs::snapshot::test {

inline std::set<std::string> list(int dir_fd) {
  std::set<std::string> out;
  DIR* d = ::fdopendir(::openat(dir_fd, ".", O_RDONLY | O_DIRECTORY));
  while (const dirent* e = ::readdir(d))
    if (e->d_name[0] != '.') out.insert(e->d_name);
  ::closedir(d);
  return out;
}

// What a power cut would leave at its worst: contents as of their last sync, only names that were synced, and every removal done.
class PowerCut {
 public:
  explicit PowerCut(int dir_fd) : dir_fd_(dir_fd), dir_(identity(dir_fd)) {
    somfs::test::on_sync([this](int fd, somfs::test::Sync) {
      std::lock_guard l(m_);
      if (identity(fd) == dir_) {
        names_ = names();
        return;
      }
      struct stat st;
      if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return;
      std::string bytes(static_cast<std::size_t>(st.st_size), '\0');
      std::size_t got = 0;
      const Fd readable(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
      pread_all(readable.get(), bytes.data(), bytes.size(), 0, &got);
      contents_[identity(fd)] = bytes;
      ++syncs;
    });
  }
  ~PowerCut() { somfs::test::on_sync({}); }
  PowerCut(const PowerCut&) = delete;
  PowerCut& operator=(const PowerCut&) = delete;

  void leave(int into_fd) {
    std::lock_guard l(m_);
    const auto now = list(dir_fd_);
    for (const auto& [name, file] : names_) {
      if (!now.contains(name)) continue;
      Fd fd(::openat(into_fd, name.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
      write_all(fd.get(), contents_[file]);
    }
  }
  int syncs = 0;

 private:
  using File = std::pair<std::uint64_t, std::int64_t>;  // inode and its birth, for numbers are used again
  static File identity(int fd) {
    struct statx st {};
    ::statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &st);
    return {st.stx_ino, st.stx_btime.tv_sec * 1'000'000'000 + st.stx_btime.tv_nsec};
  }
  std::map<std::string, File> names() const {
    std::map<std::string, File> out;
    for (const auto& name : list(dir_fd_)) out[name] = identity(Fd(::openat(dir_fd_, name.c_str(), O_PATH | O_CLOEXEC)).get());
    return out;
  }

  std::mutex m_;
  const int dir_fd_;
  const File dir_;
  std::map<File, std::string> contents_;
  std::map<std::string, File> names_;
};

class JournalTest : public testing::Test {
 protected:
  JournalTest() : watch(dir.fd()) {
    options.start_flusher = false;
    options.segment_bytes = 64u << 10;
    options.boot = boot;
  }
  std::unique_ptr<Journal> open(int dir_fd) {
    auto j = Journal::open(dir_fd, fs_id, clock, options);
    EXPECT_TRUE(j) << (j ? "" : j.error().line());
    return j ? std::move(*j) : nullptr;
  }
  std::unique_ptr<Journal> open() { return open(dir.fd()); }
  // As after a power cut at this moment, in another boot.
  std::unique_ptr<Journal> open_after_power_cut() {
    watch.leave(after.fd());
    options.boot = Uuid::random();
    return open(after.fd());
  }
  static ObjectId id(std::uint64_t ino) { return {ino, 1}; }
  static Handle handle(std::uint64_t ino) { return {1, "h" + std::to_string(ino)}; }
  void write(Journal& j, std::uint64_t ino, std::uint64_t off = 0, std::uint64_t len = 10, Promise promise = Promise::soon) {
    const Handle h = handle(ino);
    j.intend(id(ino), &h, promise);
    Change c;
    c.what = ChangeKind::write;
    c.object = id(ino);
    c.extent = {off, len};
    c.handle = &h;
    clock.advance_ms(1);
    j.accept(c, {});
  }
  static DirtySet since(Journal& j, std::uint64_t acked, std::uint64_t up_to) {
    auto set = j.dirty_since(acked, up_to);
    EXPECT_TRUE(set);
    return set ? *set : DirtySet();
  }
  static bool whole(const DirtySet& set, std::uint64_t ino) {
    auto at = set.objects().find(id(ino));
    return set.volume_whole() || (at != set.objects().end() && at->second.whole);
  }

  Scratch dir, after;
  FakeClock clock;
  PowerCut watch;
  Uuid boot = Uuid::random();
  std::string fs_id = "fs";
  Journal::Options options;
};

}  // namespace somfs::snapshot::test
