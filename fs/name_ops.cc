// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <optional>

#include "fs/caller.h"
#include "fs/passthrough.h"

namespace somfs::fs {

// A new object, as the reply and the layers need it.
struct Passthrough::NewObject {
  fuse_entry_param entry = {};
  Node* node = nullptr;  // one reference, which the reply hands to the kernel
  OpenFile* file = nullptr;
};

// The locks of one or two directories, in the order of their addresses.
class Passthrough::NameLocks {
 public:
  NameLocks(Node& a, Node& b) NO_THREAD_SAFETY_ANALYSIS : first_(&a < &b ? a : b), second_(&a < &b ? b : a) {
    first_.lock.lock();
    if (&first_ != &second_) second_.lock.lock();
  }
  ~NameLocks() NO_THREAD_SAFETY_ANALYSIS {
    if (&first_ != &second_) second_.lock.unlock();
    first_.lock.unlock();
  }
  NameLocks(const NameLocks&) = delete;
  NameLocks& operator=(const NameLocks&) = delete;

 private:
  Node& first_;
  Node& second_;
};

namespace {

// What a name holds before it changes: who it is, and how to reach it for as long as the operation runs.
struct Named {
  Look seen;
  bool exists = false;
  Node* node = nullptr;  // counted, where the kernel knows it
  Handle handle;
  Fd fd;
};

Named named(NodeTable& nodes, int dirfd, const char* name, bool with_fd) {
  Named n;
  n.exists = look(dirfd, name, &n.seen) == 0;
  if (!n.exists) return n;
  n.node = nodes.find(n.seen.id);
  if (with_fd || n.node == nullptr) n.fd = Fd(::openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (n.node == nullptr && n.fd) n.handle = handle_of(n.fd.get());
  // An object without a handle could not be found again once its name is gone.
  if (n.node != nullptr && n.node->handle.empty()) nodes.path(*n.node);
  return n;
}

// After the call that took a name of it.
void lost_a_name(NodeTable& nodes, Named& n) {
  if (n.node == nullptr || S_ISDIR(n.seen.st.st_mode) || n.seen.st.st_nlink > 1) return;
  n.seen.st.st_nlink = 0;
  ::clock_gettime(CLOCK_REALTIME, &n.seen.st.st_ctim);
  nodes.nameless(*n.node, n.seen);
}

bool last_name(const Named& n, const PreImages* pre_images) {
  if (S_ISDIR(n.seen.st.st_mode)) return true;
  std::uint32_t ours = pre_images != nullptr ? pre_images->own_links(n.seen.id) : 0;
  return n.seen.st.st_nlink <= 1 + ours;
}

void set_before(NameChange* c, const Named& n, const PreImages* pre_images) {
  if (!n.exists) return;
  c->before = n.seen.id;
  c->before_handle = n.node != nullptr ? &n.node->handle : &n.handle;
  c->before_fd = n.fd.get();
  c->last = last_name(n, pre_images);
}

void set_after(NameChange* c, const Named& n) {
  if (!n.exists) return;
  c->after = n.seen.id;
  c->after_handle = n.node != nullptr ? &n.node->handle : &n.handle;
  c->after_kind = kind_of_mode(n.seen.st.st_mode);
}

int creation_flags(int flags) {
  int keep = flags & (O_ACCMODE | O_DIRECT | O_SYNC | O_DSYNC | O_NOATIME | O_LARGEFILE);
  if ((keep & O_ACCMODE) == O_WRONLY) keep = (keep & ~O_ACCMODE) | O_RDWR;
  return keep | O_CLOEXEC | O_NOFOLLOW;
}

}  // namespace

struct Passthrough::Create {
  fuse_req_t req;
  Node& parent;
  Text name;
  mode_t mode;
  int flags;
  void keep() { name.keep(); }
};

void Passthrough::create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, const fuse_file_info* fi) {
  if (is_virtual(parent) || is_own_name(parent, name)) {
    fuse_reply_err(req, EROFS);
    return;
  }
  admit(sizeof(Create), Create{req, node(parent), Text(name), mode, fi->flags}, &Passthrough::do_create);
}

void Passthrough::do_create(Create& r) {
  NewObject made;
  PathFd dir = nodes_.path(r.parent);
  int err = dir ? 0 : errno;
  // An unnamed file arrives as one that is called "/".
  if (err == 0)
    err = r.name.view() == "/" ? create_unnamed(r, r.parent, dir->get(), &made) : create_file(r, r.parent, dir->get(), &made);
  if (err != 0) {
    fuse_reply_err(r.req, err);
    return;
  }
  Way way{IoMode::cached, 0};
  if (io_modes_) way = io_modes_->enter(*made.node, -1, access_of(r.flags));
  if (way.mode == IoMode::none) {
    // It was there already, and others pass through to it: the kernel looks the name up again, and opens what it finds.
    closed(made.file);
    nodes_.forget(*made.node, 1);
    fuse_reply_err(r.req, ESTALE);
    return;
  }
  made.file->mode = way.mode;
  fuse_file_info reply = file_info(made.file);
  Negotiation::Through through(way.backing_id);
  if (fuse_reply_create(r.req, &made.entry, &reply) == -ENOENT) {
    closed(made.file);
    nodes_.forget(*made.node, 1);
  }
}

int Passthrough::create_file(Create& r, Node& dir, int dirfd, NewObject* made) {
  Fd fd;
  bool born = false;
  NameLocks l(dir, dir);
  Operation op;
  op.verb = Verb::create;
  op.kind = Kind::file;
  op.names[0] = name_change(dir, dirfd, r.name.c_str());
  op.name_count = 1;
  op.excluded = op.names[0].excluded;
  chain_.before(op);
  for (int tries = 0; !fd && tries < 2; ++tries) {
    int err = with_room([&] {
      ActAs caller(r.req, r.mode);
      fd = Fd(::openat(dirfd, r.name.c_str(), creation_flags(r.flags) | file_atime_ | O_CREAT | O_EXCL, r.mode));
      return fd ? 0 : errno;
    });
    born = err == 0;
    if (err == EEXIST && (r.flags & O_EXCL) == 0) {
      fd = Fd(::openat(dirfd, r.name.c_str(), creation_flags(r.flags) | file_atime_));
      err = fd ? 0 : errno;
    }
    if (err != 0 && (tries > 0 || (err != EMFILE && err != ENFILE) || !nodes_.shrink())) return err;
  }
  Look seen;
  if (int err = attributes(fd.get(), "", &seen); err != 0) return err;
  made->node = &nodes_.hold(seen, dirfd, r.name.c_str(), &dir);
  if (born) {
    op.object = made->node->id;
    op.handle = &made->node->handle;
    op.names[0].after = op.object;
    chain_.after(op);
    made->node->caps.store(FileCaps::none, std::memory_order_relaxed);
  }
  fill(&made->entry, *made->node, seen.st);
  made->file = opened(*made->node, std::move(fd), r.flags);
  return 0;
}

int Passthrough::create_unnamed(Create& r, Node& dir, int dirfd, NewObject* made) {
  Fd fd;
  Operation op;
  op.verb = Verb::tmpfile;
  op.kind = Kind::file;
  op.excluded = excluded(dir);
  chain_.before(op);
  if (int err = with_room([&] {
        ActAs caller(r.req, r.mode);
        // Whether it may be linked later is the kernel's business above us: beneath it always may.
        fd = Fd(::openat(dirfd, ".", (creation_flags(r.flags) & ~O_NOFOLLOW) | file_atime_ | O_TMPFILE | O_RDWR, r.mode));
        return fd ? 0 : errno;
      });
      err != 0)
    return err;
  auto path = std::make_shared<const Fd>(::open(proc_path(fd.get()).c_str(), O_PATH | O_CLOEXEC));
  Look seen;
  if (int err = attributes(fd.get(), "", &seen); err != 0) return err;
  made->node = &nodes_.hold(seen, fd.get(), "", nullptr);
  op.object = made->node->id;
  op.handle = &made->node->handle;
  chain_.after(op);
  fill(&made->entry, *made->node, seen.st);
  made->file = opened(*made->node, std::move(fd), (r.flags & ~O_ACCMODE) | O_RDWR);
  if (*path) nodes_.remember(*made->node, std::move(path));
  return 0;
}

struct Passthrough::Make {
  fuse_req_t req;
  Node& parent;
  Text name;
  mode_t mode;
  dev_t rdev;
  Text target;  // symbolic links
  void keep() {
    name.keep();
    if (S_ISLNK(mode)) target.keep();
  }
};

void Passthrough::make(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev, const char* target) {
  if (is_virtual(parent) || is_own_name(parent, name)) {
    fuse_reply_err(req, EROFS);
    return;
  }
  admit(sizeof(Make), Make{req, node(parent), Text(name), mode, rdev, Text(target)}, &Passthrough::do_make);
}

void Passthrough::do_make(Make& r) {
  fuse_entry_param e = {};
  PathFd dir = nodes_.path(r.parent);
  int err = dir ? 0 : errno;
  if (err == 0) {
    const char* name = r.name.c_str();
    NameLocks l(r.parent, r.parent);
    Operation op;
    op.verb = S_ISLNK(r.mode) ? Verb::symlink : Verb::make;
    op.kind = kind_of_mode(r.mode);
    op.names[0] = name_change(r.parent, dir->get(), name);
    op.name_count = 1;
    op.excluded = op.names[0].excluded;
    chain_.before(op);
    err = with_room([&] {
      ActAs caller(r.req, r.mode);
      int result = S_ISLNK(r.mode)   ? ::symlinkat(r.target.c_str(), dir->get(), name)
                   : S_ISDIR(r.mode) ? ::mkdirat(dir->get(), name, r.mode & 07777)
                                     : ::mknodat(dir->get(), name, r.mode, r.rdev);
      return result == 0 ? 0 : errno;
    });
    if (err == 0) err = find(r.parent, dir->get(), name, &e);
    if (err == 0) {
      Node& made = node(e.ino);
      op.object = made.id;
      op.handle = &made.handle;
      op.names[0].after = made.id;
      chain_.after(op);
    }
  }
  if (err != 0)
    fuse_reply_err(r.req, err);
  else if (fuse_reply_entry(r.req, &e) == -ENOENT)
    nodes_.forget(node(e.ino), 1);
}

struct Passthrough::Link {
  fuse_req_t req;
  Node& node;
  Node& parent;
  Text name;
  void keep() { name.keep(); }
};

void Passthrough::link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char* name) {
  if (is_virtual(ino) || is_virtual(parent) || is_own_name(parent, name)) {
    fuse_reply_err(req, is_virtual(ino) != is_virtual(parent) ? EXDEV : EROFS);
    return;
  }
  admit(sizeof(Link), Link{req, node(ino), node(parent), Text(name)}, &Passthrough::do_link);
}

