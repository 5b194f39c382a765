// SPDX-License-Identifier: Apache-2.0
#include "fs/cow.h"

namespace somfs::fs {

void Cow::before(const Operation& op) noexcept {
  if (!pre_images_.wanted()) return;
  switch (op.verb) {
    case Verb::write:
    case Verb::truncate:
    case Verb::allocate:
    case Verb::copy_range:
      pre_images_.before_attr(op.object, op.fd);
      if (op.extent.len > 0) pre_images_.before_data(op.object, op.fd, op.extent);
      break;
    case Verb::set_attr:
    case Verb::set_xattr:
    case Verb::remove_xattr:
    case Verb::set_flags:
      pre_images_.before_attr(op.object, op.fd);
      break;
    case Verb::tmpfile:
      break;  // nothing that exists changes
    case Verb::create:
    case Verb::make:
    case Verb::symlink:
    case Verb::link:
    case Verb::unlink:
    case Verb::rmdir:
    case Verb::rename:
      for (int i = 0; i < op.name_count; ++i) {
        const NameChange& n = op.names[i];
        pre_images_.before_attr(n.parent, n.parent_fd);
        // An object that gains or loses a name has another link count afterwards.
        if (op.verb == Verb::link) pre_images_.before_attr(op.object, op.fd);
        if (n.before && !n.after && n.before_fd >= 0 && op.verb != Verb::rename) pre_images_.before_attr(n.before, n.before_fd);
        if (op.verb == Verb::rename && i == 1 && n.before && !op.names[0].after && n.before_fd >= 0)
          pre_images_.before_attr(n.before, n.before_fd);
        pre_images_.before_name(n.parent, n.parent_fd, n.name, n.before, n.before_handle, n.before_fd, n.last);
      }
      break;
  }
}

}  // namespace somfs::fs
