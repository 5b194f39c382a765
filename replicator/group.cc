// SPDX-License-Identifier: Apache-2.0
#include "replicator/group.h"

namespace somfs::replicator {

namespace {

constexpr std::uint8_t kAllFlags = kNew | kAttr | kXattr | kSize | kRewritten;
constexpr std::uint64_t kMaxOffset = 0x7fffffffffffffffull;

void tag(ByteWriter& w, RecordType t) { w.u8(static_cast<std::uint8_t>(t)); }

void parse_object(ByteReader& r, ObjectRecord& o) {
  o.id = r.id();
  o.flags = r.u8();
  o.attr = get_attr(r);
  o.parent = r.id();
  o.name = std::string(r.text(kMaxName));
  o.xattrs = get_xattrs(r);
  o.target = std::string(r.text(kMaxTarget));
  o.basis = r.id();
  bool placed = static_cast<bool>(o.parent);
  if (!o.id || (o.flags & ~kAllFlags) != 0) r.poison();
  if (placed != !o.name.empty() || (placed && !valid_name(o.name))) r.poison();
  if ((o.attr.kind == Kind::symlink) != !o.target.empty() || o.target.find('\0') != std::string::npos) r.poison();
}

}  // namespace

void RecordWriter::object(const ObjectRecord& r) {
  tag(w_, RecordType::object);
  w_.id(r.id);
  w_.u8(r.flags);
  put_attr(w_, r.attr);
  w_.id(r.parent);
  w_.text(r.name);
  put_xattrs(w_, r.xattrs);
  w_.text(r.target);
  w_.id(r.basis);
}

void RecordWriter::data(std::uint64_t off, std::string_view bytes) {
  tag(w_, RecordType::data);
  w_.varint(off);
  w_.text(bytes);
}

void RecordWriter::hole(std::uint64_t off, std::uint64_t len) {
  tag(w_, RecordType::hole);
  w_.varint(off);
  w_.varint(len);
}

void RecordWriter::delta(std::string_view piece) {
  tag(w_, RecordType::delta);
  w_.text(piece);
}

void RecordWriter::reuse(std::string_view hash) {
  tag(w_, RecordType::reuse);
  w_.text(hash);
}

void RecordWriter::name(const NameRecord& r) {
  tag(w_, RecordType::name);
  w_.id(r.parent);
  w_.text(r.name);
  w_.id(r.object);
}

bool RecordReader::next(Record* out) {
  if (!r_.ok() || r_.at_end()) return false;
  out->type = static_cast<RecordType>(r_.u8());
  out->off = out->len = 0;
  out->bytes = {};
  switch (out->type) {
    case RecordType::object:
      out->object = ObjectRecord{};
      parse_object(r_, out->object);
      break;
    case RecordType::data:
      out->off = r_.bounded(kMaxOffset);
      out->bytes = r_.text(kMaxDataRecord);
      out->len = out->bytes.size();
      if (out->len > kMaxOffset - out->off) r_.poison();
      break;
    case RecordType::hole:
      out->off = r_.bounded(kMaxOffset);
      out->len = r_.bounded(kMaxOffset);
      if (out->len > kMaxOffset - out->off) r_.poison();
      break;
    case RecordType::delta:
      out->bytes = r_.text(kMaxDataRecord);
      break;
    case RecordType::reuse:
      out->bytes = r_.text(32);
      if (out->bytes.size() != 32) r_.poison();
      break;
    case RecordType::name:
      out->name = NameRecord{};
      out->name.parent = r_.id();
      out->name.name = std::string(r_.text(kMaxName));
      out->name.object = r_.id();
      if (!out->name.parent || !valid_name(out->name.name)) r_.poison();
      break;
    default:
      r_.poison();
  }
  return r_.ok();
}

}  // namespace somfs::replicator
