// SPDX-License-Identifier: Apache-2.0
#include "snapshot/view.h"

#include <fcntl.h>
#include <unistd.h>

#include "common/printable.h"
#include "snapshot/store_impl.h"
#include "snapshot/view_impl.h"

namespace somfs::snapshot {

namespace {
constexpr std::string_view kOwnDirectory = ".somfs";
}  // namespace

View::View(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
View::~View() = default;

Result<std::unique_ptr<View>> View::open(int root_fd, int store_fd, const std::string& name) {
  auto impl = std::make_shared<Impl>();
  // A descriptor of its own, that can be listed.
  impl->root = Fd(::openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!impl->root) return fail_errno("cannot open", "the protected directory");
  SOMFS_TRY_ASSIGN(Inode inode, inode_of(impl->root.get()));
  impl->root_id = inode.id;
  impl->handles = static_cast<bool>(open_handle(impl->root.get(), handle_of(impl->root.get()), O_PATH));
  SOMFS_TRY_ASSIGN(impl->index, ViewIndex::open(store_fd, name));
  return std::unique_ptr<View>(new View(std::move(impl)));
}

std::uint64_t View::epoch() const { return impl_->index->info().epoch; }
bool View::has_handles() const { return impl_->handles; }

Result<ViewFile> View::root() {
  Ref ref{impl_->root_id, {}, Kind::dir};
  Fd fd(::openat(impl_->root.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open", "the protected directory");
  if (impl_->handles) ref.handle = handle_of(fd.get());
  SOMFS_TRY_ASSIGN(auto file, ViewOpener{impl_}.accept(ref, std::move(fd), true));
  return ViewFile(std::move(file));
}

Result<std::vector<ViewEntry>> View::list(ViewFile& dir) {
  ViewFile::Impl& d = *dir.impl_;
  std::vector<ViewEntry> out;
  if (d.ref.kind != Kind::dir) return fail_errno("cannot list", "an object of the snapshot", ENOTDIR);
  if (d.fd) {
    if (!d.readable) return fail_errno("cannot list", "a directory of the snapshot", EACCES);
    SOMFS_TRY_ASSIGN(std::vector<std::string> names, read_names(d.fd.get()));
    for (std::string& name : names) {
      auto inode = inode_at(d.fd.get(), name);
      if (inode) out.push_back({std::move(name), {inode->id, {}, inode->attr.kind}});
      else if (inode.error().sys != ENOENT) return pass_on(std::move(inode).error());
    }
  }
  // First the live directory, then the log: whatever changed before or while it was read is in the log by now.
  SOMFS_TRY(impl_->index->sync());
  auto pre = impl_->index->names(d.ref.id);
  bool top = d.ref.id == impl_->root_id;
  std::erase_if(out, [&](const ViewEntry& e) { return pre.contains(e.name) || (top && e.name == kOwnDirectory); });
  for (auto& [name, p] : pre)
    if (p.child && !(top && name == kOwnDirectory)) out.push_back({name, {p.child, std::move(p.handle), p.kind}});
  return out;
}

Result<std::optional<Ref>> View::lookup(ViewFile& dir, const std::string& name) {
  ViewFile::Impl& d = *dir.impl_;
  if (!valid_name(name) || (d.ref.id == impl_->root_id && name == kOwnDirectory)) return std::optional<Ref>();
  std::optional<Ref> live;
  if (d.fd) {
    auto inode = inode_at(d.fd.get(), name);
    if (inode) live = Ref{inode->id, {}, inode->attr.kind};
    else if (inode.error().sys != ENOENT) return pass_on(std::move(inode).error());
  }
  SOMFS_TRY(impl_->index->sync());
  if (auto pre = impl_->index->name(d.ref.id, name)) {
    if (!pre->child) return std::optional<Ref>();
    return std::optional<Ref>(Ref{pre->child, std::move(pre->handle), pre->kind});
  }
  return live;
}

Result<ViewFile> View::open_in(ViewFile& dir, const ViewEntry& entry) {
  ViewFile::Impl& d = *dir.impl_;
  ViewOpener opener{impl_};
  // Objects move while they are looked for; each round starts from a newer log.
  for (int round = 0; round < 16; ++round) {
    Ref ref = entry.ref;
    if (d.fd) {
      SOMFS_TRY_ASSIGN(auto file, opener.beneath(d.fd.get(), entry.name, ref));
      if (file) return ViewFile(std::move(file));
    }
    SOMFS_TRY(impl_->index->sync());
    if (auto pre = impl_->index->name(d.ref.id, entry.name); pre && pre->child == ref.id) ref.handle = pre->handle;
    for (auto way : {&ViewOpener::by_handle, &ViewOpener::by_kept_link, &ViewOpener::moved, &ViewOpener::from_log}) {
      SOMFS_TRY_ASSIGN(auto file, (opener.*way)(ref));
      if (file) return ViewFile(std::move(file));
    }
  }
  SOMFS_TRY_ASSIGN(auto lost, opener.lost(entry.ref));
  if (lost) return ViewFile(std::move(lost));
  return fail(Exit::temporary, "cannot reach", printable(entry.name), "the object of the snapshot is not where its log says");
}

Result<std::optional<ViewFile>> View::open(const Ref& ref) {
  ViewOpener opener{impl_};
  for (auto way : {&ViewOpener::by_handle, &ViewOpener::by_kept_link, &ViewOpener::from_log}) {
    SOMFS_TRY_ASSIGN(auto file, (opener.*way)(ref));
    // Open by somebody, or held by an older snapshot, but without a name at the cut.
    if (file && file->attr.nlink == 0) return std::optional<ViewFile>();
    if (file && !file->pre && file->attr.nlink == 1 && file->attr.kind != Kind::dir) {
      // All its links, the store's among them, are counted before the store's are. It may have a name beside the store's links: a removal
      // that failed leaves one behind.
      SOMFS_TRY_ASSIGN(Inode inode, inode_of(file->fd.get()));
      if (const std::uint32_t own = impl_->index->own_links(ref.id); own > 0) {
        SOMFS_TRY(impl_->index->sync());
        file->pre = impl_->index->attr(ref.id);
        if (file->pre ? file->pre->attr.nlink == 0 : inode.attr.nlink <= own) return std::optional<ViewFile>();
        if (file->pre) file->attr = file->pre->attr;
      }
    }
    if (file) return std::optional<ViewFile>(ViewFile(std::move(file)));
  }
  return std::optional<ViewFile>();
}

}  // namespace somfs::snapshot
