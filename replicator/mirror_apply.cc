// SPDX-License-Identifier: Apache-2.0
#include "replicator/mirror_apply.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "common/printable.h"
#include "replicator/mirror_inode.h"

namespace somfs::replicator {

namespace {

constexpr std::size_t kRemoveAtOnce = 512, kRemovalsWaiting = 32;   // names of one directory; batches
constexpr std::size_t kWorthAThread = 256;
constexpr char kTrash = 't';  // no hexadecimal digit: no row's name begins so

tl::unexpected<Error> differs(const std::string& name) {
  return fail(Exit::temporary, "the mirror's tree is not as its catalog says at", printable(name), {},
              "verify with --repair, or migrate in full");
}

// A writable descriptor even where the mode forbids an ordinary user to write; the mode is put back by the caller.
Result<SharedFd> open_to_write(TreePaths& paths, const ObjectRow& object) {
  auto fd = paths.open(object, O_RDWR);
  if (fd || fd.error().sys != EACCES) return fd;
  SOMFS_TRY_ASSIGN(auto path, paths.open(object, O_PATH));
  if (!path || ::chmod(proc_path(path->get()).c_str(), 0600) != 0) return fd;
  return paths.open(object, O_RDWR);
}

Status punch(int fd, std::uint64_t off, std::uint64_t len) {
  if (len == 0 || ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(off), static_cast<off_t>(len)) == 0)
    return {};
  if (errno != EOPNOTSUPP) return fail_errno("cannot punch a hole in a file of the mirror");
  static const std::string zeroes(65536, '\0');
  for (std::uint64_t done = 0; done < len;) {
    std::size_t n = static_cast<std::size_t>(std::min<std::uint64_t>(zeroes.size(), len - done));
    if (int e = pwrite_all(fd, std::string_view(zeroes).substr(0, n), off + done); e != 0)
      return fail_errno("cannot write to a file of the mirror", {}, e);
    done += n;
  }
  return {};
}

}  // namespace

// ---- the remover --------------------------------------------------------------------------------------------------------

