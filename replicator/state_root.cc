// SPDX-License-Identifier: Apache-2.0
#include "replicator/state_root.h"

#include "common/bytes.h"

namespace somfs::replicator {

void StateRoot::add(const InspectRow& row, bool owned) {
  if (!row.trouble.empty()) return unreadable();
  std::string leaf;
  ByteWriter w(leaf);
  w.varint(row.path.size());
  for (const std::string& name : row.path) w.text(name);
  const Attr& a = row.attr;
  w.u8(static_cast<std::uint8_t>(a.kind));
  w.u32(compared_mode(a.mode, owned));
  w.u32(owned ? a.uid : 0);
  w.u32(owned ? a.gid : 0);
  w.u64(a.rdev);
  w.u64(a.size);
  w.i64(a.mtime.sec);
  w.u32(a.mtime.nsec);
  w.u64(a.kind == Kind::dir ? 0 : a.nlink);
  w.id(row.path.empty() ? ObjectId{} : row.object);   // the root is what it is
  w.text(row.content);
  w.u64(row.xattr_hash);
  tree_.add(leaf_hash(leaf));
}

}  // namespace somfs::replicator
