// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/printable.h"
#include "snapshot/store_impl.h"

namespace somfs::snapshot {

Result<std::vector<std::string>> read_names(int dir_fd) {
  std::vector<std::string> out;
  int fd = ::openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 && errno == ENOENT) return out;
  DIR* d = fd < 0 ? nullptr : ::fdopendir(fd);
  if (d == nullptr) {
    auto failed = fail_errno("cannot list", "a directory");
    if (fd >= 0) ::close(fd);
    return failed;
  }
  errno = 0;
  while (const dirent* e = ::readdir(d)) {
    std::string_view name = e->d_name;
    if (name != "." && name != "..") out.emplace_back(name);
    errno = 0;
  }
  int error = errno;
  ::closedir(d);
  if (error != 0 && error != ENOENT) return fail_errno("cannot list", "a directory", error);
  return out;
}

std::vector<std::string> names_in(int dir_fd) { return read_names(dir_fd).value_or(std::vector<std::string>()); }

namespace {

Status open_files(Snap& s, int extra) {
  auto file = [&](const char* name, Fd* out) -> Status {
    *out = Fd(::openat(s.dir.get(), name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | extra, 0600));
    if (!*out) return fail_errno("cannot open the snapshot's", name);
    return {};
  };
  SOMFS_TRY(file("info", &s.info_file));
  SOMFS_TRY(file("log", &s.log));
  SOMFS_TRY(file("data", &s.data));
  s.kept = Fd(::openat(s.dir.get(), "kept", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!s.kept) return fail_errno("cannot open the snapshot's", "kept");
  return {};
}

}  // namespace

Result<std::shared_ptr<Snap>> Snap::create(int store_fd, const SnapshotInfo& info) {
  auto s = std::make_shared<Snap>();
  s->entry = {StoreEntry::State::prepared, 0, info.name};
  s->info = info;
  std::string name = dir_name(s->entry);
  if (::mkdirat(store_fd, name.c_str(), 0700) != 0) return fail_errno("cannot prepare snapshot", printable(info.name));
  s->dir = Fd(::openat(store_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!s->dir || ::mkdirat(s->dir.get(), "kept", 0700) != 0) return fail_errno("cannot prepare snapshot", printable(info.name));
  SOMFS_TRY(open_files(*s, O_CREAT | O_EXCL));
  // Written over at the cut, when nothing may fail for want of room.
  std::string bytes = encode_info(info);
  if (int e = pwrite_all(s->info_file.get(), bytes, 0); e != 0)
    return fail_errno("cannot prepare snapshot", printable(info.name), e);
  return s;
}

Result<std::shared_ptr<Snap>> Snap::open(int store_fd, const StoreEntry& entry, Seen* seen) {
  auto s = std::make_shared<Snap>();
  s->entry = entry;
  std::string name = dir_name(entry);
  s->dir = Fd(::openat(store_fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!s->dir) return fail_errno("cannot open snapshot", name);
  SOMFS_TRY(open_files(*s, 0));
  SOMFS_TRY_ASSIGN(std::string bytes, read_file(s->dir.get(), "info", 4096));
  auto info = decode_info(bytes);
  if (!info || (entry.state == StoreEntry::State::live && info->name != entry.name))
    return fail(Exit::configuration, "cannot use snapshot", name, "its info is corrupt");
  s->info = std::move(*info);
  struct stat log, data;
  if (::fstat(s->log.get(), &log) != 0 || ::fstat(s->data.get(), &data) != 0) return fail_errno("cannot stat snapshot", name);
  s->data_end = (static_cast<std::uint64_t>(data.st_size) + kChunk - 1) / kChunk * kChunk;
  s->log_end = static_cast<std::uint64_t>(log.st_size);
  bool inside = true;
  std::string text(s->log_end, '\0');
  std::size_t got = 0;
  if (int e = pread_all(s->log.get(), text.data(), text.size(), 0, &got); e != 0)
    return fail_errno("cannot read the log of", name, e);
  LogParse parsed = parse_log({text.data(), got}, [&](LogRecord&& r) {
    auto* c = std::get_if<ChunkRecord>(&r);
    if (c != nullptr && !c->hole && c->data_off + c->length > static_cast<std::uint64_t>(data.st_size)) inside = false;
    if (seen != nullptr) seen->add(r);
  });
  if (parsed.end == LogEnd::corrupt || !inside)
    return fail(Exit::configuration, "cannot use snapshot", name, "its log is corrupt");
  // Torn: the store was killed while it wrote the record, so the change that it belongs to was never made.
  if (parsed.end == LogEnd::torn && ::ftruncate(s->log.get(), static_cast<off_t>(parsed.used)) != 0)
    return fail_errno("cannot mend the log of", name);
  s->log_end = parsed.used;
  return s;
}

Status Snap::for_each(const std::function<void(LogRecord&&)>& take) const {
  std::string text;
  std::uint64_t at = 0;
  for (;;) {
    constexpr std::size_t piece = 1u << 20;
    std::size_t had = text.size(), got = 0;
    text.resize(had + piece);
    if (int e = pread_all(log.get(), text.data() + had, piece, at, &got); e != 0)
      return fail_errno("cannot read the log of", info.name, e);
    text.resize(had + got);
    at += got;
    LogParse p = parse_log(text, take);
    if (p.end == LogEnd::corrupt) return fail(Exit::configuration, "cannot read the log of", info.name, "it is corrupt");
    text.erase(0, p.used);
    if (got == 0) return {};
  }
}

}  // namespace somfs::snapshot
