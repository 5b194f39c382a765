// SPDX-License-Identifier: Apache-2.0
// Seeded random POSIX calls beneath one directory, each logged with its result, its errno and what it left behind. The log depends
// only on the seed and on how the file system behaves, not on inode numbers, time or place: the same seed on a mount and on a plain
// directory must give the same log (native parity).
//
// Runs as whoever the calling thread is. Process-wide effects: umask is changed, SIGPIPE ignored. One thread. Everything it touches
// lies in the directory: its symbolic links lead down or nowhere.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <random>
#include <string>

#include "common/fd.h"

namespace somfs::tools {

class RandomOperations {
 public:
  RandomOperations(int dirfd, std::uint64_t seed);  // the descriptor is borrowed
  ~RandomOperations();
  RandomOperations(const RandomOperations&) = delete;
  RandomOperations& operator=(const RandomOperations&) = delete;

  // Makes one call (or a short fixed sequence, as O_TMPFILE + linkat) and returns its line, without a newline.
  std::string step();
  // The tree as it is now, a line per name in order of names: kind, mode, owner, link count, size, checksum, xattrs.
  void describe(const std::function<void(const std::string&)>& line) const;

 private:
  using Operation = std::string (RandomOperations::*)();
  struct Choice {
    unsigned weight;
    Operation make;
  };
  static const std::array<Choice, 29> kChoices;

  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  std::string path(char kind = 'f');
  int slot() { return static_cast<int>(below(slots_.size())); }
  int fd_of(int slot) const { return slots_[static_cast<std::size_t>(slot)].get(); }
  void put(int slot, int fd) { slots_[static_cast<std::size_t>(slot)].reset(fd); }
  std::string bytes(std::size_t n);
  std::string outcome(long result) const;
  std::string after(const std::string& path) const;
  std::string after_fd(int fd) const;

  std::string do_open();
  std::string do_close();
  std::string do_dup();
  std::string do_write();
  std::string do_pwrite();
  std::string do_append();
  std::string do_read();
  std::string do_pread();
  std::string do_seek();
  std::string do_ftruncate();
  std::string do_truncate();
  std::string do_fallocate();
  std::string do_copy_range();
  std::string do_mmap();
  std::string do_sync();
  std::string do_mkdir();
  std::string do_rmdir();
  std::string do_unlink();
  std::string do_rename();
  std::string do_link();
  std::string do_symlink();
  std::string do_mknod();
  std::string do_tmpfile();
  std::string do_chmod();
  std::string do_chown();
  std::string do_times();
  std::string do_setxattr();
  std::string do_acl();
  std::string do_umask();

  Fd dir_;
  std::mt19937_64 random_;
  std::array<Fd, 6> slots_;
  std::uint64_t step_ = 0;
  mode_t umask_before_;
};

}  // namespace somfs::tools
