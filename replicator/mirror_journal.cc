// SPDX-License-Identifier: Apache-2.0
#include "replicator/mirror_journal.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/bytes.h"

namespace somfs::replicator {

namespace {

constexpr std::string_view kMagic = "somfsrd1";
constexpr std::size_t kBlock = 256u << 10;
constexpr std::size_t kMaxBlock = 8u << 20;    // one block holds at least one operation whole

void put_block(std::string& out, std::string_view payload) {
  ByteWriter w(out);
  w.u32(static_cast<std::uint32_t>(payload.size()));
  w.u32(crc32c(payload));
  w.raw(payload);
}

void encode_op(ByteWriter& w, const RedoOp& op) {
  w.u8(static_cast<std::uint8_t>(op.type));
  switch (op.type) {
    case RedoOp::Type::object: {
      w.u64(static_cast<std::uint64_t>(op.row));
      w.u8(op.fresh ? 1 : 0);
      w.id(op.inode);
      w.u64(static_cast<std::uint64_t>(op.parent));
      w.text(op.name);
      std::string record;
      RecordWriter(record).object(op.record);
      w.text(record);
      break;
    }
    case RedoOp::Type::data:
      w.varint(op.off);
      w.text(op.bytes);
      break;
    case RedoOp::Type::hole:
      w.varint(op.off);
      w.varint(op.len);
      break;
    case RedoOp::Type::name:
      w.u64(static_cast<std::uint64_t>(op.parent));
      w.text(op.name);
      w.u64(static_cast<std::uint64_t>(op.row));
      break;
    case RedoOp::Type::end:
      w.u64(op.off);
      break;
  }
}

bool decode_op(ByteReader& r, RedoOp* op) {
  *op = RedoOp{};
  op->type = static_cast<RedoOp::Type>(r.u8());
  switch (op->type) {
    case RedoOp::Type::object: {
      op->row = static_cast<Row>(r.u64());
      op->fresh = r.u8() == 1;
      op->inode = r.id();
      op->parent = static_cast<Row>(r.u64());
      op->name = std::string(r.text(kMaxName));
      RecordReader reader(r.text(kMaxBlock));
      Record record;
      if (!reader.next(&record) || record.type != RecordType::object) return false;
      op->record = std::move(record.object);
      break;
    }
    case RedoOp::Type::data:
      op->off = r.varint();
      op->bytes = r.text(kMaxDataRecord);
      op->len = op->bytes.size();
      break;
    case RedoOp::Type::hole:
      op->off = r.varint();
      op->len = r.varint();
      break;
    case RedoOp::Type::name:
      op->parent = static_cast<Row>(r.u64());
      op->name = std::string(r.text(kMaxName));
      op->row = static_cast<Row>(r.u64());
      break;
    case RedoOp::Type::end:
      op->off = r.u64();
      break;
    default:
      return false;
  }
  return r.ok();
}

tl::unexpected<Error> damaged() {
  return fail(Exit::temporary, "the mirror's redo list is damaged", {}, "a committed epoch could not be played onto tree/",
              "nothing is lost: verify with --repair, or migrate in full");
}

}  // namespace

Result<RedoWriter> RedoWriter::create(int dir, const std::string& name, const RedoHead& head) {
  RedoWriter w;
  w.fd_ = Fd(::openat(dir, name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!w.fd_) return fail_errno("cannot create the mirror's redo list");
  std::string payload, out(kMagic);
  ByteWriter b(payload);
  b.u64(head.epoch);
  b.raw(head.volume.raw());
  b.raw(head.generation.raw());
  b.text(head.ancestors);
  b.text(head.host);
  b.text(head.excludes);
  put_block(out, payload);
  if (int e = write_all(w.fd_.get(), out); e != 0) return fail_errno("cannot write the mirror's redo list", {}, e);
  return w;
}

Status RedoWriter::add(const RedoOp& op) {
  ByteWriter w(block_);
  encode_op(w, op);
  ++operations_;
  if (op.type == RedoOp::Type::data) in_place_ += op.bytes.size();
  return block_.size() >= kBlock ? flush() : Status();
}

Status RedoWriter::flush() {
  if (block_.empty()) return {};
  if (block_.size() > kMaxBlock) return fail(Exit::temporary, "refusing a record", {}, "it is larger than a redo block");
  std::string out;
  out.reserve(block_.size() + 8);
  put_block(out, block_);
  block_.clear();
  if (int e = write_all(fd_.get(), out); e != 0) return fail_errno("cannot write the mirror's redo list", {}, e);
  return {};
}

Status RedoWriter::finish() {
  RedoOp end;
  end.off = operations_;
  SOMFS_TRY(add(end));
  SOMFS_TRY(flush());
  if (::fsync(fd_.get()) != 0) return fail_errno("cannot sync the mirror's redo list");
  return {};
}

Status read_redo(int dir, const std::string& name, bool whole, RedoHead* head, const std::function<Status(const RedoOp&)>& op) {
  Fd fd(::openat(dir, name.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOENT) return whole ? Status(damaged()) : Status();
    return fail_errno("cannot open the mirror's redo list");
  }
  std::string buffer(kMagic.size(), '\0');
  std::size_t got = 0;
  auto read = [&](std::size_t n) {
    buffer.resize(n);
    return read_all(fd.get(), buffer.data(), n, &got) == 0 && got == n;
  };
  auto stop = [&]() -> Status { return whole ? Status(damaged()) : Status(); };
  if (!read(kMagic.size()) || buffer != kMagic) return stop();
  std::uint64_t count = 0;
  for (bool first = true;; first = false) {
    if (!read(8)) return stop();
    ByteReader frame{std::string_view(buffer)};
    std::size_t length = frame.u32();
    std::uint32_t crc = frame.u32();
    if (length > kMaxBlock || !read(length) || crc32c(buffer) != crc) return stop();
    ByteReader r{std::string_view(buffer)};
    if (first) {
      RedoHead h;
      h.epoch = r.u64();
      h.volume = Uuid::from_raw(r.raw(16));
      h.generation = Uuid::from_raw(r.raw(16));
      h.ancestors = std::string(r.text(64 * 16));
      h.host = std::string(r.text(4096));
      h.excludes = std::string(r.text(1u << 20));
      if (!r.at_end()) return stop();
      if (head != nullptr) *head = h;
      continue;
    }
    RedoOp o;
    while (!r.at_end()) {
      if (!decode_op(r, &o)) return stop();
      if (o.type == RedoOp::Type::end) return o.off == count && r.at_end() ? Status() : stop();
      ++count;
      SOMFS_TRY(op(o));
    }
  }
}

}  // namespace somfs::replicator
