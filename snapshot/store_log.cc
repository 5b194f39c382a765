// SPDX-License-Identifier: Apache-2.0
#include "snapshot/store_log.h"

#include <charconv>

#include <fmt/format.h>

#include "common/bytes.h"

namespace somfs::snapshot {

namespace {

constexpr std::uint64_t kMostUnread = 4096;

enum class Tag : std::uint8_t { name = 1, attr = 2, chunk = 3, hole = 4, whole = 5, attr_in_part = 6 };

void put(ByteWriter& w, const NameRecord& r) {
  w.u8(static_cast<std::uint8_t>(Tag::name));
  w.id(r.parent);
  w.text(r.name);
  w.id(r.child);
  w.u8(static_cast<std::uint8_t>(r.kind));
  put_handle(w, r.handle);
}
void put(ByteWriter& w, const AttrRecord& r) {
  w.u8(static_cast<std::uint8_t>(r.unread.empty() ? Tag::attr : Tag::attr_in_part));
  w.id(r.object);
  put_attr(w, r.attr);
  put_xattrs(w, r.xattrs);
  if (r.unread.empty()) return;
  w.varint(r.unread.size());
  for (const std::string& name : r.unread) w.text(name);
}
void put(ByteWriter& w, const ChunkRecord& r) {
  w.u8(static_cast<std::uint8_t>(r.hole ? Tag::hole : Tag::chunk));
  w.id(r.object);
  w.varint(r.first);
  w.varint(r.length);
  if (!r.hole) w.u64(r.data_off);
}
void put(ByteWriter& w, const WholeRecord& r) {
  w.u8(static_cast<std::uint8_t>(Tag::whole));
  w.id(r.object);
}

std::optional<LogRecord> decode(std::string_view body) {
  ByteReader r(body);
  std::optional<LogRecord> out;
  switch (static_cast<Tag>(r.u8())) {
    case Tag::name: {
      NameRecord n;
      n.parent = r.id();
      n.name = r.text(kMaxName);
      n.child = r.id();
      n.kind = static_cast<Kind>(r.u8());
      n.handle = get_handle(r);
      if (n.kind > Kind::blk || !valid_name(n.name)) return std::nullopt;
      out = std::move(n);
      break;
    }
    case Tag::attr:
    case Tag::attr_in_part: {
      AttrRecord a;
      a.object = r.id();
      a.attr = get_attr(r);
      a.xattrs = get_xattrs(r);
      if (static_cast<Tag>(body[0]) == Tag::attr_in_part)
        for (std::uint64_t n = r.bounded(kMostUnread); n != 0; --n) a.unread.emplace_back(r.text(kMaxName));
      out = std::move(a);
      break;
    }
    case Tag::chunk:
    case Tag::hole: {
      ChunkRecord c;
      c.hole = static_cast<Tag>(body[0]) == Tag::hole;
      c.object = r.id();
      c.first = r.varint();
      c.length = r.varint();
      if (!c.hole) c.data_off = r.u64();
      constexpr std::uint64_t most = 1ull << 63;
      if (c.length == 0 || c.length > most || c.first > most / kChunk || c.data_off > most) return std::nullopt;
      out = c;
      break;
    }
    case Tag::whole: {
      WholeRecord h;
      h.object = r.id();
      out = h;
      break;
    }
  }
  if (!out || !r.at_end()) return std::nullopt;
  return out;
}

bool hex(std::string_view text, std::uint64_t* out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out, 16);
  return !text.empty() && error == std::errc{} && end == text.data() + text.size();
}

constexpr std::string_view kInfoMagic = "SOMSNAP1";

}  // namespace

std::string encode(const LogRecord& record) {
  std::string body;
  ByteWriter w(body);
  std::visit([&](const auto& r) { put(w, r); }, record);
  std::string out;
  if (body.size() > kMaxRecord) return out;
  out.reserve(body.size() + 8);
  ByteWriter f(out);
  f.u32(static_cast<std::uint32_t>(body.size()));
  f.u32(crc32c(body));
  f.raw(body);
  return out;
}

LogParse parse_log(std::string_view bytes, const std::function<void(LogRecord&&)>& take) {
  LogParse p;
  while (p.used < bytes.size()) {
    std::string_view rest = bytes.substr(p.used);
    ByteReader r(rest);
    std::uint32_t length = r.u32();
    std::uint32_t crc = r.u32();
    if (r.ok() && (length == 0 || length > kMaxRecord)) {
      // A length that no writer made: zeroes to the end are a tail that was allocated and never written.
      p.end = rest.find_first_not_of('\0') == std::string_view::npos ? LogEnd::torn : LogEnd::corrupt;
      return p;
    }
    std::string_view body = r.raw(length);
    if (!r.ok()) {
      p.end = LogEnd::torn;
      return p;
    }
    std::optional<LogRecord> record;
    if (crc32c(body) == crc) record = decode(body);
    if (!record) {
      p.end = r.at_end() ? LogEnd::torn : LogEnd::corrupt;
      return p;
    }
    take(std::move(*record));
    p.used += 8 + length;
  }
  return p;
}

