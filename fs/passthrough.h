// SPDX-License-Identifier: Apache-2.0
// The end of the filter: the operations of the mount, carried out over the backing directory through descriptors. Every
// operation that changes something passes the admission first (it may be parked there, never blocking the thread), takes the
// locks of what it changes, runs the layers' before(), the system call, the layers' after(), drops the locks and replies.
// Threads: everything may be called from any number of threads.
// Errors: the application sees the errno of the backing file system.
#pragma once

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/change.h"
#include "fs/direct_replies.h"
#include "fs/excludes.h"
#include "fs/filter.h"
#include "fs/io_modes.h"
#include "fs/negotiation.h"
#include "fs/node.h"
#include "fs/open_file.h"
#include "fs/own_flushers.h"
#include "fs/virtual_tree.h"

namespace somfs::fs {

// The name that is ours at the root: somfs's state beneath the mount, the virtual tree in it.
inline constexpr const char* kOwnName = ".somfs";

struct PassthroughOptions {
  int root_fd = -1;                    // O_RDONLY | O_DIRECTORY, borrowed
  std::vector<std::string> excludes;   // relative to the root
  bool writeback = false;
  bool passthrough = false;            // read-only opens may pass us by,
  off_t passthrough_from = 0;          // of files that have this size
  std::size_t descriptors = 10000;
  bool keep_atime = false;             // what reads files leaves no access time beneath
  bool keep_dir_atime = false;         // the same of directories
};

// A NUL-terminated string of a request: borrowed while the request is handled, copied when it is parked.
class Text {
 public:
  explicit Text(const char* borrowed) : text_(borrowed) {}
  const char* c_str() const { return kept_ ? copy_.c_str() : text_; }
  std::string_view view() const { return c_str(); }
  void keep() {
    copy_ = text_;
    kept_ = true;
  }

 private:
  const char* text_;
  std::string copy_;
  bool kept_ = false;
};

class Passthrough {
 public:
  // `chain` outlives this; the others may be null.
  Passthrough(const PassthroughOptions& options, const Chain& chain, PreImages* pre_images, ChangeSink* sink, VirtualTree* tree,
              Witness* witness, Negotiation& negotiation, const Look& root);

  // The library's table; the session's user data must be a SessionData.
  static const fuse_lowlevel_ops& operations();

  // The kernel's session, before it is served: through it the kernel is told what it cannot know.
  void attach(fuse_session* session) {
    session_ = session;
    direct_replies_.emplace(session);
  }
  // The workers are about to leave.
  void finish_replies() {
    direct_replies_->finish();
    if (io_modes_) io_modes_->finish();
  }
  // The session is about to go.
  void detach() {
    finish_replies();
    direct_replies_.reset();
  }

  NodeTable& nodes() { return nodes_; }
  Writers& writers() { return writers_; }
  OwnFlushers& own_flushers() { return own_flushers_; }
  std::uint64_t reads() const { return reads_.load(std::memory_order_relaxed); }