void Passthrough::do_link(Link& r) {
  fuse_entry_param e = {};
  PathFd dir = nodes_.path(r.parent);
  PathFd object = dir ? nodes_.path(r.node) : nullptr;
  int err = object ? 0 : errno;
  if (err == 0) {
    NameLocks l(r.parent, r.parent);
    Operation op = operation(Verb::link, r.node, object->get());
    op.names[0] = name_change(r.parent, dir->get(), r.name.c_str());
    op.names[0].after = r.node.id;
    op.names[0].after_handle = &r.node.handle;
    op.names[0].after_kind = r.node.kind;
    op.name_count = 1;
    op.names[0].uncaptured = op.excluded;
    op.excluded = op.names[0].excluded;
    chain_.before(op);
    err = with_room([&] {
      // By descriptor, as root may; everybody else by the descriptor's name in /proc.
      int result = ::linkat(object->get(), "", dir->get(), r.name.c_str(), AT_EMPTY_PATH);
      if (result != 0 && errno == ENOENT)
        result = ::linkat(AT_FDCWD, proc_path(object->get()).c_str(), dir->get(), r.name.c_str(), AT_SYMLINK_FOLLOW);
      return result == 0 ? 0 : errno;
    });
    if (err == 0) {
      chain_.after(op);
      Look seen;
      err = attributes(object->get(), "", &seen);
      if (err == 0) {
        if (seen.st.st_nlink > 1)
          r.node.many_names.store(true, std::memory_order_relaxed);
        else
          nodes_.moved(r.node, &r.parent, r.name.view());  // it had no name before
        nodes_.hold(r.node);
        fill(&e, r.node, seen.st);
      }
    }
  }
  if (err != 0)
    fuse_reply_err(r.req, err);
  else if (fuse_reply_entry(r.req, &e) == -ENOENT)
    nodes_.forget(r.node, 1);
}

