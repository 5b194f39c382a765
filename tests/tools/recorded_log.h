// SPDX-License-Identifier: Apache-2.0
// What a block device was asked to do, in order, and what a power cut may have made of it.
//
// Format: the 8 bytes "SOMFREC1", then entries of
//   u8 kind (1 write, 2 flush, 3 zero), u64 offset, u64 length, and for a write `length` bytes; integers little-endian.
// An entry cut short at the end of the file (the recorder was killed) is left out by the reader.
//
// The device is one with a volatile cache: a completed flush makes every write recorded before it durable. Of later writes each
// sector may be there or not, in any order, until the next flush. Per sector the result is one of the values written since the
// flush, or the one before: exactly what dropping sectors of an in-order replay can give.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/fd.h"
#include "common/result.h"

namespace somfs::tools {

enum class Recorded : std::uint8_t { write = 1, flush = 2, zero = 3 };

struct LogEntry {
  Recorded what = Recorded::flush;
  std::uint64_t off = 0;
  std::uint64_t len = 0;
  std::uint64_t payload = 0;  // where in the log the bytes of a write begin
};

// Appends; not thread-safe.
class RecordedLogWriter {
 public:
  static Result<RecordedLogWriter> create(const std::string& path);
  Status append(Recorded what, std::uint64_t off, std::uint64_t len, std::string_view payload = {});
  std::uint64_t entries() const { return entries_; }

 private:
  explicit RecordedLogWriter(Fd fd) : fd_(std::move(fd)) {}
  Fd fd_;
  std::uint64_t entries_ = 0;
};

class RecordedLog {
 public:
  static Result<RecordedLog> open(const std::string& path);
  const std::vector<LogEntry>& entries() const { return entries_; }
  Result<std::string> payload(const LogEntry& entry) const;

 private:
  Fd fd_;
  std::vector<LogEntry> entries_;
};

struct Cut {
  std::uint64_t at = 0;        // the power goes after this many entries
  std::uint64_t seed = 0;      // chooses what survives; 0: nothing unflushed does, 1: everything does
  std::uint64_t sector = 4096; // unit in which a write can be torn: 512 or 4096
};

struct CutResult {
  std::uint64_t durable = 0;  // entries up to and including the last flush before the cut
  std::uint64_t kept = 0;     // of the later writes: kept whole
  std::uint64_t torn = 0;
  std::uint64_t dropped = 0;
};

// Writes to `out` (made anew, sparse) the image that the cut leaves, starting from `base`, which is only read.
Result<CutResult> cut_image(const std::string& base, const RecordedLog& log, const Cut& cut, const std::string& out);

}  // namespace somfs::tools
