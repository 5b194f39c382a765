// SPDX-License-Identifier: Apache-2.0
// What a mirror daemon knows of its sources: when each was last heard, and what follows when one that replicates continuously falls silent.
//
//   ALIVE --suspect_s of silence--> SUSPECT --lost_s of silence--> LOST      whatever it says while it replicates makes it ALIVE again
//   PAUSED, STOPPED, UNMOUNTED                                               it said goodbye, and how: its silence is in order
//   UNWATCHED                                                                it has only migrated, or nothing is known of it
//
// Silence is measured by the monotonic clock, so that a wall clock that jumps changes nothing, and only while the mirror listens: not while it
// is at work on what the source said, and not while no daemon runs. So it begins anew with the daemon; the state stays as it was.
// Pure and not thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/watch_config.h"
#include "common/clock.h"

namespace somfs::cli {

enum class SourceState : std::uint8_t { unwatched, alive, suspect, lost, paused, stopped, unmounted };
const char* name_of(SourceState state);   // ALIVE

class SourceWatch {
 public:
  struct Source {
    SourceState state = SourceState::unwatched;
    std::int64_t heard_ns = 0;            // wall clock, for people; 0: never
    std::string host;                     // as it calls itself, printable
    unsigned conversations = 0, at_work = 0;   // of them, those in which it is the mirror's turn
    std::int64_t silent_since = 0;        // monotonic
  };
  struct Change {
    std::string volume;
    SourceState before = SourceState::unwatched, after = SourceState::unwatched;
    double silent_s = 0;
    Source source;
  };

  SourceWatch(const Silence& silence, const Clock& clock) : silence_(silence), clock_(clock) {}

  // In the order of a conversation: a source that may write the volume said hello, with that it was heard and it is the mirror's turn; the
  // mirror listens; the source was heard; ...; the conversation is over, in the mirror's turn or not.
  void arrived(const std::string& volume, bool replicates, std::string_view host);
  void listens(const std::string& volume);
  void heard(const std::string& volume, bool replicates);
  void said_goodbye(const std::string& volume, std::string_view how);   // "paused", "stopped", "unmounted"; other words change nothing
  void gone(const std::string& volume, bool at_work);

  std::vector<Change> look();             // what has changed since the last time, in order
  const std::map<std::string, Source>& all() const { return sources_; }
  double silent_s(const Source& source) const;

  // What is kept: the state, when it was heard, and who. Of what is not sound nothing is taken. `keep`: whether that volume is still there.
  nlohmann::json encode() const;
  bool restore(const nlohmann::json& kept, const std::function<bool(const std::string& volume)>& keep);

 private:
  void become(const std::string& volume, Source& source, SourceState state);

  const Silence silence_;
  const Clock& clock_;
  std::map<std::string, Source> sources_;
  std::vector<Change> changes_;
};

}  // namespace somfs::cli
