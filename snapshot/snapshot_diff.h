// SPDX-License-Identifier: Apache-2.0
// What changed between two snapshots of a volume, for `snapshot diff`. To compare with the present, take a snapshot first.
#pragma once

#include <functional>
#include <string>

#include "snapshot/view.h"

namespace somfs::snapshot {

struct PathChange {
  enum class What { removed, added, modified, renamed } what = What::modified;
  std::string path;        // relative to the volume, raw bytes; in the later tree (removed: in the earlier one)
  std::string from;        // renamed: where it was
  Kind kind = Kind::none;
  bool data = false;       // the content differs
  bool attr = false;       // mode, owner or modification time differ
  bool xattr = false;
};

// Walks both and hands over every changed path, sorted. An object that left one path and came to another is renamed (and may be
// changed besides); what lies beneath a renamed directory is not listed for that. Directories' times are not compared: their names
// are. Content is read only where size or modification time differ.
Status diff(View& earlier, View& later, const std::function<void(const PathChange&)>& yield);

}  // namespace somfs::snapshot
