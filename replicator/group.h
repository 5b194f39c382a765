// SPDX-License-Identifier: Apache-2.0
// A group: records that travel and apply as one. Final-state form: objects (new or changed) with their bytes, and names with what they
// name at the cut. Bytes of a record stream are built and parsed here and nowhere else (docs/formats.md, "Group records").
// What comes from a peer is hostile: the parser bounds every length and count before it allocates, and checks every name.
// Portable core: the C++ standard library alone.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/bytes.h"
#include "common/object.h"

namespace somfs::replicator {

enum class RecordType : std::uint8_t {
  object = 1,   // a new object, or the new attributes of a known one; data records that follow belong to it
  data = 2,     // bytes at an offset of the current object
  hole = 3,     // a range of the current object that reads as zeroes and takes no space
  delta = 4,    // a piece of a librsync delta against `basis` (the object record's); pieces in order make the whole delta
  reuse = 5,    // the current object's content is what an interrupted run left staged, with this hash
  name = 6,     // (parent, name) names `object` at the cut, or nothing
};

enum ObjectFlags : std::uint8_t {
  kNew = 1,         // unknown to the mirror so far; born at (parent, name) when these are set, else nameless until a name record comes
  kAttr = 2,        // mode, owner, times (and rdev) to be set
  kXattr = 4,       // extended attributes to be made exactly these
  kSize = 8,        // attr.size is to be set before the data is applied
  kRewritten = 16,  // every byte follows (data, delta or reuse): the mirror may build a fresh inode and put it in place of the old one
};

struct ObjectRecord {
  ObjectId id;
  std::uint8_t flags = 0;
  Attr attr;                 // kind, size and ctime always valid
  ObjectId parent;           // kNew: where it is born; the parent's record came before when that is new too
  std::string name;
  Xattrs xattrs;
  std::string target;        // symlinks
  ObjectId basis;            // delta: the mirror's object whose committed content is the basis
};

struct NameRecord {
  ObjectId parent;
  std::string name;
  ObjectId object;           // {}: names nothing at the cut
};

inline constexpr std::size_t kMaxDataRecord = 1u << 20;   // bytes in one data or delta record
inline constexpr std::size_t kMaxTarget = 4095;           // PATH_MAX - 1

// Appends records to a buffer.
class RecordWriter {
 public:
  explicit RecordWriter(std::string& out) : out_(out), w_(out_) {}
  void object(const ObjectRecord& r);
  void data(std::uint64_t off, std::string_view bytes);
  void hole(std::uint64_t off, std::uint64_t len);
  void delta(std::string_view piece);
  void reuse(std::string_view hash);   // 32 bytes: SHA-256 of the content
  void name(const NameRecord& r);
  std::size_t size() const { return out_.size(); }

 private:
  std::string& out_;
  ByteWriter w_;
};

// One parsed record; `bytes` and `name` are borrowed from the buffer given to the reader.
struct Record {
  RecordType type = RecordType::object;
  ObjectRecord object;
  NameRecord name;
  std::uint64_t off = 0, len = 0;
  std::string_view bytes;
};

class RecordReader {
 public:
  explicit RecordReader(std::string_view bytes) : r_(bytes) {}
  // False at the end or at the first malformed record; then ok() tells which.
  bool next(Record* out);
  bool ok() const { return r_.ok(); }

 private:
  ByteReader r_;
};

}  // namespace somfs::replicator