Remover::~Remover() {
  {
    Lock l(mutex_);
    ended_ = true;
    change_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Remover::remove(const SharedFd& dir, std::string name) {
  if (next_.dir != dir || next_.names.size() >= kRemoveAtOnce) {
    hand_over();
    next_.dir = dir;
  }
  next_.names.push_back(std::move(name));
}

void Remover::hand_over() {
  if (next_.names.empty()) return;
  given_ += next_.names.size();
  if (!thread_.joinable() && given_ >= kWorthAThread) thread_ = std::thread([this] { run(); });
  Lock l(mutex_);
  while (thread_.joinable() && queue_.size() >= kRemovalsWaiting) change_.wait(mutex_);
  queue_.push_back(std::exchange(next_, {}));
  change_.notify_all();
}

Status Remover::finish() {
  hand_over();
  Lock l(mutex_);
  if (thread_.joinable()) {
    while (!queue_.empty() || busy_) change_.wait(mutex_);
  } else {
    for (; !queue_.empty() && !error_; queue_.pop_front()) error_ = remove_all(queue_.front());
  }
  if (error_) return pass_on(*error_);
  return {};
}

std::optional<Error> Remover::remove_all(const Batch& batch) {
  for (const std::string& name : batch.names)
    if (::unlinkat(batch.dir->get(), name.c_str(), 0) != 0) return fail_errno("cannot clear a name in the mirror", printable(name)).value();
  return std::nullopt;
}

void Remover::run() {
  for (;;) {
    Batch batch;
    bool failed;
    {
      Lock l(mutex_);
      busy_ = false;
      change_.notify_all();
      while (queue_.empty() && !ended_) change_.wait(mutex_);
      if (queue_.empty()) return;
      batch = std::move(queue_.front());
      queue_.pop_front();
      busy_ = true;
      failed = error_.has_value();
    }
    if (failed) continue;
    if (auto error = remove_all(batch)) {
      Lock l(mutex_);
      error_ = std::move(error);
    }
  }
}

// ---- playing ------------------------------------------------------------------------------------------------------------

Status Apply::run(TreePaths::Modes widened, std::function<Status(const TreePaths::Modes&)> keep) {
  paths_.enter_all(std::move(widened), std::move(keep));
  Status played = play();
  Status left = paths_.leave_all();
  return played ? left : played;
}

Status Apply::play() {
  SOMFS_TRY(collect());
  SOMFS_TRY(clear());
  for (const NameAt& n : names_) SOMFS_TRY(place(n));
  SOMFS_TRY(change());
  SOMFS_TRY(directories());
  SOMFS_TRY(sync());
  return clean_stage();
}

Status Apply::collect() {
  Status read = read_redo(journal_, redo_, true, nullptr, [&](const RedoOp& op) -> Status {
    if (op.type == RedoOp::Type::name) {
      names_.push_back({op.parent, op.name});
    } else if (op.type == RedoOp::Type::object) {
      if (!op.fresh) ++changed_;
      if (op.record.attr.kind == Kind::dir) {
        directories_.emplace_back(op.row, op.record);
      } else if (op.fresh && (op.record.flags & kRewritten) != 0) {
        SOMFS_TRY_ASSIGN(auto names, db_.names_of(op.row));
        for (auto& [parent, name] : names) names_.push_back({parent, std::move(name)});
      }
    }
    return {};
  });
  SOMFS_TRY(read);
  std::sort(names_.begin(), names_.end());
  names_.erase(std::unique(names_.begin(), names_.end()), names_.end());
  return each_entry(paths_.stage(), [&](const std::string& name, std::uint64_t, unsigned char) -> Status {
    if (name[0] == kTrash) trash_.push_back(name);
    return {};
  });
}

// A changed name may lie in a directory that is itself not where the catalog wants it: what stands higher in the old tree has to be
// moved out first. So: rounds, until none is left; each round frees at least one.
Status Apply::clear() {
  bool moved = false;
  SOMFS_TRY(empty_trash(&moved));
  std::vector<const NameAt*> left;
  for (const NameAt& n : names_) left.push_back(&n);
  while (!left.empty()) {
    std::vector<const NameAt*> later;
    bool progress = false;
    Row last = 0;
    SharedFd dir;
    for (const NameAt* n : left) {
      if (n->parent != last) {
        SOMFS_TRY_ASSIGN(dir, paths_.directory(n->parent));
        last = n->parent;
      }
      if (!dir) {
        SOMFS_TRY_ASSIGN(auto parent, db_.by_row(n->parent));
        if (parent) {
          later.push_back(n);
        } else {
          progress = true;   // the directory is dead, and what it holds is looked through when it goes
        }
        continue;
      }
      touched_.insert(n->parent);
      SOMFS_TRY(clear_name(*n, dir));
      progress = true;
    }
    SOMFS_TRY(remover_.finish());
    moved = false;
    SOMFS_TRY(empty_trash(&moved));
    if (!progress && !moved) return differs(later.front()->name);
    left = std::move(later);
  }
  return {};
}

Status Apply::clear_name(const NameAt& n, const SharedFd& dir) {
  SOMFS_TRY_ASSIGN(auto holder, look(dir->get(), n.name));
  if (!holder) return {};
  SOMFS_TRY_ASSIGN(Row wanted, db_.at(n.parent, n.name));
  bool replace = false;
  if (wanted != 0) {
    SOMFS_TRY_ASSIGN(auto object, db_.by_row(wanted));
    if (object && object->inode == holder->id) return {};
    replace = object && object->kind != Kind::dir;
  }
  if (!replace && holder->attr.kind != Kind::dir) {
    SOMFS_TRY_ASSIGN(auto live, db_.by_inode(holder->id));
    if (!live) {
      remover_.remove(dir, n.name);
      return {};
    }
  }
  return evict(dir->get(), n.name, *holder, replace);
}

Status Apply::evict(int dir, const std::string& name, const Inode& holder, bool may_be_replaced) {
  SOMFS_TRY_ASSIGN(auto live, db_.by_inode(holder.id));
  bool is_dir = holder.attr.kind == Kind::dir;
  int rc = 0;
  if (live) {
    std::string stage = stage_name(live->row);
    SOMFS_TRY_ASSIGN(auto staged, look(paths_.stage(), stage));
    if (staged && staged->id != holder.id) return differs(name);
    rc = staged ? ::unlinkat(dir, name.c_str(), 0)
                : ::renameat2(dir, name.c_str(), paths_.stage(), stage.c_str(), RENAME_NOREPLACE);
  } else if (!is_dir) {
    if (!may_be_replaced) rc = ::unlinkat(dir, name.c_str(), 0);
  } else if (::unlinkat(dir, name.c_str(), AT_REMOVEDIR) != 0) {
    std::string away;
    do {
      away = kTrash + std::to_string(++trash_counter_);
      rc = ::renameat2(dir, name.c_str(), paths_.stage(), away.c_str(), RENAME_NOREPLACE);
    } while (rc != 0 && errno == EEXIST);
    if (rc == 0) trash_.push_back(away);
  }
  if (rc != 0) return fail_errno("cannot clear a name in the mirror", printable(name));
  return {};
}

Status Apply::empty_trash(bool* moved) {
  while (!trash_.empty()) {
    *moved = true;
    std::string at = trash_.back();
    trash_.pop_back();
    Fd fd = open_beneath(paths_.stage(), at, O_RDONLY | O_DIRECTORY);
    if (!fd && errno == EACCES && ::fchmodat(paths_.stage(), at.c_str(), 0700, 0) == 0)
      fd = open_beneath(paths_.stage(), at, O_RDONLY | O_DIRECTORY);
    if (!fd) return fail_errno("cannot empty a removed directory of the mirror");
    Status walked = each_entry(fd.get(), [&](const std::string& entry, std::uint64_t, unsigned char) -> Status {
      SOMFS_TRY_ASSIGN(auto holder, look(fd.get(), entry));
      return holder ? evict(fd.get(), entry, *holder, false) : Status();
    });
    SOMFS_TRY(walked);
    if (::unlinkat(paths_.stage(), at.c_str(), AT_REMOVEDIR) != 0) return fail_errno("cannot remove a directory of the mirror");
  }
  return {};
}

Status Apply::place(const NameAt& n) {
  SOMFS_TRY_ASSIGN(Row wanted, db_.at(n.parent, n.name));
  if (wanted == 0) return {};
  SOMFS_TRY_ASSIGN(auto object, db_.by_row(wanted));
  if (!object) return differs(n.name);
  SOMFS_TRY_ASSIGN(auto dir, paths_.directory(n.parent));
  if (!dir) return differs(n.name);
  SOMFS_TRY_ASSIGN(auto holder, look(dir->get(), n.name));
  if (holder && holder->id == object->inode) return {};
  if (holder) {
    SOMFS_TRY(evict(dir->get(), n.name, *holder, object->kind != Kind::dir));
    SOMFS_TRY_ASSIGN(holder, look(dir->get(), n.name));
  }
  std::string stage = stage_name(wanted);
  SOMFS_TRY_ASSIGN(auto staged, look(paths_.stage(), stage));
  bool here = staged && staged->id == object->inode;
  int rc;
  if (here && object->kind == Kind::dir) {
    rc = ::renameat2(paths_.stage(), stage.c_str(), dir->get(), n.name.c_str(), RENAME_NOREPLACE);
  } else if (object->kind == Kind::dir) {
    return differs(n.name);
  } else {
    SOMFS_TRY_ASSIGN(auto names, db_.names_of(wanted));
    if (here && names.size() == 1 && staged->attr.nlink == 1) {
      rc = ::renameat(paths_.stage(), stage.c_str(), dir->get(), n.name.c_str());
    } else {
      if (holder && ::unlinkat(dir->get(), n.name.c_str(), 0) != 0)
        return fail_errno("cannot clear a name in the mirror", printable(n.name));
      SOMFS_TRY_ASSIGN(auto fd, paths_.open(*object, O_PATH));
      if (!fd) return differs(n.name);
      rc = ::linkat(AT_FDCWD, proc_path(fd->get()).c_str(), dir->get(), n.name.c_str(), AT_SYMLINK_FOLLOW);
    }
  }
  if (rc != 0) return fail_errno("cannot put a name in place in the mirror", printable(n.name));
  return {};
}

Status Apply::change() {
  if (changed_ == 0) return {};
  struct Current {
    SharedFd fd;
    ObjectRecord record;
    ObjectRow row;
    std::uint32_t mode = 0;
    bool data = false;
  } now;
  auto finish = [&]() -> Status {
    if (!now.fd) return {};
    int fd = now.fd->get();
    SOMFS_TRY(set_attributes(fd, now.record, false));
    if (now.data && (now.record.flags & kAttr) == 0) {
      struct stat st;
      if (::fstat(fd, &st) != 0) return fail_errno("cannot stat a file of the mirror");
      if ((st.st_mode & 07777) != now.mode && ::fchmod(fd, now.mode) != 0)
        return fail_errno("cannot set the mode of a file of the mirror");
    }
    if ((now.record.flags & kAttr) == 0) SOMFS_TRY(set_mtime(fd, now.row.mtime));
    if (few()) {
      Fd again(now.row.kind == Kind::file ? ::open(proc_path(fd).c_str(), O_RDONLY | O_CLOEXEC) : -1);
      if (again && ::fsync(again.get()) != 0) return fail_errno("cannot sync a file of the mirror");
    }
    now = Current{};
    return {};
  };
  // The size comes first, whatever is written lies within it.
  auto begin_data = [&](bool writable) -> Status {
    if (now.data) return {};
    if (!writable) {
      SOMFS_TRY_ASSIGN(now.fd, open_to_write(paths_, now.row));
    }
    if (!now.fd) return differs(stage_name(now.row.row));
    now.data = true;
    if (::ftruncate(now.fd->get(), static_cast<off_t>(now.record.attr.size)) != 0)
      return fail_errno("cannot size a file of the mirror");
    return {};
  };
  Status read = read_redo(journal_, redo_, true, nullptr, [&](const RedoOp& op) -> Status {
    if (op.type == RedoOp::Type::object) {
      SOMFS_TRY(finish());
      if (op.fresh || op.record.attr.kind == Kind::dir) return {};
      SOMFS_TRY_ASSIGN(auto object, db_.by_row(op.row));
      if (!object) return {};
      now.record = op.record;
      now.row = *object;
      const bool writes = (op.record.flags & kSize) != 0 && object->kind == Kind::file;
      auto opened = paths_.open(*object, writes ? O_RDWR : O_PATH);
      const bool writable = opened && writes;
      if (!opened && opened.error().sys == EACCES) opened = paths_.open(*object, O_PATH);
      SOMFS_TRY_ASSIGN(now.fd, std::move(opened));
      if (!now.fd) return differs(stage_name(op.row));
      struct stat st;
      if (::fstat(now.fd->get(), &st) != 0) return fail_errno("cannot stat a file of the mirror");
      now.mode = st.st_mode & 07777;
      return writes ? begin_data(writable) : Status();
    }
    if (!now.fd || (op.type != RedoOp::Type::data && op.type != RedoOp::Type::hole)) return {};
    SOMFS_TRY(begin_data(false));
    if (op.type == RedoOp::Type::hole) return punch(now.fd->get(), op.off, op.len);
    if (int e = pwrite_all(now.fd->get(), op.bytes, op.off); e != 0)
      return fail_errno("cannot write to a file of the mirror", {}, e);
    return {};
  });
  SOMFS_TRY(read);
  return finish();
}

Status Apply::directories() {
  // Backwards: children were stated after their parents, and a parent may become unreadable for us.
  for (auto it = directories_.rbegin(); it != directories_.rend(); ++it) {
    SOMFS_TRY_ASSIGN(auto object, db_.by_row(it->first));
    if (!object) continue;
    SOMFS_TRY_ASSIGN(auto fd, paths_.directory(it->first));
    if (!fd) return differs(stage_name(it->first));
    SOMFS_TRY(set_attributes(fd->get(), it->second, false));
    if (it->second.flags & (kAttr | kNew | kRewritten)) paths_.has_new_mode(it->first);
    touched_.insert(it->first);
  }
  for (Row row : touched_) {
    SOMFS_TRY_ASSIGN(auto object, db_.by_row(row));
    if (!object) continue;
    SOMFS_TRY_ASSIGN(auto fd, paths_.directory(row));
    if (!fd) return differs(stage_name(row));
    // A foreign root has no time of a source yet.
    if (object->id) SOMFS_TRY(set_mtime(fd->get(), object->mtime));
  }
  return {};
}

Status Apply::sync() {
  if (!few()) {
    if (::syncfs(paths_.tree()) != 0) return fail_errno("cannot sync the mirror");
    return {};
  }
  for (Row row : touched_) {
    SOMFS_TRY_ASSIGN(auto fd, paths_.directory(row));
    if (fd && ::fsync(fd->get()) != 0) return fail_errno("cannot sync a directory of the mirror");
  }
  if (::fsync(paths_.stage()) != 0) return fail_errno("cannot sync the mirror's stage");
  return {};
}

Status Apply::clean_stage() {
  std::vector<std::string> entries;
  Status walked = each_entry(paths_.stage(), [&](const std::string& name, std::uint64_t, unsigned char) -> Status {
    SOMFS_TRY_ASSIGN(auto holder, look(paths_.stage(), name));
    if (!holder) return {};
    SOMFS_TRY_ASSIGN(auto live, db_.by_inode(holder->id));
    // The only place of something that lives: not to be lost, whatever went wrong.
    if (live && (holder->attr.kind == Kind::dir || holder->attr.nlink == 1)) return differs(name);
    entries.push_back(name);
    return {};
  });
  SOMFS_TRY(walked);
  for (const std::string& name : entries) SOMFS_TRY(remove_tree(paths_.stage(), name));
  return {};
}

}  // namespace somfs::replicator
