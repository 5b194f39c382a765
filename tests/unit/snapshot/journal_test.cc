// SPDX-License-Identifier: Apache-2.0
#include "snapshot/journal.h"

#include <sys/wait.h>

#include <algorithm>
#include <barrier>
#include <thread>

#include "common/bytes.h"
#include "tests/unit/snapshot/journal_fixture.h"

namespace somfs::snapshot {
namespace {

using test::JournalTest;
using test::list;

TEST_F(JournalTest, a_new_volume_has_no_gap_and_no_targets) {
  auto j = open();
  EXPECT_EQ(j->gap_found(), Gap::none);
  EXPECT_EQ(j->epoch(), 1u);
  EXPECT_TRUE(j->volume());
  EXPECT_FALSE(j->gap_scan_wanted());
  EXPECT_EQ(j->target("m").error().exit, Exit::not_allowed);
}

TEST_F(JournalTest, an_epoch_is_what_changed_between_two_cuts) {
  auto j = open();
  write(*j, 5, 0, 10);
  EXPECT_EQ(j->changes_in_epoch(), 1u);
  EXPECT_EQ(j->rotate(), 1u);
  EXPECT_EQ(j->changes_in_epoch(), 0u);
  write(*j, 6, 100, 10);
  EXPECT_EQ(j->rotate(), 2u);
  write(*j, 7);
  const DirtySet first = since(*j, 0, 1), second = since(*j, 1, 2), both = since(*j, 0, 2);
  EXPECT_EQ(first.objects().size(), 1u);
  EXPECT_TRUE(first.objects().at(id(5)).extents.covers(0, 10));
  EXPECT_FALSE(first.objects().at(id(5)).whole);
  EXPECT_TRUE(second.objects().contains(id(6)));
  EXPECT_EQ(both.objects().size(), 2u);
}

TEST_F(JournalTest, the_handle_of_a_directory_comes_with_its_mark) {
  auto j = open();
  const Handle h = handle(9);
  j->intend(id(9), &h, Promise::soon);
  Change c;
  c.what = ChangeKind::unbind;
  c.parent = id(9);
  c.name = "x";
  c.old = id(10);
  j->accept(c, {});
  EXPECT_EQ(since(*j, 0, j->rotate()).objects().at(id(9)).handle, h);
}

TEST_F(JournalTest, epochs_go_when_every_target_has_them_but_the_last_stays) {
  auto j = open();
  for (std::uint64_t n = 1; n <= 4; ++n) {
    write(*j, n);
    j->rotate();
  }
  ASSERT_TRUE(j->acknowledge("slow", Uuid::random(), 1));
  ASSERT_TRUE(j->acknowledge("fast", Uuid::random(), 4));
  EXPECT_TRUE(since(*j, 1, 4).objects().contains(id(2)));
  EXPECT_FALSE(j->dirty_since(0, 4));
  ASSERT_TRUE(j->acknowledge("slow", Uuid::random(), 4));
  EXPECT_FALSE(j->dirty_since(2, 4));
  EXPECT_TRUE(j->known_since(2, 4).volume_whole());
  EXPECT_TRUE(list(dir.fd()).contains("epoch-4"));
  EXPECT_FALSE(list(dir.fd()).contains("epoch-3"));
  ASSERT_TRUE(j->forget("slow"));
  EXPECT_FALSE(j->forget("slow"));
}

TEST_F(JournalTest, the_root_acknowledged_with_an_epoch_is_kept_with_it) {
  const std::string one(32, '1'), two(32, '2');
  auto j = open();
  for (std::uint64_t n = 1; n <= 4; ++n) {
    write(*j, n);
    j->rotate();
  }
  auto root = [&] { return j->target("m").value().root; };
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 2, 0, one));
  EXPECT_EQ(root(), one);
  j.reset();                                   // killed
  j = open();
  EXPECT_EQ(root(), one);
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 1, 0, two));   // older than what is known
  EXPECT_EQ(root(), one);
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 2));           // the same again, by somebody who does not know it
  EXPECT_EQ(root(), one);
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 3));           // of this one nothing is known
  EXPECT_EQ(root(), "");
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 4, 0, two + "x"));
  EXPECT_EQ(root(), "");
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 4, 0, two));
  ASSERT_TRUE(j->close());
  j = open();
  EXPECT_EQ(root(), two);
}