  // Reading: lookups and attributes (lookup_ops.cc).
  void lookup(fuse_req_t req, fuse_ino_t parent, const char* name);
  void forget(fuse_ino_t ino, std::uint64_t count);
  void getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi);
  void readlink(fuse_req_t req, fuse_ino_t ino);
  // Answers the request if it is one for extended attributes of stat (statx_ops.cc); false: it is another.
  bool answer_statx(int fuse_fd, const void* message, std::size_t size);
  void statfs(fuse_req_t req, fuse_ino_t ino);
  void getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, std::size_t size);
  void listxattr(fuse_req_t req, fuse_ino_t ino, std::size_t size);
  // Attributes (attr_ops.cc).
  void setattr(fuse_req_t req, fuse_ino_t ino, struct stat* attr, int to_set, fuse_file_info* fi);
  void setxattr(fuse_req_t req, fuse_ino_t ino, const char* name, const char* value, std::size_t size, int flags);
  void removexattr(fuse_req_t req, fuse_ino_t ino, const char* name);
  void ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, fuse_file_info* fi, unsigned flags, const void* in,
             std::size_t in_size, std::size_t out_size);
  // Open files and their data (data_ops.cc).
  void open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi);
  void release(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi);
  void read(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t off, fuse_file_info* fi);
  void write(fuse_req_t req, fuse_ino_t ino, const char* buf, std::size_t size, off_t off, fuse_file_info* fi);
  void fsync(fuse_req_t req, fuse_ino_t ino, bool data_only, fuse_file_info* fi);
  void fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, fuse_file_info* fi);
  void copy_file_range(fuse_req_t req, fuse_ino_t from, fuse_file_info* in, off_t off_in, fuse_file_info* out, off_t off_out,
                       std::size_t len, int flags);
  void lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, fuse_file_info* fi);
  // Directories (dir_ops.cc).
  void opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi);
  void readdir(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t off, fuse_file_info* fi, bool plus);
  void releasedir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi);
  void fsyncdir(fuse_req_t req, fuse_ino_t ino, bool data_only, fuse_file_info* fi);
  // Names (name_ops.cc).
  void create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, const fuse_file_info* fi);
  void make(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, dev_t rdev, const char* target);
  void link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char* name);
  void remove(fuse_req_t req, fuse_ino_t parent, const char* name, bool directory);
  void rename(fuse_req_t req, fuse_ino_t parent, const char* name, fuse_ino_t new_parent, const char* new_name, unsigned flags);

 private:
  struct SetAttr;
  struct SetXattr;
  struct SetFlags;
  struct Write;
  struct Allocate;
  struct CopyRange;
  struct Create;
  struct Make;
  struct Link;
  struct Remove;
  struct Rename;
  struct NewObject;
  class NameLocks;

  // Runs `act` now, or later with the copies that `request.keep()` makes.
  template <typename Request>
  void admit(std::size_t bytes, Request request, void (Passthrough::*act)(Request&));

  void do_setattr(SetAttr& r);
  int set_size(SetAttr& r, Node& node, int fd, const std::string& path);
  int set_owner_and_mode(SetAttr& r, Node& node, int fd, const std::string& path);
  void do_setxattr(SetXattr& r);
  void do_setflags(SetFlags& r);
  void do_write(Write& r);
  void do_allocate(Allocate& r);
  void do_copy(CopyRange& r);
  void do_create(Create& r);
  int create_file(Create& r, Node& dir, int dirfd, NewObject* made);
  int create_unnamed(Create& r, Node& dir, int dirfd, NewObject* made);
  void do_make(Make& r);
  void do_link(Link& r);
  void do_remove(Remove& r);
  void do_rename(Rename& r);

  // The virtual tree (virtual_ops.cc).
  static bool is_virtual(fuse_ino_t ino) { return (ino >> 63) != 0; }
  static VirtualTree::NodeId virtual_id(fuse_ino_t ino) { return ino & ~(1ull << 63); }
  static fuse_ino_t virtual_ino(VirtualTree::NodeId id) { return id | 1ull << 63; }
  int virtual_lookup(fuse_ino_t parent, const char* name, fuse_entry_param* e);
  void virtual_getattr(fuse_req_t req, fuse_ino_t ino);
  void virtual_readlink(fuse_req_t req, fuse_ino_t ino);
  void virtual_getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, std::size_t size);
  void virtual_listxattr(fuse_req_t req, fuse_ino_t ino, std::size_t size);
  void virtual_open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi);
  void virtual_read(fuse_req_t req, std::size_t size, off_t off, fuse_file_info* fi);
  void virtual_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence);
  void virtual_opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi);
  void virtual_readdir(fuse_req_t req, fuse_ino_t ino, std::size_t size, off_t off, fuse_file_info* fi, bool plus);
  void virtual_releasedir(fuse_req_t req, fuse_file_info* fi);

  // The entries of `dir` from `off` on, as many as go into `size` bytes.
  int fill_entries(fuse_req_t req, OpenDir& dir, std::string* out, std::size_t size, off_t off, bool plus);
  fuse_ino_t ino(Node& node) { return &node == &nodes_.root() ? FUSE_ROOT_ID : reinterpret_cast<fuse_ino_t>(&node); }
  Node& node(fuse_ino_t ino) { return ino == FUSE_ROOT_ID ? nodes_.root() : *reinterpret_cast<Node*>(ino); }
  bool is_own_name(fuse_ino_t parent, const char* name) const;
  bool is_own_name(const Node& parent, const char* name) { return &parent == &nodes_.root() && is_own_name(FUSE_ROOT_ID, name); }
  void correct_root(Look& seen) const;
  // The names of extended attributes (each ended by a NUL) that the caller may see.
  static void reply_names(fuse_req_t req, std::string_view all, std::size_t size);
  // With link counts as an application should see them.
  int attributes(int dirfd, const char* name, Look* out) const;
  int attributes(Node& node, Look* out);
  // Looks up and counts one reference.
  int find(Node& parent, int dirfd, const char* name, fuse_entry_param* e);
  void fill(fuse_entry_param* e, Node& node, const struct stat& st) const;
  bool excluded(Node& node);
  bool excluded(Node& parent, const char* name);
  // Runs a system call (0 or an errno) again for as long as it lacks the room that pre-images take: they go, one snapshot after the
  // other, until it has its room or there are none; once more then, as somebody else may have got rid of the last. Whom the call acts
  // for ends with it: making room is the daemon's.
  template <typename Call>
  int with_room(const Call& call) const {
    int err = call();
    for (bool more = pre_images_ != nullptr; more && (err == ENOSPC || err == EDQUOT); err = call()) more = pre_images_->make_room();
    return err;
  }
  bool keeps_pre_images() const { return pre_images_ != nullptr && pre_images_->wanted(); }
  Operation operation(Verb verb, Node& node, int fd);
  NameChange name_change(Node& parent, int parent_fd, const char* name);
  // Set-user-id and set-group-id fall when somebody else writes; so do file capabilities. Under the object's lock.
  enum class SetIds { stay, fall, ask };  // ask: the kernel does not say whether the caller may leave them standing
  void clear_privileges(fuse_req_t req, Node& node, int fd, SetIds set_ids);
  // The mode that is left when set-id bits fall to the caller's write; false: none falls.
  static bool falling_set_ids(fuse_req_t req, int fd, mode_t* mode);
  bool has_file_caps(Node& node, int fd);
  std::string file_caps(Node& node, int fd);  // empty: it has none
  void marks_durable() {
    if (sink_ != nullptr) sink_->make_marks_durable();
  }
  // Runs `answer`, which tells that something of the object is durable, when the witness, if there is one, attests it. Under no lock;
  // the object may be gone by then.
  template <typename Answer>
  void when_attested(fuse_req_t req, Node& node, Answer answer) {
    if (witness_ == nullptr || !witness_->wanted() || own_flushers_.contains(fuse_req_ctx(req)->pid) || excluded(node))
      answer();
    else
      witness_->attest(std::move(answer));
  }
  Fd open_node(Node& node, int flags);
  OpenFile* opened(Node& node, Fd fd, int flags);
  void closed(OpenFile* file);
  fuse_file_info file_info(OpenFile* file) const;
  void answer_open(fuse_req_t req, OpenFile* file, int flags, Way way);

  const int root_fd_;
  const bool writeback_;
  const int file_atime_, dir_atime_;  // O_NOATIME or nothing
  const Chain& chain_;
  PreImages* const pre_images_;
  ChangeSink* const sink_;
  VirtualTree* const tree_;
  Witness* const witness_;
  Negotiation& negotiation_;
  const Excludes excludes_;
  fuse_session* session_ = nullptr;
  std::optional<DirectReplies> direct_replies_;
  std::optional<IoModes> io_modes_;  // where passthrough was asked for
  std::atomic<std::uint64_t> reads_{0};
  NodeTable nodes_;
  Writers writers_;
  OwnFlushers own_flushers_;
  Mutex rename_lock_;  // outermost: taken for renames that move a directory to another one
};

template <typename Request>
void Passthrough::admit(std::size_t bytes, Request request, void (Passthrough::*act)(Request&)) {
  Admission* admission = chain_.admission();
  if (admission == nullptr) {
    (this->*act)(request);
    return;
  }
  auto shared = std::make_shared<Request>(std::move(request));
  admission->pass(bytes, [shared] { shared->keep(); }, [this, shared, act] { (this->*act)(*shared); });
}

}  // namespace somfs::fs