std::string encode_info(const SnapshotInfo& info) {
  std::string body;
  ByteWriter w(body);
  w.raw(kInfoMagic);
  w.text(info.name);
  w.u64(info.epoch);
  w.i64(info.created_ns);
  w.u8(info.for_migration ? 1 : 0);
  w.i64(info.expires_ns);
  w.text(info.consistency);
  std::uint32_t crc = crc32c(body);
  w.u32(crc);
  return body;
}

std::optional<SnapshotInfo> decode_info(std::string_view bytes) {
  if (bytes.size() < 4) return std::nullopt;
  ByteReader tail(bytes.substr(bytes.size() - 4));
  bytes.remove_suffix(4);
  if (crc32c(bytes) != tail.u32()) return std::nullopt;
  ByteReader r(bytes);
  if (r.raw(kInfoMagic.size()) != kInfoMagic) return std::nullopt;
  SnapshotInfo info;
  info.name = r.text(64);
  info.epoch = r.u64();
  info.created_ns = r.i64();
  info.for_migration = r.u8() != 0;
  info.expires_ns = r.i64();
  info.consistency = r.text(64);
  if (!r.at_end() || !valid_snapshot_name(info.name)) return std::nullopt;
  return info;
}

std::string encode_dropped(const std::vector<DroppedSnapshot>& dropped) {
  std::string body;
  ByteWriter w(body);
  w.varint(dropped.size());
  for (const DroppedSnapshot& d : dropped) {
    w.text(d.name);
    w.text(d.reason);
    w.i64(d.when_ns);
  }
  std::uint32_t crc = crc32c(body);
  w.u32(crc);
  return body;
}

std::vector<DroppedSnapshot> decode_dropped(std::string_view bytes) {
  if (bytes.size() < 4) return {};
  ByteReader tail(bytes.substr(bytes.size() - 4));
  bytes.remove_suffix(4);
  if (crc32c(bytes) != tail.u32()) return {};
  ByteReader r(bytes);
  std::vector<DroppedSnapshot> out(r.bounded(kMostDropped));
  for (DroppedSnapshot& d : out) {
    d.name = r.text(64);
    d.reason = r.text(4096);
    d.when_ns = r.i64();
  }
  if (!r.at_end()) out.clear();
  return out;
}

std::string dir_name(const StoreEntry& e) {
  switch (e.state) {
    case StoreEntry::State::live: return fmt::format("{:08}-{}", e.seq, e.name);
    case StoreEntry::State::merging: return fmt::format("{:08}.merge", e.seq);
    case StoreEntry::State::gone: return fmt::format("gone-{}", e.seq);
    case StoreEntry::State::prepared: return fmt::format("prep-{}", e.name);
  }
  return {};
}

std::optional<StoreEntry> parse_dir_name(std::string_view name) {
  auto number = [](std::string_view digits, std::uint64_t* out) {
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), *out);
    return !digits.empty() && error == std::errc{} && end == digits.data() + digits.size() && *out != 0;
  };
  StoreEntry e;
  if (name.starts_with("gone-")) {
    e.state = StoreEntry::State::gone;
    if (!number(name.substr(5), &e.seq)) return std::nullopt;
  } else if (name.starts_with("prep-")) {
    e.state = StoreEntry::State::prepared;
    e.name = name.substr(5);
    if (!valid_snapshot_name(e.name)) return std::nullopt;
  } else if (name.ends_with(".merge") && name.find('-') == std::string_view::npos) {
    e.state = StoreEntry::State::merging;
    if (!number(name.substr(0, name.size() - 6), &e.seq)) return std::nullopt;
  } else {
    std::size_t dash = name.find('-');
    if (dash == std::string_view::npos || !number(name.substr(0, dash), &e.seq)) return std::nullopt;
    e.state = StoreEntry::State::live;
    e.name = name.substr(dash + 1);
    if (!valid_snapshot_name(e.name)) return std::nullopt;
  }
  return e;
}

std::string kept_name(const ObjectId& object) { return fmt::format("{:x}-{:x}", object.ino, object.birth); }
std::string whole_name(const ObjectId& object) { return kept_name(object) + ".data"; }

std::optional<ObjectId> parse_kept_name(std::string_view name) {
  std::size_t dash = name.find('-');
  ObjectId id;
  if (dash == std::string_view::npos || !hex(name.substr(0, dash), &id.ino) || !hex(name.substr(dash + 1), &id.birth))
    return std::nullopt;
  return id;
}

bool valid_snapshot_name(std::string_view name) {
  if (name.empty() || name.size() > 64 || name[0] == '.') return false;
  for (char c : name) {
    bool ok = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == ':' || c == '-';
    if (!ok) return false;
  }
  return true;
}

}  // namespace somfs::snapshot
