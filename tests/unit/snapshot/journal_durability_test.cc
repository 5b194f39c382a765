// SPDX-License-Identifier: Apache-2.0
// What a power cut leaves, rebuilt from the syncs that were really made: removing any one of them makes a test here fail.
#include "tests/unit/snapshot/journal_fixture.h"

namespace somfs::snapshot {
namespace {

class PowerCutTest : public test::JournalTest {
 protected:
  DirtySet suspects() {
    auto j = open_after_power_cut();
    EXPECT_EQ(j->gap_found(), Gap::crashed);
    const std::uint64_t epoch = j->rotate();
    return j->known_since(epoch - 1, epoch);
  }
};

TEST_F(PowerCutTest, a_mark_promised_now_is_durable_before_the_write_is_issued) {
  auto j = open();
  j->intend(id(5), nullptr, Promise::now);
  EXPECT_TRUE(whole(suspects(), 5));
}

TEST_F(PowerCutTest, a_mark_made_soon_and_then_promised_now_is_durable) {
  auto j = open();
  j->intend(id(5), nullptr, Promise::soon);
  j->intend(id(5), nullptr, Promise::now);
  EXPECT_TRUE(whole(suspects(), 5));
}

TEST_F(PowerCutTest, fsync_makes_every_mark_durable_across_segments) {
  auto j = open();
  for (std::uint64_t n = 1; n <= 3000; ++n) j->intend(id(n), nullptr, Promise::soon);
  j->make_marks_durable();
  const DirtySet set = suspects();
  for (std::uint64_t n = 1; n <= 3000; ++n) ASSERT_TRUE(whole(set, n)) << n;
}

TEST_F(PowerCutTest, nothing_is_synced_when_no_mark_waits_for_it) {
  auto j = open();
  write(*j, 5);
  j->make_marks_durable();
  const int before = watch.syncs;
  write(*j, 5, 1000, 10, Promise::now);
  j->make_marks_durable();
  EXPECT_EQ(watch.syncs, before);
}

TEST_F(PowerCutTest, a_round_of_the_keeper_makes_marks_durable) {
  auto j = open();
  write(*j, 5);
  ASSERT_TRUE(j->flush());
  EXPECT_TRUE(whole(suspects(), 5));
}

TEST_F(PowerCutTest, an_object_is_a_suspect_until_it_was_quiet_for_an_epoch_though_acknowledged) {
  auto j = open();
  write(*j, 1);
  j->rotate();
  write(*j, 2);
  j->rotate();
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 2));
  const DirtySet set = suspects();
  EXPECT_TRUE(whole(set, 2));
  EXPECT_FALSE(whole(set, 1));
}

TEST_F(PowerCutTest, segments_go_only_after_their_epoch_is_durable) {
  auto j = open();
  write(*j, 1, 0, 10, Promise::now);
  j->rotate();
  write(*j, 2, 0, 10, Promise::now);
  {
    test::Scratch early;  // before compaction: the first segment still tells
    watch.leave(early.fd());
    auto past = options;
    past.boot = Uuid::random();
    auto again = Journal::open(early.fd(), fs_id, clock, past);
    ASSERT_TRUE(again);
    const std::uint64_t epoch = (*again)->rotate();
    EXPECT_TRUE(whole((*again)->known_since(epoch - 1, epoch), 1));
  }
  ASSERT_TRUE(j->flush());
  const DirtySet set = suspects();
  EXPECT_TRUE(whole(set, 1) && whole(set, 2));
}

TEST_F(PowerCutTest, a_scan_reaches_no_further_back_than_the_last_compaction) {
  auto j = open();
  write(*j, 1);
  clock.advance_ms(60'000);
  j->rotate();
  const auto compacted = clock.wall;
  ASSERT_TRUE(j->flush());
  EXPECT_EQ(open_after_power_cut()->trusted_until_ns(), compacted);
}

TEST_F(PowerCutTest, the_end_of_an_epoch_is_durable_before_its_changes_are_handed_out) {
  auto j = open();
  write(*j, 1);
  j->rotate();
  write(*j, 2);
  const std::uint64_t ended = j->rotate();
  since(*j, 0, ended);
  auto again = open_after_power_cut();
  EXPECT_GT(again->epoch(), ended);
  EXPECT_TRUE(again->known_since(0, ended).objects().contains(id(1)));
}

TEST_F(PowerCutTest, targets_and_gaps_are_durable_on_return) {
  auto j = open();
  const Uuid mirror = Uuid::random();
  j->rotate();
  ASSERT_TRUE(j->acknowledge("m", mirror, 1));
  j->flag_gap(true);
  auto again = open_after_power_cut();
  ASSERT_TRUE(again->target("m"));
  EXPECT_EQ(again->target("m")->mirror, mirror);
  EXPECT_EQ(again->target("m")->acked_epoch, 1u);
  EXPECT_TRUE(again->target("m")->content);
}

TEST_F(PowerCutTest, the_findings_of_a_finished_scan_are_durable) {
  open().reset();
  auto j = open();
  j->found(id(4), nullptr, false);
  ASSERT_TRUE(j->finish_gap_scan());
  EXPECT_TRUE(whole(suspects(), 4));
}

TEST_F(PowerCutTest, a_clean_mark_is_durable) {
  auto j = open();
  write(*j, 1);
  ASSERT_TRUE(j->close());
  auto again = open_after_power_cut();
  EXPECT_EQ(again->gap_found(), Gap::unmounted);
  EXPECT_TRUE(again->known_since(0, again->rotate()).objects().contains(id(1)));
}

TEST_F(PowerCutTest, a_crash_is_trusted_no_longer_than_its_last_durable_record) {
  auto j = open();
  write(*j, 1);
  j->make_marks_durable();
  const auto durable = clock.wall;
  clock.advance_ms(60'000);
  write(*j, 2);
  auto again = open_after_power_cut();
  EXPECT_LE(again->trusted_until_ns(), durable);
  EXPECT_EQ(again->ancestors().size(), 0u) << "a power loss is no fork";
}

}  // namespace
}  // namespace somfs::snapshot