TEST_F(JournalTest, many_epochs_become_few_files_and_none_is_forgotten) {
  auto j = open();
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 0));
  for (std::uint64_t n = 1; n <= 100; ++n) {
    write(*j, n);
    j->rotate();
    ASSERT_TRUE(j->flush());
    if (n == 50) {
      ASSERT_TRUE(j->acknowledge("half", Uuid::random(), 50));
    }
  }
  EXPECT_LT(list(dir.fd()).size(), 20u);
  EXPECT_EQ(since(*j, 0, 100).objects().size(), 100u);
  EXPECT_EQ(since(*j, 50, 100).objects().size(), 50u);
}

TEST_F(JournalTest, a_kill_loses_nothing) {
  auto j = open();
  write(*j, 5, 0, 10);
  j->rotate();
  write(*j, 6, 0, 10);
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 1));
  const Uuid generation = j->generation();
  const auto last = clock.wall;
  write(*j, 6, 0, 10);  // says nothing new
  j->intend(id(7), nullptr, Promise::soon);
  j.reset();
  j = open();
  EXPECT_EQ(j->gap_found(), Gap::killed);
  EXPECT_EQ(j->epoch(), 2u);
  EXPECT_EQ(j->generation(), generation);
  EXPECT_TRUE(j->target("m")->gap);
  EXPECT_FALSE(j->target("m")->content);
  EXPECT_GE(j->trusted_until_ns(), last);
  EXPECT_TRUE(j->gap_scan_wanted());
  EXPECT_TRUE(j->explains(id(6)));
  EXPECT_FALSE(j->explains(id(8)));
  j->rotate();
  EXPECT_FALSE(j->dirty_since(1, 2)) << "what happened beneath is not known";
  const DirtySet known = j->known_since(1, 2);
  EXPECT_FALSE(whole(known, 6));
  EXPECT_TRUE(known.objects().at(id(6)).extents.covers(0, 10));
  EXPECT_TRUE(whole(known, 7)) << "was in flight";
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 2));
  EXPECT_FALSE(j->target("m")->gap);
  write(*j, 9);
  j->rotate();
  EXPECT_EQ(since(*j, 2, 3).objects().size(), 1u);
}

TEST_F(JournalTest, a_comparison_at_an_older_cut_does_not_close_a_gap) {
  auto j = open();
  j->rotate();
  j->rotate();
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 1));
  j->flag_gap(true);
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 2));
  EXPECT_TRUE(j->target("m")->gap && j->target("m")->content);
  j->rotate();
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 3));
  EXPECT_FALSE(j->target("m")->gap || j->target("m")->content);
}

TEST_F(JournalTest, nothing_is_written_behind_the_clean_mark) {
  auto j = open();
  const Uuid mirror = Uuid::random();
  write(*j, 5);
  ASSERT_TRUE(j->acknowledge("m", mirror, j->rotate()));
  const std::uint64_t epoch = j->rotate();
  ASSERT_TRUE(j->close());
  const auto state = read_file(dir.fd(), "state", 1u << 20);
  ASSERT_TRUE(state);
  const Status late = j->acknowledge("m", mirror, epoch);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().exit, Exit::temporary);
  EXPECT_FALSE(j->forget("m"));
  j->flag_gap(false);
  EXPECT_EQ(read_file(dir.fd(), "state", 1u << 20).value_or(""), *state);
}