struct Passthrough::Remove {
  fuse_req_t req;
  Node& parent;
  Text name;
  bool directory;
  void keep() { name.keep(); }
};

void Passthrough::remove(fuse_req_t req, fuse_ino_t parent, const char* name, bool directory) {
  if (is_virtual(parent) || is_own_name(parent, name)) {
    fuse_reply_err(req, EROFS);
    return;
  }
  admit(sizeof(Remove), Remove{req, node(parent), Text(name), directory}, &Passthrough::do_remove);
}

void Passthrough::do_remove(Remove& r) {
  PathFd dir = nodes_.path(r.parent);
  int err = dir ? 0 : errno;
  if (err == 0) {
    Named victim;
    {
      NameLocks l(r.parent, r.parent);
      victim = named(nodes_, dir->get(), r.name.c_str(), keeps_pre_images());
      Operation op;
      op.verb = r.directory ? Verb::rmdir : Verb::unlink;
      op.object = victim.seen.id;
      op.names[0] = name_change(r.parent, dir->get(), r.name.c_str());
      set_before(&op.names[0], victim, pre_images_);
      op.handle = op.names[0].before_handle;
      op.fd = victim.fd.get();
      op.kind = victim.exists ? kind_of_mode(victim.seen.st.st_mode) : Kind::none;
      op.name_count = 1;
      op.excluded = op.names[0].excluded;
      chain_.before(op);
      // Whoever works in a directory that goes may still look at it: without a descriptor of ours it would be gone at once.
      PathFd kept = r.directory && victim.node != nullptr ? nodes_.path(*victim.node) : nullptr;
      err = with_room([&] { return ::unlinkat(dir->get(), r.name.c_str(), r.directory ? AT_REMOVEDIR : 0) == 0 ? 0 : errno; });
      if (err == 0) {
        chain_.after(op);
        lost_a_name(nodes_, victim);
      }
    }
    if (victim.node != nullptr) nodes_.forget(*victim.node, 1);
  }
  fuse_reply_err(r.req, err);
}

