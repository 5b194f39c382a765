// SPDX-License-Identifier: Apache-2.0
#define FUSE_USE_VERSION 34
#include "tests/tools/recording_device.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include <fcntl.h>
#include <fuse.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "common/printable.h"
#include "tests/tools/recorded_log.h"

namespace somfs::tools {
namespace {

// One request at a time (fuse_loop), so nothing here is locked, and the order of the log is the order of the replies.
class Recorder {
 public:
  static Result<Recorder> open(const RecorderOptions& options) {
    Fd image(::open(options.image.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat st {};
    if (!image || fstat(image.get(), &st) != 0) return fail_errno("cannot open the image", printable(options.image));
    if (st.st_size == 0) return fail(Exit::usage, "empty image", printable(options.image), {}, "give --size");
    SOMFS_TRY_ASSIGN(RecordedLogWriter log, RecordedLogWriter::create(options.log));
    auto size = static_cast<std::size_t>(st.st_size);
    // Private: what is written stays in memory, the image remains the base for the cuts.
    void* bytes = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, image.get(), 0);
    if (bytes == MAP_FAILED) return fail_errno("cannot map the image", printable(options.image));
    return Recorder(std::move(log), static_cast<char*>(bytes), size);
  }
  Recorder(Recorder&& o) noexcept : log_(std::move(o.log_)), bytes_(std::exchange(o.bytes_, nullptr)), size_(o.size_) {}
  Recorder& operator=(Recorder&&) = delete;
  ~Recorder() {
    if (bytes_ != nullptr) munmap(bytes_, size_);
  }

  std::size_t size() const { return size_; }
  std::uint64_t entries() const { return log_.entries(); }

  int read(char* to, std::size_t n, std::uint64_t off) const {
    n = within(off, n);
    std::memcpy(to, bytes_ + off, n);
    return static_cast<int>(n);
  }
  int write(const char* from, std::size_t n, std::uint64_t off) {
    if (off >= size_) return -ENOSPC;
    n = within(off, n);
    if (!log_.append(Recorded::write, off, n, {from, n})) return -EIO;
    std::memcpy(bytes_ + off, from, n);
    return static_cast<int>(n);
  }
  int zero(std::uint64_t off, std::uint64_t len) {
    if (off >= size_) return 0;
    len = within(off, len);
    if (!log_.append(Recorded::zero, off, len)) return -EIO;
    std::memset(bytes_ + off, 0, len);
    return 0;
  }
  int flush() { return log_.append(Recorded::flush, 0, 0) ? 0 : -EIO; }

 private:
  Recorder(RecordedLogWriter log, char* bytes, std::size_t size) : log_(std::move(log)), bytes_(bytes), size_(size) {}
  std::size_t within(std::uint64_t off, std::uint64_t n) const {
    return off >= size_ ? 0 : static_cast<std::size_t>(std::min<std::uint64_t>(n, size_ - off));
  }

  RecordedLogWriter log_;
  char* bytes_;
  std::size_t size_;
};

Recorder& device() { return *static_cast<Recorder*>(fuse_get_context()->private_data); }
bool is_disk(const char* path) { return std::strcmp(path, "/disk") == 0; }
bool is_entries(const char* path) { return std::strcmp(path, "/entries") == 0; }

int do_getattr(const char* path, struct stat* st, fuse_file_info*) {
  *st = {};
  st->st_nlink = 1;
  if (std::strcmp(path, "/") == 0) {
    st->st_mode = S_IFDIR | 0700;
  } else if (is_disk(path)) {
    st->st_mode = S_IFREG | 0600;
    st->st_size = static_cast<off_t>(device().size());
  } else if (is_entries(path)) {
    st->st_mode = S_IFREG | 0400;
  } else {
    return -ENOENT;
  }
  return 0;
}

int do_readdir(const char*, void* buf, fuse_fill_dir_t fill, off_t, fuse_file_info*, fuse_readdir_flags) {
  for (const char* name : {".", "..", "disk", "entries"}) fill(buf, name, nullptr, 0, static_cast<fuse_fill_dir_flags>(0));
  return 0;
}

int do_open(const char* path, fuse_file_info* info) {
  if (is_entries(path)) info->direct_io = 1;
  if (is_disk(path)) info->keep_cache = 1;
  return 0;
}

int do_read(const char* path, char* buf, std::size_t n, off_t off, fuse_file_info*) {
  if (is_disk(path)) return device().read(buf, n, static_cast<std::uint64_t>(off));
  std::string text = std::to_string(device().entries()) + "\n";
  if (static_cast<std::size_t>(off) >= text.size()) return 0;
  n = std::min(n, text.size() - static_cast<std::size_t>(off));
  std::memcpy(buf, text.data() + off, n);
  return static_cast<int>(n);
}

int do_write(const char*, const char* buf, std::size_t n, off_t off, fuse_file_info*) {
  return device().write(buf, n, static_cast<std::uint64_t>(off));
}

int do_fsync(const char*, int, fuse_file_info*) { return device().flush(); }

// How a loop device passes on a discard or "write zeroes".
int do_fallocate(const char*, int mode, off_t off, off_t len, fuse_file_info*) {
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) == 0) return -EOPNOTSUPP;
  return device().zero(static_cast<std::uint64_t>(off), static_cast<std::uint64_t>(len));
}

}  // namespace

Status run_recorder(const RecorderOptions& options) {
  SOMFS_TRY_ASSIGN(Recorder recorder, Recorder::open(options));
  fuse_operations calls{};
  calls.getattr = do_getattr;
  calls.readdir = do_readdir;
  calls.open = do_open;
  calls.read = do_read;
  calls.write = do_write;
  calls.fsync = do_fsync;
  calls.fallocate = do_fallocate;

  char name[] = "recdev";
  char flag[] = "-o";
  char value[] = "fsname=recdev,subtype=recdev";
  char* argv[] = {name, flag, value, nullptr};
  fuse_args args = FUSE_ARGS_INIT(3, argv);
  fuse* session = fuse_new(&args, &calls, sizeof calls, &recorder);
  fuse_opt_free_args(&args);
  if (session == nullptr) return fail(Exit::temporary, "cannot start FUSE");
  Status done;
  if (fuse_mount(session, options.mount.c_str()) != 0) {
    done = fail(Exit::temporary, "cannot mount", printable(options.mount));
  } else {
    fuse_set_signal_handlers(fuse_get_session(session));
    if (int e = fuse_loop(session); e < 0) done = fail_errno("serving ended", printable(options.mount), -e);
    fuse_remove_signal_handlers(fuse_get_session(session));
    fuse_unmount(session);
  }
  fuse_destroy(session);
  return done;
}

}  // namespace somfs::tools
