// SPDX-License-Identifier: Apache-2.0
// Bodies of the messages (docs/formats/group.md, "Message bodies"). Decoding bounds every length and count, and wants the body used up.
#include <cryptopp/sha.h>

#include <algorithm>
#include <cmath>

#include "common/bytes.h"
#include "replicator/group.h"
#include "replicator/merkle.h"
#include "replicator/mirror.h"
#include "replicator/wire.h"

namespace somfs::replicator {

namespace {

constexpr std::size_t kMaxAncestors = 64;
constexpr std::size_t kMaxText = 4096;            // host, wants, reasons, error lines
constexpr std::size_t kMaxExcludes = 1u << 20;
constexpr std::size_t kMaxRows = kMaxBody / 8;    // a row takes more than eight bytes
constexpr double kMaxSeconds = 1e6;
constexpr std::size_t kMaxDepth = kMaxBody / 2;   // a path component takes at least two

void put_uuid(ByteWriter& w, const Uuid& u) { w.raw(u.raw()); }
Uuid get_uuid(ByteReader& r) {
  std::string_view raw = r.raw(16);
  return raw.size() == 16 ? Uuid::from_raw(raw) : Uuid{};
}

void put_bool(ByteWriter& w, bool b) { w.u8(b ? 1 : 0); }
bool get_bool(ByteReader& r) {
  std::uint8_t b = r.u8();
  if (b > 1) r.poison();
  return b == 1;
}

void put_time(ByteWriter& w, const Time& t) {
  w.i64(t.sec);
  w.u32(t.nsec);
}
Time get_time(ByteReader& r) {
  Time t;
  t.sec = r.i64();
  t.nsec = r.u32();
  if (t.nsec >= 1000000000u) r.poison();
  return t;
}

void put_seconds(ByteWriter& w, double s) { w.varint(static_cast<std::uint64_t>(std::llround(std::clamp(s, 0.0, kMaxSeconds) * 1e9))); }
double get_seconds(ByteReader& r) {
  const std::uint64_t ns = r.varint();
  if (static_cast<double>(ns) > kMaxSeconds * 1e9) r.poison();
  return static_cast<double>(ns) / 1e9;
}

std::string get_text(ByteReader& r, std::size_t most) { return std::string(r.text(most)); }

// 32 bytes or none.
std::string get_root(ByteReader& r) {
  std::string root = get_text(r, kHash);
  if (!root.empty() && root.size() != kHash) r.poison();
  return root;
}

// Shares travel in millionths.
constexpr double kMillion = 1e6;

}  // namespace

std::string encode(const Hello& h) {
  std::string s;
  ByteWriter w(s);
  w.u32(h.protocol);
  put_uuid(w, h.volume);
  put_uuid(w, h.generation);
  w.varint(h.ancestors.size());
  for (const Uuid& a : h.ancestors) put_uuid(w, a);
  w.text(h.wants);
  w.text(h.host);
  w.text(h.volume_name);
  return s;
}

// Of another protocol only the number is believed, so that both sides can name it.
bool decode(std::string_view bytes, Hello* h) {
  ByteReader r(bytes);
  *h = Hello{};
  h->protocol = r.u32();
  if (r.ok() && h->protocol != kProtocol) return true;
  h->volume = get_uuid(r);
  h->generation = get_uuid(r);
  std::size_t n = r.bounded(kMaxAncestors);
  for (std::size_t i = 0; i < n && r.ok(); ++i) h->ancestors.push_back(get_uuid(r));
  h->wants = get_text(r, kMaxText);
  h->host = get_text(r, kMaxText);
  h->volume_name = get_text(r, kMaxText);
  return r.at_end();
}

std::string encode(const Welcome& m) {
  std::string s;
  ByteWriter w(s);
  w.u32(m.protocol);
  put_uuid(w, m.mirror);
  put_uuid(w, m.volume);
  put_uuid(w, m.generation);
  w.varint(m.epoch);
  put_bool(w, m.foreign_tree);
  w.varint(m.staged);
  w.varint(m.files);
  put_bool(w, m.held);
  w.u32(m.user);
  w.text(m.root);
  return s;
}

bool decode(std::string_view bytes, Welcome* m) {
  ByteReader r(bytes);
  *m = Welcome{};
  m->protocol = r.u32();
  if (r.ok() && m->protocol != kProtocol) return true;
  m->mirror = get_uuid(r);
  m->volume = get_uuid(r);
  m->generation = get_uuid(r);
  m->epoch = r.varint();
  m->foreign_tree = get_bool(r);
  m->staged = r.varint();
  m->files = r.varint();
  m->held = get_bool(r);
  m->user = r.u32();
  m->root = get_root(r);
  return r.at_end();
}

std::string encode(const Begin& b) {
  std::string s;
  ByteWriter w(s);
  w.varint(b.base_epoch);
  w.varint(b.epoch);
  put_uuid(w, b.generation);
  w.text(b.strategy);
  put_bool(w, b.replace_all);
  put_bool(w, b.confirmed);
  w.varint(static_cast<std::uint64_t>(b.brake_share * kMillion + 0.5));
  w.text(b.excludes);
  w.text(b.previous);
  return s;
}

bool decode(std::string_view bytes, Begin* b) {
  ByteReader r(bytes);
  *b = Begin{};
  b->base_epoch = r.varint();
  b->epoch = r.bounded(0x7fffffffffffffffull);
  b->generation = get_uuid(r);
  b->strategy = get_text(r, 64);
  b->replace_all = get_bool(r);
  b->confirmed = get_bool(r);
  b->brake_share = static_cast<double>(r.bounded(1000000)) / kMillion;
  b->excludes = get_text(r, kMaxExcludes);
  b->previous = get_root(r);
  return r.at_end();
}

std::string encode(const Committed& c) {
  std::string s;
  ByteWriter w(s);
  w.varint(c.epoch);
  put_bool(w, c.held);
  w.text(c.reason);
  w.varint(c.removed);
  w.varint(c.created);
  w.varint(c.changed);
  for (std::size_t i = kFirstOfBackup; i < kStages; ++i) put_seconds(w, c.times[i]);
  w.text(c.root);
  return s;
}

bool decode(std::string_view bytes, Committed* c) {
  ByteReader r(bytes);
  *c = Committed{};
  c->epoch = r.varint();
  c->held = get_bool(r);
  c->reason = get_text(r, kMaxText);
  c->removed = r.varint();
  c->created = r.varint();
  c->changed = r.varint();
  for (std::size_t i = kFirstOfBackup; i < kStages; ++i) c->times[i] = get_seconds(r);
  c->root = get_root(r);
  return r.at_end();
}

std::string encode(const Applied& a) {
  std::string s;
  ByteWriter w(s);
  w.varint(a.epoch);
  put_seconds(w, a.seconds);
  return s;
}

bool decode(std::string_view bytes, Applied* a) {
  ByteReader r(bytes);
  *a = Applied{};
  a->epoch = r.varint();
  a->seconds = get_seconds(r);
  return r.at_end();
}

std::string encode(const std::vector<ListRow>& rows, const ObjectId& dir) {
  std::string s;
  ByteWriter w(s);
  w.id(dir);
  w.varint(rows.size());
  for (const ListRow& row : rows) {
    w.text(row.name);
    w.id(row.object);
    w.u8(static_cast<std::uint8_t>(row.kind));
    w.varint(row.size);
    put_time(w, row.mtime);
    put_time(w, row.ctime);
    w.u64(row.attr_hash);
  }
  return s;
}

bool decode(std::string_view bytes, std::vector<ListRow>* rows, ObjectId* dir) {
  ByteReader r(bytes);
  rows->clear();
  *dir = r.id();
  std::size_t n = r.bounded(kMaxRows);
  for (std::size_t i = 0; i < n && r.ok(); ++i) {
    ListRow row;
    row.name = get_text(r, kMaxName);
    row.object = r.id();
    std::uint8_t kind = r.u8();
    row.size = r.varint();
    row.mtime = get_time(r);
    row.ctime = get_time(r);
    row.attr_hash = r.u64();
    if (!valid_name(row.name) || kind == 0 || kind > static_cast<std::uint8_t>(Kind::blk)) r.poison();
    row.kind = static_cast<Kind>(kind);
    rows->push_back(std::move(row));
  }
  return r.at_end();
}

std::string encode(const std::vector<InspectRow>& rows) {
  std::string s;
  ByteWriter w(s);
  w.varint(rows.size());
  for (const InspectRow& row : rows) {
    w.varint(row.path.size());
    for (const std::string& name : row.path) w.text(name);
    w.id(row.object);
    put_attr(w, row.attr);
    w.text(row.content);
    w.u64(row.xattr_hash);
    w.text(row.trouble);
  }
  return s;
}

bool decode(std::string_view bytes, std::vector<InspectRow>* rows) {
  ByteReader r(bytes);
  rows->clear();
  std::size_t n = r.bounded(kMaxRows);
  for (std::size_t i = 0; i < n && r.ok(); ++i) {
    InspectRow row;
    std::size_t depth = r.bounded(kMaxDepth);
    for (std::size_t d = 0; d < depth && r.ok(); ++d) {
      row.path.push_back(get_text(r, kMaxName));
      if (!valid_name(row.path.back())) r.poison();
    }
    row.object = r.id();
    row.attr = get_attr(r);
    row.content = get_text(r, 32);
    row.xattr_hash = r.u64();
    row.trouble = get_text(r, kMaxText);
    rows->push_back(std::move(row));
  }
  return r.at_end();
}

std::string encode(const std::vector<StagedRow>& rows) {
  std::string s;
  ByteWriter w(s);
  w.varint(rows.size());
  for (const StagedRow& row : rows) {
    w.id(row.object);
    w.varint(row.size);
    put_time(w, row.mtime);
    put_time(w, row.ctime);
    w.text(row.hash);
  }
  return s;
}

bool decode(std::string_view bytes, std::vector<StagedRow>* rows) {
  ByteReader r(bytes);
  rows->clear();
  std::size_t n = r.bounded(kMaxRows);
  for (std::size_t i = 0; i < n && r.ok(); ++i) {
    StagedRow row;
    row.object = r.id();
    row.size = r.varint();
    row.mtime = get_time(r);
    row.ctime = get_time(r);
    row.hash = get_text(r, 32);
    rows->push_back(std::move(row));
  }
  return r.at_end();
}

std::string encode(const ErrorBody& e) {
  std::string s;
  ByteWriter w(s);
  w.u8(e.exit);
  w.text(std::string_view(e.line).substr(0, kMaxText));
  return s;
}

bool decode(std::string_view bytes, ErrorBody* e) {
  ByteReader r(bytes);
  e->exit = r.u8();
  e->line = get_text(r, kMaxText);
  return r.at_end();
}

std::string sha256(std::string_view bytes) {
  std::string digest(32, '\0');
  CryptoPP::SHA256().CalculateDigest(reinterpret_cast<CryptoPP::byte*>(digest.data()),
                                     reinterpret_cast<const CryptoPP::byte*>(bytes.data()), bytes.size());
  return digest;
}

std::uint64_t hash64(std::string_view bytes) {
  std::string digest = sha256(bytes);
  return ByteReader(std::string_view(digest)).u64();
}

std::uint64_t attr_hash(const Attr& attr, const Xattrs& xattrs, std::string_view target) {
  std::string s;
  ByteWriter w(s);
  w.u32(attr.mode);
  w.u32(attr.uid);
  w.u32(attr.gid);
  w.u64(attr.rdev);
  put_xattrs(w, xattrs);
  w.text(target);
  return hash64(s);
}

}  // namespace somfs::replicator
