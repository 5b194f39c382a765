// SPDX-License-Identifier: Apache-2.0
// How long the next group is collected, and how large it may become: the adaptive part of the pipeline (ACP-6 to ACP-11). What is
// written during one interval is one group; it passes the source's stages during the next interval and the mirror's after that.
//
// Pure: the standard library only, no threads, no clock; readings of a monotonic clock are passed in. One object serves one
// relation and is called by one thread at a time. Nothing fails: readings that make no sense (negative, infinite, from a clock that
// jumped) are taken as not measured, and what is returned always lies within the bounds of the settings.
//
// The paper is Song, Zhao, Liu, Qin, Wang, Liu: A Remote Mirroring Architecture with Adaptively Cooperative Pipelining, ICA3PP 2010.
// Its formulas are known from a translation without them: they are a reconstruction.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "replicator/stage.h"

namespace somfs::replicator {

enum class Pacing : std::uint8_t {
  bottleneck,   // the slowest stage of both sites decides
  paper,        // formulas (1) to (3)
  none,         // best effort: a group is cut whenever the source's side is free
};
const char* name_of(Pacing pacing);

struct PaceSettings {
  Pacing pacing = Pacing::bottleneck;
  double alpha = 0.5;                          // paper: weight of the source's time; bottleneck: gain when the interval shrinks
  double beta = 0.5;                           // paper: weight of the mirror's time; bottleneck: gain when it grows
  double first_s = 0.030;                      // the first interval
  double min_s = 0.002;
  double max_s = 5;
  double rpo_s = 0;                            // what may be lost, 0: no demand; a third of it bounds the interval
  double share = 1;                            // of the slowest stage's time, for this relation: threshold against interval
  double overhead = 0.05;                      // ε: a group need not grow further when fixed costs are this part of its time
  std::uint64_t memory_bytes = 512ull << 20;   // of all groups in flight
  unsigned credits = 32;                       // groups in flight at most
  double backlog_s = 10;                       // what the mirror may have acknowledged and not yet applied
  Lanes lanes = kSerialLanes;

  // What is wrong, as one clause ("alpha must lie between 0 and 1"); empty: nothing. A pace forgives all the same, by bounding.
  std::string problem() const;
  double upper_s() const;                      // min(max_s, rpo_s / 3)
  double lower_s() const;                      // min_s, but not above upper_s()
};

// The source's side is through with a group: it was handed to the link.
struct GroupDone {
  std::uint64_t bytes = 0;        // in the group
  std::uint64_t arrived = 0;      // written while it was collected, with what had to go into the next one; 0: `bytes`
  std::int64_t opened_ns = 0;     // it was collected from here
  std::int64_t closed_ns = 0;     // to here, when the next one was opened
  std::int64_t now_ns = 0;
  StageTimes times{};             // group, compress, encrypt, send; where a stage has several threads, the time on the wall
  unsigned credits_in_use = 0;    // groups closed and not acknowledged, this one included
};

// The mirror holds a group durably.
struct Acknowledged {
  std::uint64_t bytes = 0;
  std::int64_t now_ns = 0;
  StageTimes times{};             // transfer (first byte to last), decrypt, decompress, write, acknowledge; apply: see below
  std::uint64_t applied_bytes = 0;   // what was applied since the last acknowledgement, in `times[apply]`
  unsigned applied_groups = 0;
  double backlog_s = 0;           // acknowledged and not applied, in seconds of work
  double round_trip_s = 0;        // of the way alone, without stages and queues; 0: not known
};

enum class Overload : std::uint8_t { none, load, window, backlog };
const char* name_of(Overload overload);

struct Decision {
  double interval_s = 0;              // the open group is cut when this has passed since it was opened and the first lane is free
  std::uint64_t threshold_bytes = 0;  // no group becomes larger
  bool cut_when_full = false;         // a full group need not wait for the end of the interval
  double sleep_s = 0;                 // what is left of the interval: the source's side sleeps as long, it is the faster one
  double mirror_idle_s = 0;           // what the mirror has free in every interval, when it is the faster one

  // Why. Stage and numbers are those of the slowest lane.
  Stage bottleneck = Stage::group;
  double need_s = 0;                  // what it needs for a group, with its margin; 0: nothing is known yet
  double target_s = 0;                // where the interval would settle, bounded; 0: not known
  double rate = 0;                    // bytes written per second
  double load = 0;                    // part of its time that the bytes alone take; 1 cannot be kept up with
  double noise = 0;                   // relative scatter of its times
  bool stepped = false;               // straight to the target, not by a part of the way
  Overload overload = Overload::none; // time for the dirty set
  bool rpo_missed = false;            // keeping up takes an interval above rpo_s / 3
  std::string reason() const;         // one line for a person
};

class Pace {
 public:
  virtual ~Pace() = default;
  virtual const Decision& group_done(const GroupDone& group) = 0;
  virtual const Decision& acknowledged(const Acknowledged& group) = 0;
  virtual const Decision& decision() const = 0;
};

std::unique_ptr<Pace> make_pace(const PaceSettings& settings);

}  // namespace somfs::replicator
