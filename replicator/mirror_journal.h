// SPDX-License-Identifier: Apache-2.0
// The redo list of one epoch (docs/formats/mirror.md, "Redo list"): what the epoch does to the catalog, and what is still to be played
// onto tree/ once it is committed. Checksummed in blocks; a whole list ends with a count of its operations.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "common/fd.h"
#include "common/result.h"
#include "common/uuid.h"
#include "replicator/group.h"
#include "replicator/mirror_catalog.h"

namespace somfs::replicator {

struct RedoHead {
  std::uint64_t epoch = 0;
  Uuid volume, generation;
  std::string ancestors;           // raw UUIDs of the generations before
  std::string host, excludes;
};

struct RedoOp {
  enum class Type : std::uint8_t {
    object = 1,   // row is `record`; `fresh`: its inode is new (complete under stage/), else it is changed in place
    data = 2,     // bytes for the object before, in place
    hole = 3,
    name = 4,     // (parent, name) shall hold `row` (0: nothing)
    end = 5,      // `off`: the number of operations before
  };
  Type type = Type::end;
  Row row = 0;
  Row parent = 0;                  // object: where it was born, when that is beneath another new object; name: the directory
  std::string name;
  bool fresh = false;
  ObjectId inode;                  // object: ours
  ObjectRecord record;
  std::uint64_t off = 0, len = 0;
  std::string_view bytes;          // borrowed
};

class RedoWriter {
 public:
  static Result<RedoWriter> create(int dir, const std::string& name, const RedoHead& head);
  Status add(const RedoOp& op);
  Status flush();                  // to the kernel: survives the process
  Status finish();                 // with the end mark, durably
  std::uint64_t operations() const { return operations_; }
  std::uint64_t in_place_bytes() const { return in_place_; }

 private:
  Fd fd_;
  std::string block_;
  std::uint64_t operations_ = 0, in_place_ = 0;
};

// Calls `op` for each operation. `whole`: anything but a complete, sound list is an error; else the sound beginning is read.
Status read_redo(int dir, const std::string& name, bool whole, RedoHead* head, const std::function<Status(const RedoOp&)>& op);

}  // namespace somfs::replicator
