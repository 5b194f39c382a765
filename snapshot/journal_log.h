// SPDX-License-Identifier: Apache-2.0
// The log of the change journal: segments and their records (docs/formats/journal.md, "Log").
//   segment = magic:8 version:u32 crc:u32 number:u64 epoch:u64 volume:16 generation:16 record* zeroes    crc: of the header behind it
//   record  = size:u32 crc:u32 seq:u64 wall:i64 type:u8 body, padded to 8 bytes with zeroes     crc: of [8, size), seeded with size
// Not thread-safe: the journal guards it, but for sync().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/change.h"
#include "common/fd.h"
#include "common/result.h"
#include "common/uuid.h"

namespace somfs::snapshot {

enum class RecordType : std::uint8_t {
  mark = 1,        // flags:u8 id handle          flags: found by a gap scan 1 (all of it is dirty), with everything below 2
  change = 2,      // what:u8 id handle, then by kind
  everything = 3,  // the bound was hit: the whole volume is dirty
  sealed = 4,      // the segment ends here, whole
};

struct SegmentHeader {
  std::uint64_t number = 0, epoch = 0;
  Uuid volume, generation;
};

struct MarkBody {
  ObjectId object;
  Handle handle;
  bool found = false, subtree = false;
};

// A change that owns what it names.
struct ChangeBody {
  Change change;
  std::string name;
  Handle handle;
  Change get() const;
};

void encode_mark(std::string& out, const ObjectId& object, const Handle* handle, bool found, bool subtree);
bool decode_mark(std::string_view body, MarkBody* out);
void encode_change(std::string& out, const Change& change);
bool decode_change(std::string_view body, ChangeBody* out);

std::string segment_name(std::uint64_t number);

// A preallocated segment mapped for appending. Destruction unmaps; the file stays.
class Segment {
 public:
  static constexpr std::size_t kHeader = 64, kSealRoom = 32;
  static Result<std::shared_ptr<Segment>> create(int dir_fd, std::uint64_t number, std::size_t bytes);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  void begin(const SegmentHeader& header);  // first: until then the file is a spare, which a scan ignores
  bool fits(std::size_t body) const;
  std::size_t append(RecordType type, std::uint64_t seq, std::int64_t wall_ns, std::string_view body);  // bytes taken
  void seal(std::uint64_t seq, std::int64_t wall_ns);
  int sync();                               // 0 or an errno; may run beside appends, then covers those before the call
  std::uint64_t number() const { return number_; }
  std::size_t used() const { return used_; }
  std::size_t size() const { return size_; }
  int fd() const { return fd_.get(); }

 private:
  Segment(Fd fd, char* map, std::size_t size, std::uint64_t number)
      : fd_(std::move(fd)), map_(map), size_(size), number_(number) {}
  Fd fd_;
  char* map_;
  std::size_t size_, used_ = 0;
  std::uint64_t number_;
};

struct ScanEnd {
  enum class How { spare, bad_header, open, sealed, torn } how = How::spare;
  SegmentHeader header;     // unless spare or bad_header
  std::size_t used = 0;     // bytes up to the end of the last intact record
};
struct ScannedRecord {
  RecordType type;
  std::uint64_t seq;
  std::int64_t wall_ns;
  std::string_view body;
};
// Hands over every intact record up to the end or the first torn one. `take` returns false for a body it cannot read: torn.
ScanEnd scan_segment(std::string_view bytes, const std::function<bool(const SegmentHeader&, const ScannedRecord&)>& take);

}  // namespace somfs::snapshot
