// SPDX-License-Identifier: Apache-2.0
// How a mirror daemon watches its sources (source_watch.h).
#pragma once

#include <string>

namespace somfs::cli {

struct Silence {
  double suspect_s = 60, lost_s = 600;
  std::string problem() const {    // empty: they can be used
    if (!(suspect_s >= 5)) return "a source is not suspect before five seconds of silence: it speaks every two";
    if (!(lost_s > suspect_s)) return "a source is lost later than it is suspect";
    if (!(lost_s <= 365 * 86400.0)) return "a source is lost after a year at the latest";
    return {};
  }
};

struct WatchConfig {
  Silence silence;
  std::string hook;                // an executable; empty: none
  double hook_s = 30;              // it is killed then
};

}  // namespace somfs::cli
