// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <deque>

#include "snapshot/store_impl.h"
#include "snapshot/view_impl.h"

namespace somfs::snapshot {

namespace {

// Never blocks on a fifo, never changes access times where that is allowed; without permission to read at least the attributes.
template <typename Open>
std::pair<Fd, bool> open_for(Kind kind, const Open& open) {
  if (kind != Kind::file && kind != Kind::dir) return {open(O_PATH | O_NOFOLLOW), false};
  int flags = O_RDONLY | O_NOFOLLOW | (kind == Kind::dir ? O_DIRECTORY : O_NONBLOCK | O_NOCTTY);
  Fd fd = open(flags | O_NOATIME);
  if (!fd && errno == EPERM) fd = open(flags);
  if (fd) return {std::move(fd), true};
  if (errno == EACCES) fd = open(O_PATH | O_NOFOLLOW);
  return {std::move(fd), false};
}

bool vanished(int error) {
  return error == ENOENT || error == ESTALE || error == ENOTDIR || error == ELOOP || error == ENXIO || error == ENODEV;
}

}  // namespace

Result<ViewOpener::File> ViewOpener::accept(const Ref& ref, Fd fd, bool readable) const {
  SOMFS_TRY_ASSIGN(Inode inode, inode_of(fd.get()));
  if (inode.id != ref.id) return File();
  auto file = std::make_unique<ViewFile::Impl>();
  file->view = view;
  file->ref = ref;
  file->ref.kind = inode.attr.kind;
  file->fd = std::move(fd);
  file->readable = readable;
  SOMFS_TRY(view->index->sync());
  file->pre = view->index->attr(ref.id);
  if (!file->pre && inode.attr.nlink > 1 && inode.attr.kind != Kind::dir) {
    // The store's own links: before their number changes the attributes are preserved, so look again after counting.
    inode.attr.nlink -= std::min(inode.attr.nlink, view->index->own_links(ref.id));
    SOMFS_TRY(view->index->sync());
    file->pre = view->index->attr(ref.id);
  }
  file->attr = file->pre ? file->pre->attr : inode.attr;
  return file;
}

Result<ViewOpener::File> ViewOpener::beneath(int dir_fd, const std::string& name, const Ref& ref) const {
  auto [fd, readable] = open_for(ref.kind, [&](int flags) { return Fd(::openat(dir_fd, name.c_str(), flags | O_CLOEXEC)); });
  if (!fd && !vanished(errno)) return fail_errno("cannot open", "an object of the snapshot");
  return fd ? accept(ref, std::move(fd), readable) : File();
}

Result<ViewOpener::File> ViewOpener::by_handle(const Ref& ref) const {
  if (!view->handles || ref.handle.empty()) return File();
  auto [fd, readable] = open_for(ref.kind, [&](int flags) { return open_handle(view->root.get(), ref.handle, flags); });
  if (!fd && !vanished(errno)) return fail_errno("cannot open by handle", "an object of the snapshot");
  return fd ? accept(ref, std::move(fd), readable) : File();
}

Result<ViewOpener::File> ViewOpener::by_kept_link(const Ref& ref) const {
  if (ref.kind == Kind::dir) return File();
  auto [fd, readable] = open_for(ref.kind, [&](int flags) { return view->index->open_kept(ref.id, flags); });
  if (!fd && !vanished(errno)) return fail_errno("cannot open a kept link to", "an object of the snapshot");
  return fd ? accept(ref, std::move(fd), readable) : File();
}

Result<ViewOpener::File> ViewOpener::moved(const Ref& ref) const {
  if (view->handles || ref.kind != Kind::dir) return File();
  std::deque<Fd> queue;
  queue.emplace_back(::openat(view->root.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  while (!queue.empty()) {
    Fd dir = std::move(queue.front());
    queue.pop_front();
    if (!dir) continue;
    for (const std::string& name : names_in(dir.get())) {
      Fd child(::openat(dir.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (!child) continue;
      auto inode = inode_of(child.get());
      if (inode && inode->id == ref.id) return accept(ref, std::move(child), true);
      queue.push_back(std::move(child));
    }
  }
  return File();
}

Result<ViewOpener::File> ViewOpener::from_log(const Ref& ref) const { return ref.kind == Kind::dir ? logged(ref) : File(); }

Result<ViewOpener::File> ViewOpener::lost(const Ref& ref) const { return view->handles ? File() : logged(ref); }

Result<ViewOpener::File> ViewOpener::logged(const Ref& ref) const {
  SOMFS_TRY(view->index->sync());
  auto pre = view->index->attr(ref.id);
  if (!pre || !view->index->lost_name(ref.id)) return File();
  auto file = std::make_unique<ViewFile::Impl>();
  file->view = view;
  file->ref = ref;
  file->attr = pre->attr;
  file->pre = std::move(pre);
  return file;
}

}  // namespace somfs::snapshot
