// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "snapshot/journal_epochs.h"
#include "snapshot/journal_log.h"
#include "snapshot/journal_state.h"
#include "tests/unit/snapshot/scratch.h"
#include "tests/unit/snapshot/toy_tree.h"

namespace somfs::snapshot {
namespace {

using test::LoggedChange;
using test::Scratch;
using test::ToyTree;
using Flips = std::vector<std::pair<std::uint32_t, std::uint8_t>>;

// Bytes are changed behind a right checksum, so that the reader itself is tried.
std::string spoiled(std::string bytes, const Flips& flips, bool mend) {
  for (auto [at, value] : flips) bytes[at % bytes.size()] = static_cast<char>(value);
  if (!mend) return bytes;
  bytes.resize(bytes.size() - 4);
  ByteWriter(bytes).u32(crc32c(bytes));
  return bytes;
}

TEST(JournalFormats, every_random_change_comes_back_as_it_was) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    ToyTree tree;
    std::vector<LoggedChange> log;
    for (std::uint64_t i = 0; i < 60; ++i) tree.mutate(seed * 100ull + i, log);
    DirtySet direct, decoded;
    for (const auto& c : log) {
      std::string body;
      encode_change(body, c.get());
      ChangeBody out;
      RC_ASSERT(decode_change(body, &out));
      direct.add(c.get());
      decoded.add(out.get());
    }
    RC_ASSERT(direct == decoded);
  }));
}

std::string from_hex(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) out += static_cast<char>(std::stoi(std::string(text.substr(i, 2)), nullptr, 16));
  return out;
}

// As they are in docs/formats/journal.md: without the root of a target's history, as such states were before there was one, and with it.
TEST(JournalFormats, a_state_reads_with_and_without_roots) {
  const std::string before = from_hex("736f6d66736a737401000000111111111111111111111111111111112222222222222222222222222222222233333333333333333333333333333333"
                                        "00026673008a130000000000000000000000000000a00f00000000000003000000000000000800000000000000000000000000000001000000000000"
                                        "00050000000000000001022f6d4444444444444444444444444444444402000000000000000807000000000000010300000000000000ae8d7899");
  const std::string with = from_hex("736f6d66736a737401000000111111111111111111111111111111112222222222222222222222222222222233333333333333333333333333333333"
                                      "00026673008a130000000000000000000000000000a00f00000000000003000000000000000800000000000000000000000000000001000000000000"
                                      "00050000000000000001022f6d4444444444444444444444444444444402000000000000000807000000000000050300000000000000555555555555"
                                      "5555555555555555555555555555555555555555555555555555ab7792ed");
  JournalState s;
  ASSERT_TRUE(JournalState::decode(before, &s));
  EXPECT_EQ(s.encode(), before);
  TargetState& target = s.targets.at("/m").state;
  EXPECT_EQ(target.acked_epoch, 2u);
  EXPECT_EQ(target.acked_cut_ns, 1800);
  EXPECT_EQ(target.root, "");
  EXPECT_TRUE(target.gap);
  target.root = std::string(32, '\x55');
  EXPECT_EQ(s.encode(), with);
  ASSERT_TRUE(JournalState::decode(with, &s));
  EXPECT_EQ(s.targets.at("/m").state.root, std::string(32, '\x55'));
  EXPECT_EQ(s.targets.at("/m").gap_epoch, 3u);
  EXPECT_EQ(s.encode(), with);
}

TEST(JournalFormats, a_state_comes_back_and_a_spoiled_one_is_refused_or_read) {
  JournalState s;
  s.volume = Uuid::random();
  s.renew_generation();
  s.renew_generation();
  s.fs_id = "fs";
  s.scan_pending = true;
  s.epoch = 7;
  s.targets["t"] = {{"t", Uuid::random(), 5, 1, true, true, {}}, 6};
  s.targets["u"] = {{"u", Uuid::random(), 5, 1, false, false, std::string(32, 'r')}, 0};
  const std::string bytes = s.encode();
  JournalState back;
  ASSERT_TRUE(JournalState::decode(bytes, &back));
  EXPECT_EQ(back.encode(), bytes);
  EXPECT_TRUE(rc::check([&](const Flips& flips, bool mend) {
    JournalState out;
    const std::string bad = spoiled(bytes, flips, mend);
    RC_ASSERT(!JournalState::decode(bad, &out) || mend || bad == bytes);
  }));
}

TEST(JournalFormats, a_piece_comes_back_and_a_spoiled_one_is_refused_or_read) {
  ToyTree tree;
  std::vector<LoggedChange> log;
  DirtySet set;
  for (std::uint64_t i = 0; i < 100; ++i) tree.mutate(i, log);
  for (const auto& c : log) set.add(c.get());
  const std::string bytes = encode_piece({9, 8, 3, 4, {7, 8}}, set);
  Piece piece;
  DirtySet back;
  ASSERT_TRUE(decode_piece(bytes, &piece, &back));
  EXPECT_TRUE(back == set && piece.number == 9 && piece.order == 8 && piece.replaces.size() == 2);
  EXPECT_TRUE(rc::check([&](const Flips& flips, bool mend) {
    Piece p;
    DirtySet out;
    const std::string bad = spoiled(bytes, flips, mend);
    RC_ASSERT(!decode_piece(bad, &p, &out) || mend || bad == bytes);
  }));
}

TEST(JournalFormats, a_spoiled_segment_gives_a_prefix_of_its_records) {
  Scratch dir;
  auto made = Segment::create(dir.fd(), 1, 8192);
  ASSERT_TRUE(made);
  Segment& s = **made;
  s.begin({1, 1, Uuid::random(), Uuid::random()});
  std::vector<std::string> bodies;
  for (std::uint64_t i = 1; s.fits(200); ++i) {
    bodies.emplace_back(i % 100, static_cast<char>(i));
    s.append(RecordType::mark, i, 0, bodies.back());
  }
  s.seal(0, 0);
  const std::string bytes = *read_file(dir.fd(), "log-1", 1u << 20);
  auto scan = [&](const std::string& from, std::size_t* count) {
    return scan_segment(from, [&](const SegmentHeader&, const ScannedRecord& r) {
      RC_ASSERT(r.body == bodies.at((*count)++));
      return true;
    });
  };
  std::size_t all = 0;
  EXPECT_EQ(scan(bytes, &all).how, ScanEnd::How::sealed);
  EXPECT_EQ(all, bodies.size());
  EXPECT_TRUE(rc::check([&](const Flips& flips) {
    std::string bad = bytes;
    for (auto [at, value] : flips) bad[(at * 7919u) % bad.size()] = static_cast<char>(value);
    std::size_t count = 0;
    scan(bad, &count);
  }));
}

}  // namespace
}  // namespace somfs::snapshot
