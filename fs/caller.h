// SPDX-License-Identifier: Apache-2.0
// Acting for the caller of a request: new objects belong to them, as on the file system beneath. Only the calling thread changes.
#pragma once

#include <sys/types.h>

#include <vector>

struct fuse_req;
typedef struct fuse_req* fuse_req_t;

namespace somfs::fs {

// Whether this process runs as root and may act for others.
bool acts_for_others();

// While it lives, this thread creates objects as the caller would: file-system user and group, umask, and without the right to
// set a foreign set-group-id bit. Permissions were checked by the kernel; the thread keeps its capabilities for that reason.
class ActAs {
 public:
  ActAs(fuse_req_t req, mode_t mode);
  ~ActAs();
  ActAs(const ActAs&) = delete;
  ActAs& operator=(const ActAs&) = delete;

 private:
  bool user_ = false;
  bool group_ = false;
  bool groups_ = false;
};

// While it lives, what this thread writes is charged to the caller: an ordinary user gets nothing of the room that is reserved for
// root, and quotas hold. `ordinary` is what the kernel told of the caller, for others nothing changes. The other
// capabilities stay: permissions and set-id bits were judged above.
class ChargeTo {
 public:
  ChargeTo(fuse_req_t req, bool ordinary);
  ~ChargeTo();
  ChargeTo(const ChargeTo&) = delete;
  ChargeTo& operator=(const ChargeTo&) = delete;

 private:
  bool user_ = false;
};

// Whether the caller belongs to the group. Asks /proc: for rare paths.
bool caller_in_group(fuse_req_t req, gid_t group);

// Whether the caller may write and leave set-id bits standing (CAP_FSETID). Asks /proc: for rare paths.
bool caller_keeps_set_ids(fuse_req_t req);

}  // namespace somfs::fs
