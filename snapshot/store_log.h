// SPDX-License-Identifier: Apache-2.0
// The bytes of the pre-image store (docs/formats/store.md): the records of a snapshot's log, its info file and the names in the
// store's directory. Shared by the store, which writes them, and the view, which reads them in any process.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/object.h"
#include "snapshot/store.h"

namespace somfs::snapshot {

inline constexpr std::uint64_t kChunk = 64u << 10;
inline constexpr std::size_t kMaxRecord = 16u << 20;  // body of one log record

struct NameRecord {   // at the cut (parent, name) named `child`, or nothing
  ObjectId parent;
  std::string name;
  ObjectId child;
  Kind kind = Kind::none;
  Handle handle;
};
struct AttrRecord {   // attributes at the cut; nlink as applications saw it
  ObjectId object;
  Attr attr;
  Xattrs xattrs;
  std::vector<std::string> unread = {};  // names of those that could not be read
};
struct ChunkRecord {  // `length` bytes from chunk `first` on lie at `data_off` of the data file, or were all zero
  ObjectId object;
  std::uint64_t first = 0;
  std::uint64_t length = 0;
  std::uint64_t data_off = 0;
  bool hole = false;
  std::uint64_t count() const { return (length + kChunk - 1) / kChunk; }
};
struct WholeRecord {  // every chunk without a record of its own is in the reflinked copy kept/ID.data
  ObjectId object;
};
using LogRecord = std::variant<NameRecord, AttrRecord, ChunkRecord, WholeRecord>;

// The framed record: u32 length, u32 crc32c, body. Empty: larger than a record may be.
std::string encode(const LogRecord& record);

enum class LogEnd { clean, torn, corrupt };
struct LogParse {
  std::size_t used = 0;      // bytes of whole, valid records
  LogEnd end = LogEnd::clean;
};
// Hands every valid record at the front of `bytes` to `take`. `torn`: the last record ends beyond the bytes, or its checksum
// fails and nothing follows; `corrupt`: a bad record with more behind it.
LogParse parse_log(std::string_view bytes, const std::function<void(LogRecord&&)>& take);

std::string encode_info(const SnapshotInfo& info);
std::optional<SnapshotInfo> decode_info(std::string_view bytes);

// The file `dropped`: the last snapshots that were dropped, newest first. Views in other processes find the reason there.
inline constexpr std::size_t kMostDropped = 16;
std::string encode_dropped(const std::vector<DroppedSnapshot>& dropped);
std::vector<DroppedSnapshot> decode_dropped(std::string_view bytes);  // empty when corrupt

// Names in the store's directory.
struct StoreEntry {
  enum class State { live, merging, gone, prepared } state = State::gone;
  std::uint64_t seq = 0;
  std::string name;  // live and prepared
};
std::string dir_name(const StoreEntry& entry);
std::optional<StoreEntry> parse_dir_name(std::string_view name);  // nullopt: not a snapshot's directory

std::string kept_name(const ObjectId& object);                 // in kept/: "INO-BIRTH", lower-case hex
std::string whole_name(const ObjectId& object);                // "INO-BIRTH.data"
std::optional<ObjectId> parse_kept_name(std::string_view name);  // nullopt for whole_name() and anything else

}  // namespace somfs::snapshot