// An acknowledgement that was taken is in what the next start finds; one that was refused is not.
TEST_F(JournalTest, an_acknowledgement_races_with_the_end) {
  for (int round = 0; round < 20; ++round) {
    test::Scratch fresh;
    auto j = open(fresh.fd());
    write(*j, 5);
    const std::uint64_t epoch = j->rotate();
    std::barrier together(2);
    Status taken;
    {
      std::jthread migration([&] {
        together.arrive_and_wait();
        taken = j->acknowledge("m", Uuid::random(), epoch);
      });
      together.arrive_and_wait();
      EXPECT_TRUE(j->close());
    }
    j.reset();
    auto again = open(fresh.fd());
    EXPECT_EQ(again->gap_found(), Gap::unmounted);
    EXPECT_EQ(again->target("m").has_value(), taken.has_value());
  }
}

TEST_F(JournalTest, a_clean_stop_is_trusted_until_its_mark) {
  auto j = open();
  write(*j, 5);
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 0));
  clock.advance_ms(5000);
  ASSERT_TRUE(j->close());
  const auto closed = clock.wall;
  j.reset();
  clock.advance_ms(5000);
  options.boot = Uuid::random();
  j = open();
  EXPECT_EQ(j->gap_found(), Gap::unmounted);
  EXPECT_EQ(j->trusted_until_ns(), closed);
  EXPECT_TRUE(j->target("m")->gap);
  // Until the scan is through, the older time stays the one to look from.
  write(*j, 6);
  j.reset();
  j = open();
  EXPECT_EQ(j->gap_found(), Gap::killed);
  EXPECT_EQ(j->trusted_until_ns(), closed);
  ASSERT_TRUE(j->finish_gap_scan());
  EXPECT_FALSE(j->gap_scan_wanted());
  EXPECT_FALSE(whole(j->known_since(0, j->rotate()), 5));
  j.reset();
  j = open();
  EXPECT_GT(j->trusted_until_ns(), closed);
}

TEST_F(JournalTest, what_a_gap_scan_found_is_whole_and_survives) {
  open()->flush();
  auto j = open();
  const Handle h = handle(4);
  j->found(id(4), &h, true);
  j.reset();
  j = open();
  const DirtySet set = j->known_since(0, j->rotate());
  EXPECT_TRUE(whole(set, 4) && set.objects().at(id(4)).subtree);
}

TEST_F(JournalTest, a_clock_that_went_back_or_another_file_system_is_a_fork) {
  auto j = open();
  ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 0));
  const Uuid old = j->generation();
  j.reset();
  fs_id = "another";
  j = open();
  EXPECT_EQ(j->gap_found(), Gap::rolled_back);
  EXPECT_TRUE(j->target("m")->content);
  EXPECT_EQ(j->ancestors(), std::vector<Uuid>{old});
  j.reset();
  clock.wall -= 3'000'000'000;
  j = open();
  EXPECT_EQ(j->gap_found(), Gap::rolled_back);
  EXPECT_EQ(j->ancestors().size(), 2u);
  EXPECT_GT(j->epoch(), 1u << 20) << "no epoch number is used twice";
}

TEST_F(JournalTest, a_broken_journal_is_set_aside_and_everything_compared) {
  for (const std::string victim : {"state", "epoch-1", "log-2"}) {
    test::Scratch fresh;
    auto j = open(fresh.fd());
    write(*j, 5);
    j->rotate();
    ASSERT_TRUE(j->acknowledge("m", Uuid::random(), 1));
    write(*j, 6);
    if (victim == "log-2") j->rotate();  // torn, with another segment behind it
    j.reset();
    ASSERT_TRUE(list(fresh.fd()).contains(victim)) << victim;
    std::string bytes = *read_file(fresh.fd(), victim, 1u << 20);
    bytes[std::min<std::size_t>(bytes.size() / 2, 80)] ^= 1;
    Fd fd(::openat(fresh.fd(), victim.c_str(), O_WRONLY));
    ASSERT_EQ(pwrite_all(fd.get(), bytes, 0), 0);
    j = open(fresh.fd());
    ASSERT_TRUE(j);
    EXPECT_EQ(j->gap_found(), Gap::broken) << victim;
    if (victim != "state") {
      EXPECT_TRUE(j->target("m")->gap && j->target("m")->content);
    }
    EXPECT_FALSE(j->ancestors().empty());
    bool aside = false;
    for (const auto& name : list(fresh.fd())) aside |= name.starts_with("broken-");
    EXPECT_TRUE(aside);
    EXPECT_TRUE(j->known_since(0, j->rotate()).volume_whole());
  }
}

