// SPDX-License-Identifier: Apache-2.0
// A directory that somebody named and that cannot be had.
#pragma once

#include <cerrno>
#include <string>

#include "common/result.h"

namespace somfs {

// What is not there, or leads through something that is no directory, is a mistake in the command: Exit::usage, with what to do. Everything
// else as fail_errno: rights, a dead mount above, a disk that fails.
tl::unexpected<Error> fail_named_directory(std::string what, std::string on, int sys = errno);

}  // namespace somfs
