// SPDX-License-Identifier: Apache-2.0
// The file of a private key: its text and a newline, mode 0600. Linux.
#pragma once

#include <string>

#include "common/result.h"
#include "replicator/crypto.h"

namespace somfs::replicator {

// Creates the file, never replaces one; the file and its name are durable when this returns. On failure no file is left.
Status create_key_file(int dirfd, const std::string& path, const Secret& key);
// Refuses what read_own_file() refuses, with OthersMay::nothing.
Result<Secret> read_key_file(int dirfd, const std::string& path);

// Files that say who is trusted. Refused (Exit::not_allowed) is what is not a regular file of our own, symbolic links included, and what
// others may do more with than said; a file larger than `most` is Exit::configuration.
enum class OthersMay { nothing, read };
Result<std::string> read_own_file(int dirfd, const std::string& path, std::size_t most, OthersMay others);

}  // namespace somfs::replicator
