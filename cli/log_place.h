// SPDX-License-Identifier: Apache-2.0
// Where the log of a mount may lie: not in what it protects, where each line would be a change, made past the mount.
#pragma once

#include <string>

#include "common/result.h"

namespace somfs::cli {

// The absolute path of the log, links followed as far as they lead. Exit::configuration when that lies in `dir`, or in `mountpoint`, where it would be hidden.
Result<std::string> log_place(const std::string& file, const std::string& dir, const std::string& mountpoint);

}  // namespace somfs::cli
