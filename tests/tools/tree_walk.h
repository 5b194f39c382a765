// SPDX-License-Identifier: Apache-2.0
// Reading directories by descriptor, so that neither long paths nor symbolic links are in the way.
#pragma once

#include <string>
#include <vector>

#include "common/result.h"

namespace somfs::tools {

// The names in a directory without "." and "..", sorted by bytes. `dirfd` may be an O_PATH descriptor.
Result<std::vector<std::string>> names_in(int dirfd);

}  // namespace somfs::tools