struct Passthrough::Rename {
  fuse_req_t req;
  Node& parent;
  Text name;
  Node& new_parent;
  Text new_name;
  unsigned flags;
  void keep() {
    name.keep();
    new_name.keep();
  }
};

void Passthrough::rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name,
                         unsigned flags) {
  if (is_virtual(parent) || is_virtual(new_parent) || is_own_name(parent, name) || is_own_name(new_parent, new_name)) {
    fuse_reply_err(req, is_virtual(parent) != is_virtual(new_parent) ? EXDEV : EROFS);
    return;
  }
  admit(sizeof(Rename), Rename{req, node(parent), Text(name), node(new_parent), Text(new_name), flags}, &Passthrough::do_rename);
}

void Passthrough::do_rename(Rename& r) {
  PathFd from = nodes_.path(r.parent);
  PathFd to = from ? nodes_.path(r.new_parent) : nullptr;
  int err = to ? 0 : errno;
  if (err == 0) {
    Named moved;
    Named target;
    {
      std::optional<Lock> whole;
      if (&r.parent != &r.new_parent) whole.emplace(rename_lock_);
      NameLocks l(r.parent, r.new_parent);
      moved = named(nodes_, from->get(), r.name.c_str(), keeps_pre_images());
      target = named(nodes_, to->get(), r.new_name.c_str(), keeps_pre_images());
      bool exchange = (r.flags & RENAME_EXCHANGE) != 0;
      Operation op;
      op.verb = Verb::rename;
      op.object = moved.seen.id;
      op.kind = moved.exists ? kind_of_mode(moved.seen.st.st_mode) : Kind::none;
      op.names[0] = name_change(r.parent, from->get(), r.name.c_str());
      op.names[1] = name_change(r.new_parent, to->get(), r.new_name.c_str());
      op.name_count = 2;
      set_before(&op.names[0], moved, pre_images_);
      set_before(&op.names[1], target, pre_images_);
      // What moves keeps a name.
      op.names[0].last = false;
      if (exchange) op.names[1].last = false;
      set_after(&op.names[1], moved);
      if (exchange) set_after(&op.names[0], target);
      op.handle = op.names[0].before_handle;
      op.fd = moved.fd.get();
      op.excluded = op.names[0].excluded && op.names[1].excluded;
      for (int i : {0, 1}) op.names[i].uncaptured = op.names[1 - i].excluded;
      chain_.before(op);
      err = with_room([&] {
        std::optional<ActAs> caller;  // a whiteout is a new object
        if ((r.flags & RENAME_WHITEOUT) != 0) caller.emplace(r.req, S_IFCHR);
        return ::renameat2(from->get(), r.name.c_str(), to->get(), r.new_name.c_str(), r.flags) == 0 ? 0 : errno;
      });
      Look white;
      if (err == 0 && (r.flags & RENAME_WHITEOUT) != 0 && look(from->get(), r.name.c_str(), &white) == 0) {
        op.names[0].after = white.id;
        op.names[0].after_kind = Kind::chr;
      }
      if (err == 0) {
        chain_.after(op);
        if (moved.node != nullptr) nodes_.moved(*moved.node, &r.new_parent, r.new_name.view());
        if (exchange && target.node != nullptr) nodes_.moved(*target.node, &r.parent, r.name.view());
        if (!exchange) lost_a_name(nodes_, target);
      }
    }
    if (moved.node != nullptr) nodes_.forget(*moved.node, 1);
    if (target.node != nullptr) nodes_.forget(*target.node, 1);
  }
  fuse_reply_err(r.req, err);
}

}  // namespace somfs::fs
