// SPDX-License-Identifier: Apache-2.0
// Processes that stand in the protected directory as it is beneath the mount: with their working directory or root, or with a directory they hold open. A mount
// changes paths, not what a process stands in: what it makes there by relative names goes past somfs, unseen, until it goes in anew. The usual one is the
// shell that the mount was called from, so they are named, not refused.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace somfs::fs {

struct Insider {
  enum class By { working_directory, root, descriptor };
  int pid = 0;
  std::string command;
  By by = By::working_directory;
};

struct Protected {
  std::string dir;                     // absolute, without symbolic links
  std::string mountpoint;              // likewise; dir itself when mounted over it
  std::vector<std::string> excludes;   // relative to dir: who stands there passes nothing by
  dev_t device = 0;                    // of the directory beneath: the mount, and a dead one before it, have the same paths
};

// Every process once, as far as this user may look; of this one only its working directory and root count. Left out is what ends with the call: the
// parent that waits for the mount, and mount(8) with its helpers. Touches no mount, so it may be asked while nothing is served.
std::vector<Insider> insiders(const Protected& where);
// Those of them that still are.
std::vector<Insider> still_inside(const std::vector<Insider>& known, const Protected& where);
// One line for each of the first few, and how many more there are.
std::vector<std::string> warnings_of(const std::vector<Insider>& inside, const Protected& where);

}  // namespace somfs::fs
