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
class PowerCut final : public DurabilityWatch {
 public:
  explicit PowerCut(int dir_fd) : dir_fd_(dir_fd) {}
  void data_synced(const std::string& file, int fd) override {
    std::lock_guard l(m_);
    struct stat st;
    ::fstat(fd, &st);
    std::string bytes(static_cast<std::size_t>(st.st_size), '\0');
    std::size_t got = 0;
    pread_all(fd, bytes.data(), bytes.size(), 0, &got);
    contents_[file] = bytes;
    ++syncs;
  }
  void names_synced() override {
    std::lock_guard l(m_);
    names_ = list(dir_fd_);
  }
  void leave(int into_fd) {
    std::lock_guard l(m_);
    const auto now = list(dir_fd_);
    for (const auto& name : names_) {
      if (!now.contains(name)) continue;
      Fd fd(::openat(into_fd, name.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
      write_all(fd.get(), contents_[name]);
    }
  }
  int syncs = 0;

 private:
  std::mutex m_;
  int dir_fd_;
  std::map<std::string, std::string> contents_;
  std::set<std::string> names_;
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
    options.watch = nullptr;
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
