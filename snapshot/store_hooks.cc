// SPDX-License-Identifier: Apache-2.0
// The hooks: each keeps one pre-image for the newest snapshot: data, then record, then counter, before the change is made.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "snapshot/store_impl.h"

namespace somfs::snapshot {

namespace {

constexpr std::uint64_t kPiece = 16 * kChunk;         // copied at once
constexpr std::uint64_t kCloneFrom = 64 * kChunk;     // a reflink of the whole file flushes it: worth it from here on

bool all_zero(const char* p, std::size_t n) { return n == 0 || (p[0] == 0 && std::memcmp(p, p + 1, n - 1) == 0); }

}  // namespace

int Store::Impl::append(Snap& snap, const LogRecord& record) {
  std::string bytes = encode(record);
  if (bytes.empty()) return E2BIG;
  if (int e = pwrite_all(snap.log.get(), bytes, snap.log_end); e != 0) {
    // What was written of it must not outlive a shorter record.
    if (::ftruncate(snap.log.get(), static_cast<off_t>(snap.log_end)) != 0) return EIO;
    return e;
  }
  snap.log_end += bytes.size();
  head.bump();
  return 0;
}

int Store::Impl::append_target(const LogRecord& record) {
  if (seen.bytes() > options.index_bytes) return ENOMEM;
  if (int e = append(*target, record); e != 0) return e;
  seen.add(record);
  return 0;
}

int Store::Impl::preserve_attr(const ObjectId& object, int fd) {
  if (!target || seen.attr(object)) return 0;
  auto inode = inode_of(fd);
  if (!inode) return inode.error().sys != 0 ? inode.error().sys : EIO;
  AttrRecord r{object, inode->attr, {}};
  auto xattrs = read_xattrs(fd, &r.unread);
  if (!xattrs) return xattrs.error().sys != 0 ? xattrs.error().sys : EIO;
  r.xattrs = std::move(*xattrs);
  if (auto own = links.find(object); own != links.end()) r.attr.nlink -= std::min(r.attr.nlink, own->second);
  return append_target(std::move(r));
}

int Store::Impl::keep(Snap& snap, int parent_fd, const std::string& name, int child_fd, const Inode& child, bool last) {
  std::string to = kept_name(child.id);
  // Counted first: who asks for the number of links must not believe that there are none while this one is made.
  link_count.fetch_add(1, std::memory_order_relaxed);
  int r = ::linkat(parent_fd, name.c_str(), snap.kept.get(), to.c_str(), 0);
  if (r != 0 && errno != EEXIST)
    r = ::linkat(AT_FDCWD, proc_path(child_fd).c_str(), snap.kept.get(), to.c_str(), AT_SYMLINK_FOLLOW);
  if (r != 0) {
    const int e = errno;
    link_count.fetch_sub(1, std::memory_order_relaxed);
    // An immutable object refuses links, and to lose its name as well. What others own may refuse them to an ordinary user: it is lost.
    return e == EEXIST || e == EPERM ? 0 : e;
  }
  ++links[child.id];
  if (last) snap.kept_bytes += child.attr.size;
  return 0;
}

int Store::Impl::preserve_name(const ObjectId& parent, int parent_fd, std::string_view name, const ObjectId& child,
                               const Handle* child_handle, int child_fd, bool last) {
  if (!target) return 0;
  if (int e = preserve_attr(parent, parent_fd); e != 0) return e;
  bool recorded = seen.name(parent, name);
  NameRecord r{parent, std::string(name), child, Kind::none, {}};
  // An object that is not here since the cut and never lost a name it had then came to be after the cut: nobody needs it.
  if (child && (!recorded || seen.lost_name(child))) {
    Fd own;
    if (child_fd < 0) {
      own = Fd(::openat(parent_fd, r.name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
      if (!own) return errno;
      child_fd = own.get();
    }
    auto inode = inode_of(child_fd);
    if (!inode) return inode.error().sys != 0 ? inode.error().sys : EIO;
    r.kind = inode->attr.kind;
    r.handle = child_handle != nullptr ? *child_handle : handle_of(child_fd);
    // Its number of links changes, by the application and by keep(); views rely on the attributes being kept before that.
    if (int e = preserve_attr(child, child_fd); e != 0) return e;
    if (r.kind != Kind::dir && (last || !handles)) {
      inode->id = child;
      if (int e = keep(*target, parent_fd, r.name, child_fd, *inode, last); e != 0) return e;
    }
  }
  return recorded ? 0 : append_target(std::move(r));
}

int Store::Impl::commit(const std::shared_ptr<Snap>& to, const LogRecord& record) {
  Lock l(mutex);
  return target == to ? append_target(record) : EAGAIN;
}

int Store::Impl::clone_whole(const std::shared_ptr<Snap>& to, const ObjectId& object, int fd) {
  std::string name = whole_name(object);
  Fd copy(::openat(to->kept.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!copy) return errno;
  if (::ioctl(copy.get(), FICLONE, fd) != 0) {
    int e = errno;
    ::unlinkat(to->kept.get(), name.c_str(), 0);
    return e;
  }
  return commit(to, WholeRecord{object});
}

int Store::Impl::copy_run(const std::shared_ptr<Snap>& to, const ObjectId& object, int fd, std::uint64_t first,
                          std::uint64_t length) {
  thread_local std::vector<char> buffer;
  buffer.resize(kPiece);
  for (std::uint64_t done = 0; done < length;) {
    std::uint64_t n = std::min(length - done, kPiece);
    std::uint64_t off = first * kChunk + done;
    ChunkRecord r{object, off / kChunk, n, 0, false};
    if (length >= kPiece) {
      // A large run may be mostly hole: skip to its next data, in whole chunks.
      off_t data = ::lseek(fd, static_cast<off_t>(off), SEEK_DATA);
      if (data < 0 && errno == ENXIO) data = static_cast<off_t>(first * kChunk + length);
      std::uint64_t skip = data < 0 ? 0 : (static_cast<std::uint64_t>(data) - off) / kChunk * kChunk;
      if (static_cast<std::uint64_t>(data) >= first * kChunk + length) skip = length - done;
      if (data >= 0 && skip > 0) {
        r.length = skip;
        r.hole = true;
        if (int e = commit(to, r); e != 0) return e;
        done += skip;
        continue;
      }
    }
    std::size_t got = 0;
    if (int e = pread_all(fd, buffer.data(), n, off, &got); e != 0) return e;
    std::memset(buffer.data() + got, 0, n - got);
    if (all_zero(buffer.data(), n)) {
      r.hole = true;
    } else {
      r.data_off = to->data_end.fetch_add((n + kChunk - 1) / kChunk * kChunk);
      if (int e = pwrite_all(to->data.get(), {buffer.data(), n}, r.data_off); e != 0) return e;
      since_check.fetch_add(n, std::memory_order_relaxed);
    }
    if (int e = commit(to, r); e != 0) return e;
    done += n;
  }
  return 0;
}

int Store::Impl::preserve_data(const ObjectId& object, int fd, Extent extent) {
  std::shared_ptr<Snap> to;
  std::vector<Extent> missing;  // in bytes, starting at chunks
  std::uint64_t bytes = 0;
  bool untouched = false;
  {
    Lock l(mutex);
    if (!target) return 0;
    if (int e = preserve_attr(object, fd); e != 0) return e;
    to = target;
    const Seen::Object& o = *seen.find(object);
    untouched = o.untouched();
    std::uint64_t end = std::min<std::uint64_t>(extent.len > ~extent.off ? ~0ull : extent.off + extent.len, o.size);
    const std::uint64_t last = (end + kChunk - 1) / kChunk;
    for (std::uint64_t i = o.next(extent.off / kChunk, last, false); i < last;) {
      const std::uint64_t upto = o.next(i, last, true);
      missing.push_back({i * kChunk, std::min(upto * kChunk, o.size) - i * kChunk});
      bytes += missing.back().len;
      i = o.next(upto, last, false);
    }
  }
  if (bytes >= kCloneFrom && untouched && can_clone.load(std::memory_order_relaxed)) {
    int e = clone_whole(to, object, fd);
    if (e == 0 || e == ENOSPC || e == EAGAIN) return e;
    if (e == EOPNOTSUPP || e == ENOTTY || e == EXDEV || e == ENOSYS) can_clone.store(false, std::memory_order_relaxed);
  }
  Fd own;
  for (const Extent& run : missing) {
    int e = copy_run(to, object, fd, run.off / kChunk, run.len);
    if (e == EBADF) {
      // Opened for writing alone. What even its owner may not read is lost, and nothing else with it.
      own = Fd(::open(proc_path(fd).c_str(), O_RDONLY | O_CLOEXEC));
      if (!own && errno == EACCES) return lose(to, object);
      if (!own) return errno;
      fd = own.get();
      e = copy_run(to, object, fd, run.off / kChunk, run.len);
    }
    if (e != 0) return e;
  }
  return 0;
}

int Store::Impl::lose(const std::shared_ptr<Snap>& to, const ObjectId& object) {
  if (::symlinkat("lost", to->kept.get(), whole_name(object).c_str()) != 0 && errno != EEXIST) return errno;
  return commit(to, WholeRecord{object});
}

bool Store::wanted() const noexcept { return impl_->wanted.load(std::memory_order_relaxed); }

void Store::before_attr(const ObjectId& object, int fd) noexcept {
  if (!wanted()) return;
  for (;;) {
    int e = 0;
    {
      Lock l(impl_->mutex);
      e = impl_->preserve_attr(object, fd);
    }
    if (e == 0 || !impl_->recover(e)) return;
  }
}

void Store::before_data(const ObjectId& object, int fd, Extent extent) noexcept {
  if (!wanted()) return;
  const std::uint64_t margin = impl_->margin();
  if (extent.len >= margin || impl_->since_check.load(std::memory_order_relaxed) + extent.len >= margin) {
    impl_->since_check.store(0, std::memory_order_relaxed);
    keep_reserve();
  }
  for (;;) {
    int e = impl_->preserve_data(object, fd, extent);
    // A removal made an older snapshot the newest while this was copied: what it has not got is copied again.
    if (e == EAGAIN) continue;
    if (e == 0 || !impl_->recover(e)) return;
  }
}

void Store::before_name(const ObjectId& parent, int parent_fd, std::string_view name, const ObjectId& child,
                        const Handle* child_handle, int child_fd, bool last) noexcept {
  if (!wanted()) return;
  for (;;) {
    int e = 0;
    {
      Lock l(impl_->mutex);
      e = impl_->preserve_name(parent, parent_fd, name, child, child_handle, child_fd, last);
    }
    if (e == 0 || !impl_->recover(e)) return;
  }
}

std::uint32_t Store::own_links(const ObjectId& object) const noexcept {
  if (impl_->link_count.load(std::memory_order_relaxed) == 0) return 0;
  Lock l(impl_->mutex);
  auto at = impl_->links.find(object);
  return at == impl_->links.end() ? 0 : at->second;
}

}  // namespace somfs::snapshot
