// SPDX-License-Identifier: Apache-2.0
// A read-only view of one snapshot, through descriptors of the backing directory and the store: usable in any process,
// without asking the daemon. Everything it returns is as at the cut, whatever is written meanwhile.
// A View may be used from several threads; a ViewFile from one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/fd.h"
#include "common/object.h"
#include "common/result.h"

namespace somfs::snapshot {

// How to reach an object of the view again. `path_hint` is used where there are no handles (not root).
struct Ref {
  ObjectId id;
  Handle handle;            // may be empty
  Kind kind = Kind::none;
};

struct ViewEntry {
  std::string name;
  Ref ref;
};

class View;

// An open object of the view. Attributes, extended attributes and data as at the cut.
class ViewFile {
 public:
  ViewFile(ViewFile&&) noexcept;
  ViewFile& operator=(ViewFile&&) noexcept;
  ~ViewFile();
  const Ref& ref() const;
  const Attr& attr() const;                                  // nlink as at the cut
  // What could not be read when it was there is told in `unread`; without it that is an error.
  Result<Xattrs> xattrs(std::vector<std::string>* unread = nullptr);
  Result<std::string> link_target();
  // Reads up to n bytes; fewer only at the end.
  Result<std::size_t> read(void* buf, std::size_t n, std::uint64_t off);
  // The next data at or after `off` (holes skipped where the file system tells them): {start, length}; nullopt: none to the end.
  Result<std::optional<Extent>> next_data(std::uint64_t off);

 private:
  friend class View;
  friend struct ViewOpener;
  struct Impl;
  explicit ViewFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class View {
 public:
  // `root_fd`, `store_fd`: kept (duplicated). Not found: Exit::usage. Dropped while in use: every call fails with Exit::no_space
  // and the reason.
  static Result<std::unique_ptr<View>> open(int root_fd, int store_fd, const std::string& name);
  ~View();

  std::uint64_t epoch() const;
  Result<ViewFile> root();
  // Entries of a directory, in no particular order; never "." and "..", never somfs's own directory.
  Result<std::vector<ViewEntry>> list(ViewFile& dir);
  // What (dir, name) named at the cut: nullopt if nothing.
  Result<std::optional<Ref>> lookup(ViewFile& dir, const std::string& name);
  // Opens an entry just listed or looked up in `dir` (cheapest), without or with its data.
  Result<ViewFile> open_in(ViewFile& dir, const ViewEntry& entry);
  // Opens by id and handle: nullopt when it did not exist, or had no name, at the cut. Needs handles (root).
  Result<std::optional<ViewFile>> open(const Ref& ref);
  bool has_handles() const;

 private:
  friend class ViewFile;
  friend struct ViewOpener;
  struct Impl;
  explicit View(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace somfs::snapshot
