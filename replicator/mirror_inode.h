// SPDX-License-Identifier: Apache-2.0
// Attributes and contents of one inode of the mirror: what staging and applying have in common. Any thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "common/fd.h"
#include "common/result.h"
#include "replicator/group.h"

namespace somfs::replicator {

// Owner, then extended attributes, then mode (each undoes a part of the one before), then mtime. `fd` may be O_PATH.
// As an ordinary user the owner stays ours. `fresh`: no attribute has to be looked for and removed.
// `now`: what the inode has, where the caller just asked.
Status set_attributes(int fd, const ObjectRecord& r, bool fresh, const Attr* now = nullptr);
Status set_owner_and_mode(int fd, const Attr& a, const Attr* now = nullptr);
Status set_xattrs(int fd, const Xattrs& wanted, bool fresh);
Status set_mtime(int fd, const Time& t);
// Reads it all, in pieces; SHA-256, 32 bytes.
// Whether this file system takes what is set only after the commit, size and extended attributes: then it would be too late to refuse.
Status would_take(int stage, const ObjectRecord& r);
Result<std::string> hash_content(int fd);
// Everything beneath `dir`/`name` and itself goes, however deep.
Status remove_tree(int dir, const std::string& name);
// Every entry but . and ..; `entry` gets name, inode number and d_type.
Status each_entry(int dir, const std::function<Status(const std::string&, std::uint64_t, unsigned char)>& entry);

}  // namespace somfs::replicator
