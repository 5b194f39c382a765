// SPDX-License-Identifier: Apache-2.0
// A mirror as the source of the next one: its tree, read by the catalog. Objects have the source's ids and change times, so the next mirror's catalog
// becomes what this one's is. A step that does not find what the catalog says ends the run: a damaged tree is not passed on, nor what is missing removed.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "common/printable.h"
#include "replicator/mirror_impl.h"
#include "replicator/mirror_inode.h"
#include "replicator/tree.h"

namespace somfs::replicator {
namespace {

// Without an errno it spares nothing (spares_the_rest).
tl::unexpected<Error> not_as_said(const std::string& name, const std::string& why) {
  return fail(Exit::configuration, "the mirror's tree is not what its catalog says", printable(name), why, "mend it first: somfs-ctl verify --repair, at the source");
}

template <typename T>
Result<T> ends_the_run(Result<T> result) {
  if (!result && result.error().sys != 0) return not_as_said(result.error().on, result.error().line());
  return result;
}

int open_flags(Kind kind) {
  if (kind == Kind::dir) return O_RDONLY | O_DIRECTORY;
  return kind == Kind::file ? O_RDONLY | O_NONBLOCK : O_PATH;
}

class MirrorFile final : public TreeFile {
 public:
  MirrorFile(SharedFd fd, Ref ref, Attr attr, Row row) : fd_(std::move(fd)), ref_(std::move(ref)), attr_(attr), row_(row) {}
  const Ref& ref() const override { return ref_; }
  const Attr& attr() const override { return attr_; }
  Result<Xattrs> xattrs() override { return ends_the_run(read_xattrs(fd())); }
  Result<std::string> link_target() override {
    std::string target(kMaxTarget + 1, '\0');
    const ssize_t n = ::readlinkat(fd(), "", target.data(), target.size());
    if (n < 0) return not_as_said(std::to_string(ref_.id.ino), "its target cannot be read");
    target.resize(static_cast<std::size_t>(n));
    return target;
  }
  Result<std::size_t> read(void* buf, std::size_t n, std::uint64_t off) override {
    std::size_t got = 0;
    if (int e = pread_all(fd(), buf, n, off, &got); e != 0) return ends_the_run(Result<std::size_t>(fail_errno("cannot read a file of the mirror", {}, e)));
    return got;
  }
  Result<std::optional<Extent>> next_data(std::uint64_t off) override {
    if (off >= attr_.size) return std::optional<Extent>();
    const off_t data = ::lseek(fd(), static_cast<off_t>(off), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return std::optional<Extent>();
    if (data < 0) return std::optional<Extent>(Extent{off, attr_.size - off});   // not told here: all of it
    const off_t hole = ::lseek(fd(), data, SEEK_HOLE);
    const auto from = static_cast<std::uint64_t>(data);
    if (from >= attr_.size) return std::optional<Extent>();
    const std::uint64_t end = hole < 0 ? attr_.size : std::min(attr_.size, static_cast<std::uint64_t>(hole));
    return std::optional<Extent>(Extent{from, end - from});
  }
  int fd() const { return fd_->get(); }
  Row row() const { return row_; }

 private:
  SharedFd fd_;
  Ref ref_;
  Attr attr_;
  Row row_;
};

const MirrorFile& of(const TreeFile& file) { return static_cast<const MirrorFile&>(file); }

class MirrorTree final : public Tree {
 public:
  MirrorTree(int tree, int stage, CatalogDb& db) : db_(db), paths_(tree, stage, db) {}

