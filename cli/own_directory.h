// SPDX-License-Identifier: Apache-2.0
// The directories of somfs's own beneath the mount: `.somfs`, its journal, its store.
#pragma once

#include "common/fd.h"
#include "common/result.h"

namespace somfs::cli {

// Opens `name` in `dirfd` (readable, not O_PATH), made first where it is missing. Its name is durable on return: what is synced in
// it later counts on that. Refuses one that belongs to another user.
Result<Fd> own_directory(int dirfd, const char* name);

}  // namespace somfs::cli
