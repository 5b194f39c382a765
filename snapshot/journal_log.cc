// SPDX-License-Identifier: Apache-2.0
#include "snapshot/journal_log.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "common/bytes.h"

namespace somfs::snapshot {
namespace {

constexpr std::string_view kMagic = "somfslog";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kRecordHeader = 25;
constexpr std::size_t kChecked = 8;  // a record's size and checksum lie before what the checksum covers

constexpr std::size_t padded(std::size_t n) { return (n + 7) / 8 * 8; }

void put_some_handle(ByteWriter& w, const Handle* handle) {
  static const Handle none;
  put_handle(w, handle != nullptr ? *handle : none);
}

template <typename T>
T load(const char* at) {
  T v;
  std::memcpy(&v, at, sizeof v);  // both sides run on little-endian machines; the build refuses others
  return v;
}
template <typename T>
void store(char* at, T v) {
  std::memcpy(at, &v, sizeof v);
}
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are little-endian");

}  // namespace

Change ChangeBody::get() const {
  Change c = change;
  c.name = name;
  c.handle = handle.empty() ? nullptr : &handle;
  return c;
}

void encode_mark(std::string& out, const ObjectId& object, const Handle* handle, bool found, bool subtree) {
  ByteWriter w(out);
  w.u8(static_cast<std::uint8_t>(found | subtree << 1));
  w.id(object);
  put_some_handle(w, handle);
}

bool decode_mark(std::string_view body, MarkBody* out) {
  ByteReader r(body);
  const std::uint8_t flags = r.u8();
  out->found = (flags & 1) != 0;
  out->subtree = (flags & 2) != 0;
  out->object = r.id();
  out->handle = get_handle(r);
  return r.at_end() && flags <= 3 && out->object;
}

void encode_change(std::string& out, const Change& change) {
  ByteWriter w(out);
  w.u8(static_cast<std::uint8_t>(change.what));
  w.id(change.object);
  put_some_handle(w, change.handle);
  switch (change.what) {
    case ChangeKind::write: w.varint(change.extent.off); w.varint(change.extent.len); break;
    case ChangeKind::truncate: w.varint(change.extent.off); break;
    case ChangeKind::born: w.u8(static_cast<std::uint8_t>(change.kind)); break;
    case ChangeKind::bind:
    case ChangeKind::unbind: w.id(change.parent); w.id(change.old); w.text(change.name); break;
    default: break;
  }
}

bool decode_change(std::string_view body, ChangeBody* out) {
  ByteReader r(body);
  const std::uint8_t what = r.u8();
  if (what == 0 || what > static_cast<std::uint8_t>(ChangeKind::subtree)) return false;
  Change& c = out->change;
  c.what = static_cast<ChangeKind>(what);
  c.object = r.id();
  out->handle = get_handle(r);
  switch (c.what) {
    case ChangeKind::write: c.extent.off = r.varint(); c.extent.len = r.varint(); break;
    case ChangeKind::truncate: c.extent.off = r.varint(); break;
    case ChangeKind::born: {
      const std::uint8_t kind = r.u8();
      if (kind > static_cast<std::uint8_t>(Kind::blk)) return false;
      c.kind = static_cast<Kind>(kind);
      break;
    }
    case ChangeKind::bind:
    case ChangeKind::unbind:
      c.parent = r.id();
      c.old = r.id();
      out->name = std::string(r.text(kMaxName));
      if (!valid_name(out->name) || !c.parent) return false;
      break;
    default: break;
  }
  return r.at_end();
}

std::string segment_name(std::uint64_t number) { return "log-" + std::to_string(number); }

Result<std::shared_ptr<Segment>> Segment::create(int dir_fd, std::uint64_t number, std::size_t bytes) {
  const std::string name = segment_name(number);
  Fd fd(::openat(dir_fd, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return fail_errno("cannot create the journal's segment", name);
  // Room now, so that a store into the mapping never finds the disk full.
  int e = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes));
  void* map = MAP_FAILED;
  if (e == 0) {
    map = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (map == MAP_FAILED) e = errno;
    // It is filled from front to back and hardly ever whole: reading ahead would only clear pages, up to megabytes at the first store.
    else (void)::madvise(map, bytes, MADV_RANDOM);
  }
  if (e != 0) {
    ::unlinkat(dir_fd, name.c_str(), 0);
    return fail_errno("cannot make room for the journal's segment", name, e);
  }
  return std::shared_ptr<Segment>(new Segment(std::move(fd), static_cast<char*>(map), bytes, number));
}

Segment::~Segment() { ::munmap(map_, size_); }

void Segment::begin(const SegmentHeader& header) {
  std::string rest;
  ByteWriter w(rest);
  w.u64(header.number);
  w.u64(header.epoch);
  w.raw(header.volume.raw());
  w.raw(header.generation.raw());
  std::string out(kMagic);
  ByteWriter h(out);
  h.u32(kVersion);
  h.u32(crc32c(rest));
  h.raw(rest);
  std::memcpy(map_, out.data(), kHeader);
  used_ = kHeader;
}

bool Segment::fits(std::size_t body) const { return used_ + padded(kRecordHeader + body) + kSealRoom <= size_; }

std::size_t Segment::append(RecordType type, std::uint64_t seq, std::int64_t wall_ns, std::string_view body) {
  const auto size = static_cast<std::uint32_t>(kRecordHeader + body.size());
  char* at = map_ + used_;
  store(at + 8, seq);
  store(at + 16, wall_ns);
  store(at + 24, static_cast<std::uint8_t>(type));
  if (!body.empty()) std::memcpy(at + kRecordHeader, body.data(), body.size());
  store(at + 4, crc32c(std::string_view(at + kChecked, size - kChecked), size));
  // The size last: after a kill a record is there as a whole, or the zero of an end is.
  std::atomic_signal_fence(std::memory_order_release);
  store(at, size);
  used_ += padded(size);
  return padded(size);
}

void Segment::seal(std::uint64_t seq, std::int64_t wall_ns) {
  static_assert(padded(kRecordHeader) <= kSealRoom);
  append(RecordType::sealed, seq, wall_ns, {});
}

int Segment::sync() { return ::fdatasync(fd_.get()) == 0 ? 0 : errno; }

ScanEnd scan_segment(std::string_view bytes, const std::function<bool(const SegmentHeader&, const ScannedRecord&)>& take) {
  ScanEnd end;
  if (bytes.substr(0, Segment::kHeader).find_first_not_of('\0') == std::string_view::npos) return end;
  end.how = ScanEnd::How::bad_header;
  if (bytes.size() < Segment::kHeader || bytes.substr(0, kMagic.size()) != kMagic) return end;
  ByteReader r(bytes.substr(kMagic.size(), Segment::kHeader - kMagic.size()));
  if (r.u32() != kVersion || r.u32() != crc32c(bytes.substr(16, Segment::kHeader - 16))) return end;
  end.header.number = r.u64();
  end.header.epoch = r.u64();
  end.header.volume = Uuid::from_raw(r.raw(16));
  end.header.generation = Uuid::from_raw(r.raw(16));
  std::size_t at = end.used = Segment::kHeader;
  end.how = ScanEnd::How::open;
  while (at + kRecordHeader <= bytes.size()) {
    const char* p = bytes.data() + at;
    const auto size = load<std::uint32_t>(p);
    if (size == 0) return end;
    end.how = ScanEnd::How::torn;
    if (size < kRecordHeader || size > bytes.size() - at) return end;
    if (load<std::uint32_t>(p + 4) != crc32c(bytes.substr(at + kChecked, size - kChecked), size)) return end;
    ScannedRecord record{static_cast<RecordType>(p[24]), load<std::uint64_t>(p + 8), load<std::int64_t>(p + 16),
                         bytes.substr(at + kRecordHeader, size - kRecordHeader)};
    if (record.type == RecordType::sealed) {
      end.used = at + size;
      end.how = ScanEnd::How::sealed;
      return end;
    }
    if (!take(end.header, record)) return end;
    end.how = ScanEnd::How::open;
    end.used = at + size;
    at += padded(size);
  }
  return end;
}

}  // namespace somfs::snapshot
