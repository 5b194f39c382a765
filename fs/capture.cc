// SPDX-License-Identifier: Apache-2.0
#include "fs/capture.h"

namespace somfs::fs {

void Capture::before(const Operation& op) noexcept {
  if (op.excluded) return;
  for (int i = 0; i < op.name_count; ++i) {
    const NameChange& n = op.names[i];
    if (!n.excluded) sink_.intend(n.parent, n.parent_handle, op.promise);
  }
  if (op.object) sink_.intend(op.object, op.handle, op.promise);
  // What a rename replaces loses a name; what it exchanges moves.
  if (op.verb == Verb::rename && op.names[1].before) sink_.intend(op.names[1].before, op.names[1].before_handle, op.promise);
}

void Capture::object_change(ChangeKind what, const Operation& op) noexcept {
  Change c;
  c.what = what;
  c.object = op.object;
  c.handle = op.handle;
  c.extent = op.extent;
  c.kind = what == ChangeKind::born ? op.kind : Kind::none;
  sink_.accept(c, what == ChangeKind::write ? op.payload : std::span<const std::byte>());
}

void Capture::name_change(const NameChange& n) noexcept {
  if (n.excluded) return;
  if (n.uncaptured && n.after) {
    Change all;
    all.what = n.after_kind == Kind::dir ? ChangeKind::subtree : ChangeKind::whole;
    all.object = n.after;
    all.handle = n.after_handle;
    sink_.accept(all, {});
  }
  Change c;
  c.what = n.after ? ChangeKind::bind : ChangeKind::unbind;
  c.object = n.after;
  c.handle = n.after_handle;
  c.parent = n.parent;
  c.name = n.name;
  c.old = n.before;
  sink_.accept(c, {});
}

void Capture::after(const Operation& op) noexcept {
  if (op.excluded) return;
  switch (op.verb) {
    case Verb::write:
    case Verb::allocate:
    case Verb::copy_range:
      object_change(ChangeKind::write, op);
      break;
    case Verb::truncate:
      object_change(ChangeKind::truncate, op);
      break;
    case Verb::set_attr:
    case Verb::set_flags:
      object_change(ChangeKind::attr, op);
      break;
    case Verb::set_xattr:
    case Verb::remove_xattr:
      object_change(ChangeKind::xattr, op);
      object_change(ChangeKind::attr, op);  // an ACL is also the mode
      break;
    case Verb::create:
    case Verb::make:
    case Verb::symlink:
    case Verb::tmpfile:
      object_change(ChangeKind::born, op);
      break;
    case Verb::link:
    case Verb::unlink:
    case Verb::rmdir:
      break;
    case Verb::rename:
      // A whiteout is left at the old name: an object that nobody has heard of.
      if (op.names[0].after && op.names[0].after != op.names[1].before) {
        Change c;
        c.what = ChangeKind::born;
        c.object = op.names[0].after;
        c.kind = op.names[0].after_kind;
        sink_.accept(c, {});
      }
      break;
  }
  for (int i = 0; i < op.name_count; ++i) name_change(op.names[i]);
}

}  // namespace somfs::fs
