// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "snapshot/view_impl.h"

namespace somfs::snapshot {

ViewFile::ViewFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ViewFile::ViewFile(ViewFile&&) noexcept = default;
ViewFile& ViewFile::operator=(ViewFile&&) noexcept = default;
ViewFile::~ViewFile() = default;

const Ref& ViewFile::ref() const { return impl_->ref; }
const Attr& ViewFile::attr() const { return impl_->attr; }

Result<Xattrs> ViewFile::xattrs(std::vector<std::string>* unread) {
  Impl& f = *impl_;
  Xattrs found;
  std::vector<std::string> hidden;
  if (!f.pre) {
    SOMFS_TRY_ASSIGN(found, read_xattrs(f.fd.get(), &hidden));
    SOMFS_TRY(f.view->index->sync());
    f.pre = f.view->index->attr(f.ref.id);
  }
  if (f.pre) {
    found = f.pre->xattrs;
    hidden = f.pre->unread;
  }
  if (unread == nullptr && !hidden.empty()) return fail_errno("cannot read an extended attribute of", "an object of the snapshot", EACCES);
  if (unread != nullptr) *unread = std::move(hidden);
  return found;
}

Result<std::string> ViewFile::link_target() {
  Impl& f = *impl_;
  if (f.ref.kind != Kind::symlink) return fail_errno("cannot read link", "an object of the snapshot", EINVAL);
  if (!f.fd) return fail_errno("cannot read", "a symbolic link that the snapshot could not keep", EIO);
  char target[PATH_MAX];
  ssize_t n = ::readlinkat(f.fd.get(), "", target, sizeof target);
  if (n < 0) return fail_errno("cannot read link", "an object of the snapshot");
  return std::string(target, static_cast<std::size_t>(n));
}

Result<int> ViewFile::Impl::base() {
  if (!whole && view->index->whole(ref.id)) {
    whole = view->index->open_whole(ref.id);
    if (!whole) return fail_errno("cannot open a preserved file of", "the snapshot");
  }
  if (whole) return whole.get();
  if (!fd && ref.kind == Kind::file) return fail_errno("cannot read", "a file that the snapshot could not keep", EIO);
  if (!readable) return fail_errno("cannot read", "an object of the snapshot", ref.kind == Kind::file ? EACCES : EINVAL);
  return fd.get();
}

Result<std::size_t> ViewFile::read(void* buf, std::size_t n, std::uint64_t off) {
  Impl& f = *impl_;
  auto* out = static_cast<char*>(buf);
  if (off >= f.attr.size || n == 0) return 0;
  n = static_cast<std::size_t>(std::min<std::uint64_t>(n, f.attr.size - off));
  // First the file, then the log: if the file changed before it was read, the log has what was there.
  SOMFS_TRY_ASSIGN(int fd, f.base());
  std::size_t got = 0;
  if (int e = pread_all(fd, out, n, off, &got); e != 0) return fail_errno("cannot read", "a file of the snapshot", e);
  std::memset(out + got, 0, n - got);
  SOMFS_TRY(f.view->index->sync());
  if (!f.whole && f.view->index->whole(f.ref.id)) return read(buf, n, off);
  for (const auto& [first, run] : f.view->index->runs(f.ref.id, off / kChunk, (off + n - 1) / kChunk)) {
    std::uint64_t start = std::max(first * kChunk, off);
    std::uint64_t end = std::min((first + run.count) * kChunk, off + n);
    // A chunk that was the last one of the file, then: beyond it nothing is to be seen, and attr.size says so.
    std::uint64_t valid = std::max(start, std::min(end, first * kChunk + run.length));
    std::memset(out + (start - off), 0, end - start);
    if (run.hole || valid == start) continue;
    std::size_t want = valid - start;
    std::uint64_t from = run.data_off + (start - first * kChunk);
    if (int e = pread_all(run.source->data.get(), out + (start - off), want, from, &got); e != 0)
      return fail_errno("cannot read", "a pre-image", e);
    if (got != want) return fail(Exit::temporary, "cannot read", "a pre-image", "the store's data file is too short");
  }
  return n;
}

namespace {

// A small file that has all its blocks is data: one question instead of two.
bool small_and_dense(int fd, std::uint64_t size) {
  struct stat st;
  return size <= kChunk && ::fstat(fd, &st) == 0 && static_cast<std::uint64_t>(st.st_blocks) * 512 >= size;
}

}  // namespace

Result<std::optional<Extent>> ViewFile::next_data(std::uint64_t off) {
  Impl& f = *impl_;
  ViewIndex& index = *f.view->index;
  if (off >= f.attr.size) return std::optional<Extent>();
  for (int round = 0; round < 8; ++round) {
    std::uint64_t before = index.version();
    SOMFS_TRY_ASSIGN(int fd, f.base());
    Runs runs = index.runs(f.ref.id, off / kChunk, (f.attr.size - 1) / kChunk);
    std::optional<Extent> found;
    if (runs.empty() && small_and_dense(fd, f.attr.size)) found = Extent{off, f.attr.size - off};
    auto run = runs.begin();
    for (std::uint64_t at = off; at < f.attr.size && !found;) {
      while (run != runs.end() && (run->first + run->second.count) * kChunk <= at) ++run;
      std::uint64_t next = run == runs.end() ? f.attr.size : std::min(run->first * kChunk, f.attr.size);
      if (next <= at) {  // inside a preserved run
        std::uint64_t end = std::min((run->first + run->second.count) * kChunk, f.attr.size);
        if (!run->second.hole) found = Extent{at, end - at};
        at = end;
        continue;
      }
      off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
      if (data < 0 && errno != ENXIO) data = static_cast<off_t>(at);  // it cannot tell: all is data
      if (data >= 0 && static_cast<std::uint64_t>(data) < next) {
        off_t hole = ::lseek(fd, data, SEEK_HOLE);
        std::uint64_t end = hole > data ? std::min(static_cast<std::uint64_t>(hole), next) : next;
        found = Extent{static_cast<std::uint64_t>(data), end - static_cast<std::uint64_t>(data)};
      }
      at = next;
    }
    SOMFS_TRY(index.sync());
    if (index.version() == before) return found;
  }
  // It changes faster than it can be looked at; calling a hole data is always right.
  return std::optional<Extent>(Extent{off, f.attr.size - off});
}

}  // namespace somfs::snapshot
