// SPDX-License-Identifier: Apache-2.0
#include "snapshot/dirty_set.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "tests/unit/snapshot/toy_tree.h"

namespace somfs::snapshot {
namespace {

using test::LoggedChange;
using test::ToyTree;

Change write(std::uint64_t ino, std::uint64_t off, std::uint64_t len) {
  Change c;
  c.what = ChangeKind::write;
  c.object = {ino, 1};
  c.extent = {off, len};
  return c;
}

DirtySet compact(const std::vector<LoggedChange>& log, std::size_t from, std::size_t to, DirtySet::Bounds bounds) {
  DirtySet set(bounds);
  for (std::size_t i = from; i < to; ++i) set.add(log[i].get());
  return set;
}

struct History {
  ToyTree before, after;
  std::vector<LoggedChange> log;
};

History history(const std::vector<std::uint64_t>& past, const std::vector<std::uint64_t>& dice) {
  History h;
  std::vector<LoggedChange> forgotten;
  std::uint64_t n = 0;
  for (int i = 0; i < 40; ++i) h.before.mutate(++n, forgotten);
  for (auto d : past) h.before.mutate(d * 1000 + ++n, forgotten);
  h.before.sweep();
  h.after = h.before;
  for (auto d : dice) h.after.mutate(d * 1000 + ++n, h.log);
  return h;
}

bool patches(const History& h, const DirtySet& dirty) {
  ToyTree mirror = h.before, now = h.after;
  mirror.patch(dirty, h.after);
  mirror.sweep();
  now.sweep();
  return mirror == now;
}

using Seeds = std::vector<std::uint64_t>;

DirtySet in_pieces(const std::vector<LoggedChange>& log, const Seeds& cuts, DirtySet::Bounds bounds, bool encoded) {
  std::set<std::size_t> at{log.size()};
  for (auto c : cuts) at.insert(c % (log.size() + 1));
  DirtySet set(bounds);
  std::size_t from = 0;
  for (auto to : at) {
    DirtySet piece = compact(log, from, to, bounds);
    if (encoded) {
      DirtySet again(bounds);
      RC_ASSERT(DirtySet::decode(piece.encode(), &again));
      piece = again;
    }
    set.merge(piece);
    from = to;
  }
  return set;
}

TEST(DirtySetProperty, patching_with_the_set_of_a_log_replays_the_log) {
  EXPECT_TRUE(rc::check([](const Seeds& past, const Seeds& dice, const Seeds& cuts) {
    History h = history(past, dice);
    DirtySet whole = compact(h.log, 0, h.log.size(), {});
    RC_ASSERT(patches(h, whole));
    DirtySet merged = in_pieces(h.log, cuts, {}, cuts.size() % 2 != 0);
    RC_ASSERT(merged == whole);
    RC_ASSERT(merged.estimated_bytes() == whole.estimated_bytes());
  }));
}

TEST(DirtySetProperty, within_tiny_bounds_the_set_says_too_much_never_too_little) {
  EXPECT_TRUE(rc::check([](const Seeds& past, const Seeds& dice, const Seeds& cuts, std::uint16_t bytes) {
    History h = history(past, dice);
    const DirtySet::Bounds bounds{1 + bytes % 4u, bytes % 16000u};
    RC_ASSERT(patches(h, compact(h.log, 0, h.log.size(), bounds)));
    DirtySet merged = in_pieces(h.log, cuts, bounds, cuts.size() % 2 != 0);
    RC_ASSERT(patches(h, merged));
    RC_ASSERT(merged.estimated_bytes() <= bounds.bytes);
  }));
}

TEST(DirtySetProperty, mutated_bytes_decode_to_a_set_or_to_false) {
  EXPECT_TRUE(rc::check([](const Seeds& dice, const std::vector<std::pair<std::uint32_t, std::uint8_t>>& flips, std::uint16_t cut) {
    std::string bytes = compact(history({}, dice).log, 0, history({}, dice).log.size(), {}).encode();
    for (auto [at, value] : flips) bytes[at % bytes.size()] = static_cast<char>(value);
    if (cut % 3 == 0) bytes.resize(cut % (bytes.size() + 1));
    DirtySet set;
    if (!DirtySet::decode(bytes, &set)) return;
    DirtySet again;
    RC_ASSERT(DirtySet::decode(set.encode(), &again));
    RC_ASSERT(again == set);
  }));
}

TEST(ExtentSetProperty, agrees_with_a_bitmap) {
  EXPECT_TRUE(rc::check([](const std::vector<std::pair<std::uint8_t, std::uint8_t>>& adds) {
    ExtentSet set;
    std::vector<bool> bits(1024);
    for (auto [off, len] : adds) {
      RC_ASSERT(set.covers(off, len) ==
                std::all_of(bits.begin() + off, bits.begin() + off + len, [](bool b) { return b; }));
      set.add(off, len);
      std::fill(bits.begin() + off, bits.begin() + off + len, true);
    }
    RC_ASSERT(set.bytes(300) == static_cast<std::uint64_t>(std::count(bits.begin(), bits.begin() + 300, true)));
    std::uint64_t last = 0;
    for (const auto& [start, end] : set.map()) {
      RC_ASSERT(start < end);
      RC_ASSERT(start > last || (start == 0 && last == 0));
      last = end;
    }
  }));
}

TEST(ExtentSet, saturates_and_coarsens_outwards) {
  ExtentSet set;
  set.add(ExtentSet::kToEnd - 5, 100);
  EXPECT_EQ(set.map().begin()->second, ExtentSet::kToEnd);
  set.add(100, 1);
  set.coarsen(64);
  EXPECT_EQ(set.map().begin()->first, 64u);
  EXPECT_EQ(set.map().begin()->second, 128u);
  EXPECT_EQ(set.map().rbegin()->second, ExtentSet::kToEnd);
}

TEST(DirtySet, a_change_it_holds_already_is_no_news) {
  DirtySet set;
  EXPECT_TRUE(set.add(write(5, 0, 100)));
  EXPECT_FALSE(set.add(write(5, 10, 20)));
  EXPECT_TRUE(set.add(write(5, 90, 20)));
}

TEST(DirtySet, too_many_extents_are_coarsened_before_they_are_given_up) {
  DirtySet set(DirtySet::Bounds{8, 64u << 20});
  for (std::uint64_t i = 0; i < 9; ++i) set.add(write(5, i * 8192, 1));
  const DirtyObject& o = set.objects().begin()->second;
  EXPECT_FALSE(o.whole);
  EXPECT_EQ(o.extents.count(), 1u);
  EXPECT_TRUE(o.extents.covers(0, 65536));
  EXPECT_TRUE(set.degraded());
  for (std::uint64_t i = 0; i < 9; ++i) set.add(write(5, i << 40, 1));
  EXPECT_TRUE(set.objects().begin()->second.whole);
}

TEST(DirtySet, an_object_that_lost_its_known_name_is_not_folded_into_that_directory) {
  DirtySet set(DirtySet::Bounds{8, 40'000});
  Change c;
  c.what = ChangeKind::bind;  // a second name, and then it is gone again: the first one lies elsewhere
  c.object = {7, 1};
  c.parent = {10, 1};
  c.name = "x";
  set.add(c);
  set.add(write(7, 0, 1));
  c.what = ChangeKind::unbind;
  c.old = {7, 1};
  c.object = {};
  set.add(c);
  for (std::uint64_t i = 0; i < 200 && !set.objects().at({10, 1}).subtree; ++i) {
    c.what = ChangeKind::bind;
    c.object = {100 + i, 1};
    c.old = {};
    std::string name = "f" + std::to_string(i);
    c.name = name;
    set.add(c);
  }
  ASSERT_FALSE(set.volume_whole());
  ASSERT_TRUE(set.objects().at({10, 1}).subtree);
  EXPECT_TRUE(set.objects().at({7, 1}).whole);
}

TEST(DirtySet, folds_the_objects_of_a_directory_before_it_gives_up_the_volume) {
  DirtySet set(DirtySet::Bounds{8, 100'000});
  for (std::uint64_t i = 0; i < 5000; ++i) {
    Change c;
    c.what = ChangeKind::bind;
    c.object = {100 + i, 1};
    c.parent = {10 + i % 3, 1};
    std::string name = "f" + std::to_string(i);
    c.name = name;
    set.add(c);
  }
  EXPECT_FALSE(set.volume_whole());
  for (std::uint64_t d = 10; d < 13; ++d) EXPECT_TRUE(set.objects().at({d, 1}).subtree);
  for (std::uint64_t i = 0; i < 5000; ++i) set.add(write(100'000 + i, 0, 1));
  EXPECT_TRUE(set.volume_whole());
  EXPECT_EQ(set.estimated_bytes(), 0u);
}

}  // namespace
}  // namespace somfs::snapshot