TEST_F(JournalTest, a_lost_state_does_not_lose_the_identity_of_the_volume) {
  auto j = open();
  const Uuid volume = j->volume(), generation = j->generation();
  j.reset();
  ::unlinkat(dir.fd(), "state", 0);
  j = open();
  EXPECT_EQ(j->gap_found(), Gap::broken);
  EXPECT_EQ(j->volume(), volume);
  EXPECT_EQ(j->ancestors(), std::vector<Uuid>{generation});
}

TEST_F(JournalTest, any_flipped_byte_of_the_last_record_drops_that_record_alone) {
  auto j = open();
  write(*j, 5);
  std::string before = *read_file(dir.fd(), "log-1", 1u << 20);
  write(*j, 5, 100, 10);  // one record: the mark is there
  std::string after_it = *read_file(dir.fd(), "log-1", 1u << 20);
  j.reset();
  const std::string state = *read_file(dir.fd(), "state", 1u << 20);
  std::size_t at = 0;
  while (before[at] == after_it[at]) ++at;
  const std::size_t start = at / 8 * 8, size = static_cast<unsigned char>(after_it[start]);
  ASSERT_GT(size, 25u);
  for (std::size_t i = 0; i <= size; ++i) {  // i == size: torn nowhere
    test::Scratch copy;
    std::string log = after_it;
    if (i < size) log[start + i] ^= 0x40;
    ASSERT_TRUE(replace_file(copy.fd(), "state", state));
    ASSERT_TRUE(replace_file(copy.fd(), "log-1", log));
    auto again = open(copy.fd());
    ASSERT_EQ(again->gap_found(), Gap::killed) << i;
    const ExtentSet extents = again->known_since(0, again->rotate()).objects().at(id(5)).extents;
    EXPECT_TRUE(extents.covers(0, 10)) << i;
    EXPECT_EQ(extents.covers(100, 10), i == size) << i;
  }
}

TEST_F(JournalTest, a_long_epoch_does_not_grow_the_log_without_end) {
  options.log_bytes = 256u << 10;
  auto j = open();
  for (std::uint64_t n = 0; n < 20'000; ++n) {
    write(*j, n % 500 + 1, n * 8192, 1);
    if (n % 1000 == 0) {
      ASSERT_TRUE(j->flush());
    }
  }
  ASSERT_TRUE(j->flush());
  std::size_t segments = 0;
  for (const auto& name : list(dir.fd())) segments += name.starts_with("log-");
  EXPECT_LT(segments, 8u);
  j.reset();
  j = open();
  const DirtySet set = j->known_since(0, j->rotate());
  for (std::uint64_t n = 0; n < 20'000; ++n) {
    const auto& o = set.objects().at(id(n % 500 + 1));
    ASSERT_TRUE(o.whole || o.extents.covers(n * 8192, 1)) << n;
  }
}

TEST_F(JournalTest, a_hand_over_in_mid_epoch_keeps_what_is_in_flight) {
  options.log_bytes = 1;
  auto j = open();
  write(*j, 5);
  j->intend(id(6), nullptr, Promise::soon);
  ASSERT_TRUE(j->flush());
  j.reset();
  options.boot = Uuid::random();
  j = open();
  EXPECT_TRUE(whole(j->known_since(0, j->rotate()), 6));
}

