// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/recorded_log.h"

#include <algorithm>
#include <random>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/printable.h"

namespace somfs::tools {
namespace {

constexpr std::string_view kMagic = "SOMFREC1";
constexpr std::size_t kHeader = 17;
constexpr std::uint64_t kMostPayload = 64ull << 20;

std::uint64_t size_of(int fd) {
  struct stat st {};
  return fstat(fd, &st) == 0 ? static_cast<std::uint64_t>(st.st_size) : 0;
}

Status copy_sparse(int from, int to) {
  std::uint64_t size = size_of(from);
  if (ftruncate(to, static_cast<off_t>(size)) != 0) return fail_errno("cannot size the image");
  std::string block(1 << 20, '\0');
  off_t at = 0;
  for (;;) {
    off_t data = lseek(from, at, SEEK_DATA);
    if (data < 0) return {};
    at = lseek(from, data, SEEK_HOLE);
    for (off_t pos = data; pos < at;) {
      std::size_t got = 0;
      auto want = std::min<std::size_t>(block.size(), static_cast<std::size_t>(at - pos));
      if (int e = pread_all(from, block.data(), want, static_cast<std::uint64_t>(pos), &got); e != 0 || got == 0)
        return fail_errno("cannot read the base image", {}, e);
      if (int e = pwrite_all(to, {block.data(), got}, static_cast<std::uint64_t>(pos)); e != 0)
        return fail_errno("cannot write the image", {}, e);
      pos += static_cast<off_t>(got);
    }
  }
}

// Decides per write and per sector what survives.
class Fate {
 public:
  explicit Fate(std::uint64_t seed) : seed_(seed), random_(seed) {}

  enum class Write { kept, torn, dropped };
  Write of_write() {
    if (seed_ <= 1) return seed_ == 1 ? Write::kept : Write::dropped;
    switch (random_() % 5) {
      case 0:
      case 1: return Write::kept;
      case 2:
      case 3: return Write::dropped;
      default: return Write::torn;
    }
  }
  bool of_sector() { return (random_() & 1) != 0; }

 private:
  std::uint64_t seed_;
  std::mt19937_64 random_;
};

}  // namespace

Result<RecordedLogWriter> RecordedLogWriter::create(const std::string& path) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return fail_errno("cannot make the log", printable(path));
  if (int e = write_all(fd.get(), kMagic); e != 0) return fail_errno("cannot write the log", printable(path), e);
  return RecordedLogWriter(std::move(fd));
}

Status RecordedLogWriter::append(Recorded what, std::uint64_t off, std::uint64_t len, std::string_view payload) {
  std::string bytes;
  ByteWriter w(bytes);
  w.u8(static_cast<std::uint8_t>(what));
  w.u64(off);
  w.u64(len);
  w.raw(payload);
  if (int e = write_all(fd_.get(), bytes); e != 0) return fail_errno("cannot write the log", {}, e);
  ++entries_;
  return {};
}

Result<RecordedLog> RecordedLog::open(const std::string& path) {
  RecordedLog log;
  log.fd_.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!log.fd_) return fail_errno("cannot open the log", printable(path));
  char head[kHeader];
  std::size_t got = 0;
  int e = pread_all(log.fd_.get(), head, kMagic.size(), 0, &got);
  if (e != 0 || std::string_view(head, got) != kMagic)
    return fail(Exit::usage, "not a log of recdev", printable(path));
  std::uint64_t size = size_of(log.fd_.get());
  for (std::uint64_t pos = kMagic.size(); pos + kHeader <= size;) {
    if (pread_all(log.fd_.get(), head, kHeader, pos, &got) != 0 || got != kHeader) break;
    ByteReader r(std::string_view(head, kHeader));
    LogEntry entry;
    std::uint8_t kind = r.u8();
    entry.off = r.u64();
    entry.len = r.u64();
    entry.payload = pos + kHeader;
    if (kind < 1 || kind > 3 || (kind == 1 && entry.len > kMostPayload))
      return fail(Exit::temporary, "damaged log", printable(path), "entry " + std::to_string(log.entries_.size()));
    entry.what = static_cast<Recorded>(kind);
    pos = entry.payload + (entry.what == Recorded::write ? entry.len : 0);
    if (pos <= size) log.entries_.push_back(entry);
  }
  return log;
}

Result<std::string> RecordedLog::payload(const LogEntry& entry) const {
  if (entry.what == Recorded::zero) return std::string(entry.len, '\0');
  std::string bytes(entry.len, '\0');
  std::size_t got = 0;
  int e = pread_all(fd_.get(), bytes.data(), bytes.size(), entry.payload, &got);
  if (e != 0 || got != bytes.size()) return fail_errno("cannot read the log", {}, e);
  return bytes;
}

Result<CutResult> cut_image(const std::string& base, const RecordedLog& log, const Cut& cut, const std::string& out) {
  if (cut.sector != 512 && cut.sector != 4096) return fail(Exit::usage, "a sector has 512 or 4096 bytes");
  if (cut.at > log.entries().size())
    return fail(Exit::usage, "the cut lies beyond the log", {}, "it has " + std::to_string(log.entries().size()) + " entries");
  Fd from(::open(base.c_str(), O_RDONLY | O_CLOEXEC));
  if (!from) return fail_errno("cannot open the base image", printable(base));
  Fd to(::open(out.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!to) return fail_errno("cannot make the image", printable(out));
  SOMFS_TRY(copy_sparse(from.get(), to.get()));

  CutResult result;
  for (std::uint64_t i = 0; i < cut.at; ++i)
    if (log.entries()[i].what == Recorded::flush) result.durable = i + 1;
  Fate fate(cut.seed);
  for (std::uint64_t i = 0; i < cut.at; ++i) {
    const LogEntry& entry = log.entries()[i];
    if (entry.what == Recorded::flush) continue;
    Fate::Write what = i < result.durable ? Fate::Write::kept : fate.of_write();
    if (i >= result.durable)
      ++(what == Fate::Write::kept ? result.kept : what == Fate::Write::torn ? result.torn : result.dropped);
    if (what == Fate::Write::dropped) continue;
    SOMFS_TRY_ASSIGN(std::string bytes, log.payload(entry));
    for (std::uint64_t pos = 0; pos < bytes.size();) {
      // A torn write is put down sector by sector (on the device's grid, not the write's), a whole one in a single piece.
      std::uint64_t step = bytes.size() - pos;
      if (what == Fate::Write::torn) step = std::min(step, cut.sector - (entry.off + pos) % cut.sector);
      if (what == Fate::Write::kept || fate.of_sector()) {
        if (int e = pwrite_all(to.get(), std::string_view(bytes).substr(pos, step), entry.off + pos); e != 0)
          return fail_errno("cannot write the image", printable(out), e);
      }
      pos += step;
    }
  }
  return result;
}

}  // namespace somfs::tools
