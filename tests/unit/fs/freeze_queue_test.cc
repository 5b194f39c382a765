// SPDX-License-Identifier: Apache-2.0
// The freeze queue by hand, and against a model that is a plain list.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <deque>
#include <memory>
#include <vector>

#include "fs/freeze_queue.h"

namespace {

TEST(FreezeQueue, OpenLetsEverythingThroughUntouched) {
  fq q;
  fq_init(&q, 100);
  EXPECT_EQ(fq_arrive(&q, nullptr, 1000), FQ_PASS);
  EXPECT_EQ(q.in_flight, 1u);
  EXPECT_FALSE(fq_leave(&q));
  EXPECT_EQ(q.in_flight, 0u);
  EXPECT_EQ(fq_next_deadline(&q), INT64_MAX);
  EXPECT_FALSE(fq_tick(&q, INT64_MAX));
}

TEST(FreezeQueue, ClosingWaitsForWhatIsInFlight) {
  fq q;
  fq_init(&q, 100);
  fq_arrive(&q, nullptr, 1);
  fq_arrive(&q, nullptr, 1);
  ASSERT_TRUE(fq_close(&q, 10, 20));
  EXPECT_EQ(q.state, FQ_CLOSING);
  EXPECT_FALSE(fq_close(&q, 10, 20));
  EXPECT_EQ(fq_next_deadline(&q), 10);
  EXPECT_FALSE(fq_leave(&q));
  EXPECT_TRUE(fq_leave(&q));
  EXPECT_EQ(q.state, FQ_FROZEN);
  EXPECT_FALSE(fq_tick(&q, 19)) << "the drain deadline is over once it is frozen";
  EXPECT_EQ(fq_next_deadline(&q), 20);
  EXPECT_TRUE(fq_tick(&q, 20));
  EXPECT_EQ(q.state, FQ_OPEN);
  EXPECT_EQ(q.reason, FQ_HOLD);
  EXPECT_FALSE(fq_open(&q)) << "the owner hears that it did not hold";
}

TEST(FreezeQueue, DrainDeadlineOpens) {
  fq q;
  fq_init(&q, 100);
  fq_arrive(&q, nullptr, 1);
  fq_close(&q, 10, 20);
  fq_entry e;
  EXPECT_EQ(fq_arrive(&q, &e, 5), FQ_PARKED);
  EXPECT_TRUE(fq_tick(&q, 10));
  EXPECT_EQ(q.reason, FQ_DRAIN);
  EXPECT_EQ(q.state, FQ_DRAINING);
  EXPECT_FALSE(fq_leave(&q));
  EXPECT_EQ(fq_take(&q), &e);
  EXPECT_EQ(q.state, FQ_OPEN);
}

TEST(FreezeQueue, FullOpensAndAsksForHelp) {
  fq q;
  fq_init(&q, 10);
  fq_close(&q, 10, 20);
  fq_entry e[3];
  EXPECT_EQ(fq_arrive(&q, &e[0], 5), FQ_PARKED);
  EXPECT_EQ(fq_arrive(&q, &e[1], 5), FQ_PARKED);
  EXPECT_EQ(fq_arrive(&q, &e[2], 1), FQ_HELP);
  EXPECT_EQ(q.state, FQ_DRAINING);
  EXPECT_EQ(q.reason, FQ_FULL);
  EXPECT_TRUE(fq_over(&q));
  EXPECT_FALSE(fq_open(&q));
  EXPECT_EQ(fq_take(&q), &e[0]);
  EXPECT_FALSE(fq_over(&q));
}

// Any sequence of calls: entries come out once, in the order in which they were parked, nothing passes while something is parked, and the
// counters are those of a plain list.
TEST(FreezeQueue, AgainstAModel) {
  EXPECT_TRUE(rc::check([](const std::vector<std::uint8_t>& script) {
    constexpr std::uint64_t kBound = 64;
    fq q;
    fq_init(&q, kBound);
    std::vector<std::unique_ptr<fq_entry>> entries;
    std::deque<fq_entry*> parked;
    std::uint64_t in_flight = 0, bytes = 0;
    std::int64_t now = 0, drain = 0, hold = 0;
    fq_state state = FQ_OPEN;
    auto open = [&] { state = parked.empty() ? FQ_OPEN : FQ_DRAINING; };
    auto is_closed = [&] { return state == FQ_CLOSING || state == FQ_FROZEN; };
    for (std::uint8_t step : script) {
      const std::uint8_t arg = step >> 3;
      switch (step & 7) {
        case 0:
        case 1: {
          entries.push_back(std::make_unique<fq_entry>());
          fq_entry* e = entries.back().get();
          fq_verdict v = fq_arrive(&q, e, arg);
          if (state == FQ_OPEN) {
            RC_ASSERT(v == FQ_PASS);
            RC_ASSERT(parked.empty());
            in_flight++;
            break;
          }
          parked.push_back(e);
          bytes += arg;
          if (is_closed() && bytes > kBound) open();
          RC_ASSERT(v == (state == FQ_DRAINING ? FQ_HELP : FQ_PARKED));
          break;
        }
        case 2:
          if (in_flight == 0) break;
          in_flight--;
          RC_ASSERT(fq_leave(&q) == (state == FQ_CLOSING && in_flight == 0));
          if (state == FQ_CLOSING && in_flight == 0) state = FQ_FROZEN;
          break;
        case 3:
          RC_ASSERT(fq_close(&q, now + arg / 2, now + arg) == (state == FQ_OPEN));
          if (state != FQ_OPEN) break;
          state = in_flight == 0 ? FQ_FROZEN : FQ_CLOSING;
          drain = now + arg / 2;
          hold = now + arg;
          break;
        case 4:
          RC_ASSERT(fq_open(&q) == (state == FQ_FROZEN));
          if (is_closed()) open();
          break;
        case 5: {
          now += arg;
          bool due = (state == FQ_CLOSING && now >= drain) || (is_closed() && now >= hold);
          RC_ASSERT(fq_tick(&q, now) == due);
          if (due) open();
          break;
        }
        default: {
          fq_entry* e = fq_take(&q);
          if (state != FQ_DRAINING) {
            RC_ASSERT(e == nullptr);
            break;
          }
          RC_ASSERT(e == parked.front());
          parked.pop_front();
          bytes -= e->bytes;
          in_flight++;
          if (parked.empty()) state = FQ_OPEN;
          break;
        }
      }
      RC_ASSERT(q.state == state);
      RC_ASSERT(q.in_flight == in_flight);
      RC_ASSERT(q.parked == parked.size());
      RC_ASSERT(q.parked_bytes == bytes);
      RC_ASSERT((state != FQ_FROZEN || in_flight == 0u));
      RC_ASSERT((!is_closed() || bytes <= kBound));
      for (std::size_t i = 1; i < parked.size(); ++i) RC_ASSERT(parked[i - 1]->ticket + 1 == parked[i]->ticket);
      if (state == FQ_CLOSING) RC_ASSERT(fq_next_deadline(&q) == std::min(drain, hold));
    }
  }));
}

}  // namespace
