// SPDX-License-Identifier: Apache-2.0
// The inside of the view, shared by view.cc (names), view_open.cc (reaching objects) and view_file.cc (attributes and data).
#pragma once

#include <memory>

#include "snapshot/view.h"
#include "snapshot/view_index.h"

namespace somfs::snapshot {

struct View::Impl {
  Fd root;
  std::unique_ptr<ViewIndex> index;
  ObjectId root_id;
  bool handles = false;
};

struct ViewFile::Impl {
  std::shared_ptr<View::Impl> view;
  Ref ref;
  Attr attr;
  std::shared_ptr<const AttrPre> pre;   // once preserved
  Fd fd;                                // none: a directory that is gone, all of it is in the log; or an object that is lost
  bool readable = false;                // `fd` is more than O_PATH
  Fd whole;

  // Where chunks without a record are: the object, or its reflinked copy.
  Result<int> base();
};

// Ways to reach an object. Each gives nullptr when it is not there (any more).
struct ViewOpener {
  using File = std::unique_ptr<ViewFile::Impl>;
  std::shared_ptr<View::Impl> view;

  Result<File> beneath(int dir_fd, const std::string& name, const Ref& ref) const;
  Result<File> by_handle(const Ref& ref) const;
  Result<File> by_kept_link(const Ref& ref) const;
  Result<File> moved(const Ref& ref) const;         // without handles: a directory, looked for in the live tree
  Result<File> from_log(const Ref& ref) const;      // a directory that is gone
  Result<File> lost(const Ref& ref) const;          // what could not be kept: its attributes
  Result<File> logged(const Ref& ref) const;
  // Takes `fd` if it is the object of `ref`, with its attributes as at the cut.
  Result<File> accept(const Ref& ref, Fd fd, bool readable) const;
};

}  // namespace somfs::snapshot