  Result<TreeFilePtr> root() override {
    Lock l(mutex_);
    SOMFS_TRY_ASSIGN(auto row, ends_the_run(db_.by_row(kRootRow)));
    if (!row) return not_as_said("/", "it has no root");
    return opened(*row, "/");
  }
  Result<std::vector<ViewEntry>> list(TreeFile& dir) override {
    Lock l(mutex_);
    SOMFS_TRY_ASSIGN(auto children, ends_the_run(db_.children(of(dir).row())));
    std::vector<ViewEntry> out;
    out.reserve(children.size());
    for (Child& c : children) out.push_back({std::move(c.name), {c.object.id, {}, c.object.kind}});
    return out;
  }
  Result<std::optional<Ref>> lookup(TreeFile& dir, const std::string& name) override {
    Lock l(mutex_);
    SOMFS_TRY_ASSIGN(const Row at, ends_the_run(db_.at(of(dir).row(), name)));
    if (at == 0) return std::optional<Ref>();
    SOMFS_TRY_ASSIGN(auto row, ends_the_run(db_.by_row(at)));
    if (!row) return not_as_said(name, "it has no object");
    return std::optional<Ref>(Ref{row->id, {}, row->kind});
  }
  Result<TreeFilePtr> open_in(TreeFile& dir, const ViewEntry& entry) override {
    std::optional<ObjectRow> row;
    {
      Lock l(mutex_);
      SOMFS_TRY_ASSIGN(row, ends_the_run(db_.by_id(entry.ref.id)));
    }
    if (!row) return not_as_said(entry.name, "it is not known any more");
    auto fd = std::make_shared<Fd>(open_beneath(of(dir).fd(), entry.name, open_flags(row->kind)));
    if (!*fd) return ends_the_run(Result<TreeFilePtr>(fail_errno("cannot open", printable(entry.name))));
    return file_of(*row, std::move(fd), entry.name);
  }
  Result<TreeFilePtr> open(const Ref& ref) override {
    Lock l(mutex_);
    SOMFS_TRY_ASSIGN(auto row, ends_the_run(db_.by_id(ref.id)));
    if (!row) return TreeFilePtr();
    return opened(*row, std::to_string(ref.id.ino));
  }
  bool has_handles() const override { return false; }

 private:
  Result<TreeFilePtr> opened(const ObjectRow& row, const std::string& name) REQUIRES(mutex_) {
    SOMFS_TRY_ASSIGN(SharedFd fd, ends_the_run(paths_.open(row, open_flags(row.kind))));
    if (!fd) return not_as_said(name, "another one lies there, or none");
    return file_of(row, std::move(fd), name);
  }
  static Result<TreeFilePtr> file_of(const ObjectRow& row, SharedFd fd, const std::string& name) {
    SOMFS_TRY_ASSIGN(Inode there, ends_the_run(inode_of(fd->get())));
    if (there.id != row.inode || there.attr.kind != row.kind) return not_as_said(name, "another one lies there");
    if (row.kind == Kind::file && there.attr.size != row.size) return not_as_said(name, "its size is another");
    there.attr.ctime = row.ctime;
    return std::make_unique<MirrorFile>(std::move(fd), Ref{row.id, {}, row.kind}, there.attr, row.row);
  }

  Mutex mutex_;
  CatalogDb& db_ GUARDED_BY(mutex_);
  TreePaths paths_ GUARDED_BY(mutex_);
};

}  // namespace

std::unique_ptr<Tree> Mirror::tree() { return std::make_unique<MirrorTree>(impl_->tree.get(), impl_->stage.get(), *impl_->reader); }

Standing Mirror::standing() const { return impl_->standing(); }

Standing Mirror::Impl::standing() const {
  Standing s;
  s.mirror = mirror;
  s.volume = volume;
  s.at = {committed, generation};
  constexpr std::size_t one = sizeof(Uuid::bytes);
  for (std::size_t at = 0; at + one <= ancestors.size(); at += one) s.ancestors.push_back(Uuid::from_raw(std::string_view(ancestors).substr(at, one)));
  s.host = host;
  s.excludes = writer->meta("excludes").value_or(std::string());
  s.foreign = foreign;
  return s;
}

void Mirror::forward(std::shared_ptr<Spool> spool) {
  impl_->spool = std::move(spool);
  if (impl_->spool) impl_->spool->align(impl_->state.get(), impl_->standing(), impl_->held);
}

void Mirror::Impl::realign() {
  if (!spool) return;
  spool->leave();
  spool->align(state.get(), standing(), held);
}

}  // namespace somfs::replicator
