// SPDX-License-Identifier: Apache-2.0
#include "snapshot/store_seen.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "tests/unit/snapshot/store_harness.h"

namespace somfs::snapshot {
namespace {

ChunkRecord record(std::uint64_t first, std::uint64_t count) { return {{5, 6}, first, count * kChunk, 0, true}; }

TEST(StoreSeen, AHoleAsLargeAsAFileCanBeCostsNothing) {
  Seen seen;
  seen.add(record(3, 1));
  seen.add(record(1u << 20, 1ull << 46));
  const Seen::Object& o = *seen.find({5, 6});
  EXPECT_LT(seen.bytes(), 1000u);
  EXPECT_TRUE(o.chunk(1ull << 45));
  EXPECT_FALSE(o.chunk((1ull << 46) + (1u << 20)));
  constexpr std::uint64_t end = 1ull << 47;
  EXPECT_EQ(o.next(0, end, true), 3u);
  EXPECT_EQ(o.next(3, end, false), 4u);
  EXPECT_EQ(o.next(4, end, true), 1u << 20);
  EXPECT_EQ(o.next(1u << 20, end, false), (1ull << 46) + (1u << 20));
  EXPECT_EQ(o.next((1ull << 46) + (1u << 20), end, true), end);
  Seen other;
  other.merge(seen);
  EXPECT_EQ(other.find({5, 6})->next(4, end, true), 1u << 20);
}

TEST(StoreSeen, NextIsWhatAskingEachChunkGives) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::mt19937 random(seed);
    constexpr std::uint64_t end = 30000;
    Seen seen;
    std::vector<bool> have(end, false);
    for (unsigned i = 0; i < seed % 12; ++i) {
      const std::uint64_t first = random() % end;
      const std::uint64_t count = std::min<std::uint64_t>(end - first, 1 + random() % (i % 3 == 0 ? 9000 : 200));
      seen.add(record(first, count));
      std::fill_n(have.begin() + static_cast<std::ptrdiff_t>(first), count, true);
    }
    const Seen::Object* o = seen.find({5, 6});
    if (o == nullptr) continue;
    for (const bool there : {true, false}) {
      std::uint64_t next = end;
      for (std::uint64_t i = end; i-- > 0;) {
        if (have[i] == there) next = i;
        ASSERT_EQ(o->next(i, end, there), next) << seed << " " << i;
        ASSERT_EQ(o->chunk(i), have[i]);
      }
    }
  }
}

// Everywhere a little data, then all of it goes: the store's index stays small, and so does that of the store opened anew.
TEST(StoreSeen, AHugeSparseFileThatIsCutOffCostsLittle) {
  test::Volume v;
  constexpr std::uint64_t size = 8ull << 40;
  v.open_store();
  v.create("/f", "beginning");
  v.truncate("/f", size);
  v.write("/f", size - 7, "the end");
  v.snapshot("s");
  v.write("/f", size / 2, "written after the cut");
  v.truncate("/f", 0);
  v.close_store();
  v.open_store();
  const ObjectId id = inode_at(v.root.get(), "f").value().id;
  Seen seen;
  const std::string log = read_file(v.dir.get(), "00000001-s/log", 1u << 20).value();
  const LogParse parsed = parse_log(log, [&](LogRecord&& r) { seen.add(r); });
  EXPECT_EQ(parsed.end, LogEnd::clean);
  EXPECT_LT(seen.bytes(), 10000u);
  EXPECT_EQ(seen.find(id)->next(0, size / kChunk, false), size / kChunk);
  auto view = View::open(v.root.get(), v.dir.get(), "s").value();
  auto top = view->root().value();
  auto file = view->open_in(top, {"f", view->lookup(top, "f").value().value()}).value();
  char end[8] = {};
  ASSERT_EQ(file.read(end, sizeof end, size - 7).value(), 7u);
  EXPECT_EQ(std::string(end), "the end");
  ASSERT_EQ(file.read(end, 7, size / 2).value(), 7u);
  EXPECT_EQ(std::string(end, 7), std::string(7, '\0'));
}

}  // namespace
}  // namespace somfs::snapshot
