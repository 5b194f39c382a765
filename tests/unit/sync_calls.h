// SPDX-License-Identifier: Apache-2.0
// Sees every fsync, fdatasync and syncfs of the test program, the libraries' too: the test's own functions take the place of the C
// library's. So a sync that was removed, or that only claims to have happened, is noticed whatever the disk made of it.
#pragma once

#include <functional>

namespace somfs::test {

enum class Sync { file, file_system };

// Called after each sync that succeeded, on the thread that made it, until it is set anew; empty: nobody listens.
void on_sync(std::function<void(int fd, Sync what)> seen);

// The next one of that kind fails so, on whichever thread it is made; once. is_due(): not yet.
void fail_next(Sync what, int error);
bool is_due();

}  // namespace somfs::test