TEST_F(JournalTest, beyond_its_bound_the_whole_volume_is_dirty_also_after_a_kill) {
  options.bounds.bytes = 20'000;
  auto j = open();
  for (std::uint64_t n = 1; n <= 1000; ++n) write(*j, n);
  EXPECT_TRUE(j->stats().degraded);
  j.reset();
  j = open();
  EXPECT_TRUE(j->known_since(0, j->rotate()).volume_whole());
  write(*j, 5);
  EXPECT_EQ(j->known_since(1, j->rotate()).objects().size(), 1u) << "the next epoch is exact again";
}

TEST_F(JournalTest, a_killed_child_leaves_every_record_whose_append_returned) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe(pipe_fds), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto j = open();
    for (std::uint64_t n = 1; n < 10'000'000; ++n) {
      write(*j, n % 1000 + 1, n * 100, 1);
      if (::write(pipe_fds[1], &n, sizeof n) != sizeof n) ::_exit(1);
    }
    ::_exit(0);
  }
  ::close(pipe_fds[1]);
  std::uint64_t n = 0, last = 0;
  while (last < 20'000 && ::read(pipe_fds[0], &n, sizeof n) == sizeof n) last = n;
  ::kill(child, SIGKILL);
  while (::read(pipe_fds[0], &n, sizeof n) == sizeof n) last = n;
  int status = 0;
  ::waitpid(child, &status, 0);
  ::close(pipe_fds[0]);
  ASSERT_TRUE(WIFSIGNALED(status));
  auto j = open();
  const DirtySet set = j->known_since(0, j->rotate());
  for (std::uint64_t i = 1; i <= last; ++i) {
    const auto& o = set.objects().at(id(i % 1000 + 1));
    ASSERT_TRUE(o.whole || o.extents.covers(i * 100, 1)) << i << " of " << last;
  }
}

TEST_F(JournalTest, many_threads_and_cuts_lose_nothing) {
  options.start_flusher = true;
  options.flush_ms = 1;
  options.log_bytes = 64u << 10;
  auto j = open();
  constexpr std::uint64_t kThreads = 4, kEach = 3000;
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t t = 0; t < kThreads; ++t)
      threads.emplace_back([&, t] {
        for (std::uint64_t n = 1; n <= kEach; ++n) {
          const Handle h = handle(n);
          j->intend(id(t * kEach + n), &h, n % 500 == 0 ? Promise::now : Promise::soon);
          Change c;
          c.what = ChangeKind::write;
          c.object = id(t * kEach + n);
          c.extent = {n, 1};
          j->accept(c, {});
          if (n % 700 == 0) j->make_marks_durable();
        }
      });
    for (int i = 0; i < 10; ++i) {
      const std::uint64_t epoch = j->rotate();
      j->known_since(0, epoch);
      j->stats();
    }
  }
  const DirtySet set = j->known_since(0, j->rotate());
  EXPECT_EQ(set.objects().size(), kThreads * kEach);
}

TEST_F(JournalTest, rounds_that_meet_make_one_spare_segment) {
  constexpr std::size_t kThreads = 4;
  for (int round = 0; round < 10; ++round) {
    test::Scratch fresh;
    auto j = open(fresh.fd());
    for (std::uint64_t n = 1; n <= 500; ++n) write(*j, n);   // more than half of a segment, less than a whole one
    std::barrier together(kThreads);
    {
      std::vector<std::jthread> threads;
      for (std::size_t t = 0; t < kThreads; ++t)
        threads.emplace_back([&] {
          together.arrive_and_wait();
          EXPECT_TRUE(j->flush());
        });
    }
    const auto names = list(fresh.fd());
    EXPECT_EQ(std::count_if(names.begin(), names.end(), [](const std::string& n) { return n.starts_with("log-"); }), 2);
  }
}

}  // namespace
}  // namespace somfs::snapshot
