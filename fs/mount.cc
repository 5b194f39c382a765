// SPDX-License-Identifier: Apache-2.0
#include "fs/mount.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "common/fd.h"
#include "common/log.h"
#include "common/printable.h"
#include "fs/caller.h"
#include "fs/mount_table.h"
#include "fs/passthrough.h"

extern char** environ;

namespace somfs::fs {
namespace {

// Makes a worker leave its read of /dev/fuse.
constexpr int kWakeSignal = SIGUSR2;

// In mount options a comma separates and a backslash escapes.
std::string escape(const std::string& s) {
  std::string out;
  for (char c : s) {
    if (c == ',' || c == '\\') out.push_back('\\');
    out.push_back(c);
  }
  return out;
}

std::string mount_options(const Backing& backing, const MountOptions& o) {
  std::string all = "default_permissions,subtype=somfs,fsname=" + escape(o.fsname.empty() ? backing.dir() : o.fsname);
  if (acts_for_others()) all += ",dev,suid";
  if (acts_for_others() && o.allow_other) all += ",allow_other";
  if (o.read_only) all += ",ro";
  if (o.no_atime) all += ",noatime";
  for (const std::string& option : o.options) all += "," + option;
  return all;
}

// One inode to flush, reached through the mount without a look-up where the kernel lets us (root), else by its names.
struct FlushItem {
  std::uint64_t nodeid = 0;
  std::uint32_t generation = 0;
  std::vector<std::string> names;
};

// As fuse_encode_fh() of the kernel lays it out: FILEID_INO64_GEN, node id in two halves, generation.
Fd open_by_nodeid(int mount_fd, std::uint64_t nodeid, std::uint32_t generation) {
  alignas(file_handle) char space[sizeof(file_handle) + 12];
  auto* fh = reinterpret_cast<file_handle*>(space);
  fh->handle_bytes = 12;
  fh->handle_type = 0x81;
  std::uint32_t words[3] = {static_cast<std::uint32_t>(nodeid >> 32), static_cast<std::uint32_t>(nodeid), generation};
  std::memcpy(fh->f_handle, words, sizeof words);
  return Fd(::open_by_handle_at(mount_fd, fh, O_RDONLY | O_CLOEXEC));
}

Fd open_by_names(int mount_fd, const std::vector<std::string>& names) {
  Fd at(::fcntl(mount_fd, F_DUPFD_CLOEXEC, 0));
  for (std::size_t i = 0; at && i < names.size(); ++i)
    at = Fd(::openat(at.get(), names[i].c_str(), O_CLOEXEC | O_NOFOLLOW | (i + 1 == names.size() ? O_RDONLY : O_PATH)));
  return at;
}

// In the child of a barrier: only system calls from here on.
int flush_all(const char* mountpoint, const std::vector<FlushItem>& items) {
  Fd mount_fd(::open(mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!mount_fd) return 1;
  int result = 0;
  for (const FlushItem& item : items) {
    Fd fd = item.names.empty() ? open_by_nodeid(mount_fd.get(), item.nodeid, item.generation) : open_by_names(mount_fd.get(), item.names);
    // Gone meanwhile: nothing is left to flush.
    if (!fd && errno != ENOENT && errno != ESTALE) result = 1;
    if (fd && ::fsync(fd.get()) != 0) result = 1;
  }
  return result;
}

// "MAJOR:MINOR" of the topmost mount there; empty: none.
std::string device_on_top_of(const std::string& where) {
  std::vector<MountEntry> all = mount_table();
  auto top = std::find_if(all.rbegin(), all.rend(), [&](const MountEntry& m) { return m.where == where; });
  return top != all.rend() ? top->device : std::string();
}

}  // namespace

std::size_t settle_process() {
  rlimit files = {};
  ::getrlimit(RLIMIT_NOFILE, &files);
  // A file that any process has open through the mount is a descriptor here: as many as one process may have, where that is allowed.
  if (auto text = read_file(AT_FDCWD, "/proc/sys/fs/nr_open", 64)) {
    rlim_t most = std::strtoull(text->c_str(), nullptr, 10);
    const rlimit all{most, most};
    if (most > files.rlim_max && ::setrlimit(RLIMIT_NOFILE, &all) == 0) files = all;
  }
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  ::getrlimit(RLIMIT_NOFILE, &files);
  if (acts_for_others()) {
    if (::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) log::debug("memory is not locked: {}", std::strerror(errno));
    Fd oom(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
    if (!oom || write_all(oom.get(), "-900") != 0) log::debug("not spared by the out-of-memory killer");
  }
  return std::clamp<std::size_t>(files.rlim_cur / 2, 64, 10000);
}

Mount::Mount(const Backing& backing, Chain chain) : backing_(backing), chain_(std::move(chain)) {}

Result<std::unique_ptr<Mount>> Mount::open(const Backing& backing, const MountOptions& options, Chain chain,
                                           PreImages* pre_images, ChangeSink* sink, VirtualTree* tree, Witness* witness) {
  std::unique_ptr<Mount> m(new Mount(backing, std::move(chain)));
  Look root;
  if (int e = look(backing.fd(), "", &root); e != 0) return fail_errno("cannot stat", printable(backing.dir()), e);
  m->threads_ = std::max(2u, options.threads);
  m->negotiation_ = std::make_unique<Negotiation>(options.writeback, options.passthrough);
  PassthroughOptions po;
  po.root_fd = backing.fd();
  po.excludes = backing.excludes();
  po.writeback = options.writeback;
  po.passthrough = options.passthrough;
  po.passthrough_from = options.passthrough_from;
  po.keep_atime = options.no_atime || options.read_only;
  po.keep_dir_atime = po.keep_atime || options.no_dir_atime;
  std::size_t allowed = settle_process();
  po.descriptors = options.descriptors != 0 ? options.descriptors : allowed;
  m->passthrough_ = std::make_unique<Passthrough>(po, m->chain_, pre_images, sink, tree, witness, *m->negotiation_, root);
  m->data_ = {m->passthrough_.get(), m->negotiation_.get()};

  std::string all = mount_options(backing, options);
  std::vector<char*> argv;
  std::string words[] = {"somfs", "-o", all, "-d"};
  for (std::string& w : words) argv.push_back(w.data());
  if (!options.debug) argv.pop_back();
  fuse_args args = FUSE_ARGS_INIT(static_cast<int>(argv.size()), argv.data());
  m->session_ = fuse_session_new(&args, &Passthrough::operations(), sizeof(fuse_lowlevel_ops), &m->data_);
  fuse_opt_free_args(&args);
  if (m->session_ == nullptr)
    return fail(Exit::usage, "cannot mount with the options", printable(all), "libfuse does not know one of them");
  m->passthrough_->attach(m->session_);
  if (fuse_session_mount(m->session_, backing.mountpoint().c_str()) != 0)
    return fail(Exit::temporary, "cannot mount at", printable(backing.mountpoint()), "the kernel or fusermount3 refused",
                "see the line above, and whether /dev/fuse may be opened");
  m->device_ = device_on_top_of(backing.mountpoint());
  if (int e = m->negotiation_->attach(m->session_); e != 0)
    return fail_errno("cannot serve", printable(backing.mountpoint()), -e);
  return m;
}

Mount::~Mount() {
  if (session_ == nullptr) return;
  if (is_mounted()) fuse_session_unmount(session_);
  passthrough_->detach();
  fuse_session_destroy(session_);
  reap(true);  // the connection is gone, and with it what they waited for
}

void Mount::serve(std::stop_token stop) {
  fuse_buf buf = {};
  int failure = 0;
  while (fuse_session_exited(session_) == 0 && !stop.stop_requested()) {
    int n = fuse_session_receive_buf(session_, &buf);
    if (n == -EINTR || n == -EAGAIN) continue;
    if (n <= 0) {
      failure = -n;
      break;
    }
    if (!passthrough_->answer_statx(fuse_session_fd(session_), buf.mem, static_cast<std::size_t>(n)))
      fuse_session_process_buf(session_, &buf);
  }
  ::free(buf.mem);
  Lock l(mutex_);
  --serving_;
  if (failure != 0) failure_ = failure;
  ended_.notify_all();
}

Status Mount::run() {
  struct sigaction wake = {};
  wake.sa_handler = [](int) {};
  ::sigaction(kWakeSignal, &wake, nullptr);
  // The workers take no signal but the one that wakes them.
  sigset_t all, before;
  ::sigfillset(&all);
  ::sigdelset(&all, kWakeSignal);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::vector<std::jthread> workers;
  {
    Lock l(mutex_);
    serving_ = threads_;
  }
  for (unsigned i = 0; i < threads_; ++i) workers.emplace_back([this](std::stop_token stop) { serve(stop); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);

  Lock l(mutex_);
  while (serving_ > 0) {
    if (fuse_session_exited(session_) != 0) {
      // A worker may be about to read when the signal comes: again until all have left.
      for (std::jthread& w : workers) ::pthread_kill(w.native_handle(), kWakeSignal);
      ended_.wait_until(mutex_, std::chrono::steady_clock::now() + std::chrono::milliseconds(20));
    } else {
      ended_.wait(mutex_);
    }
  }
  if (failure_ != 0) return fail_errno("the mount ended at", printable(backing_.mountpoint()), failure_);
  return {};
}

bool Mount::is_mounted() const { return !device_.empty() && device_on_top_of(backing_.mountpoint()) == device_; }

void Mount::end_workers() {
  passthrough_->finish_replies();
  Lock l(mutex_);
  fuse_session_exit(session_);
  ended_.notify_all();
}

void Mount::stop() {
  const char* where = backing_.mountpoint().c_str();
  // What is mounted there may be the protected file system itself, when ours has gone already.
  if (!is_mounted()) return end_workers();
  if (acts_for_others()) {
    if (::umount2(where, UMOUNT_NOFOLLOW) == 0) return;
    barrier(std::chrono::seconds(5));
    ::umount2(where, MNT_DETACH | UMOUNT_NOFOLLOW);
  } else {
    barrier(std::chrono::seconds(5));
    const char* args[] = {"fusermount3", "-u", "-z", "-q", "--", where, nullptr};
    pid_t pid = 0;
    int status = 0;
    if (::posix_spawnp(&pid, args[0], nullptr, nullptr, const_cast<char**>(args), environ) == 0) ::waitpid(pid, &status, 0);
  }
  end_workers();
}

InForce Mount::in_force() const {
  InForce f = negotiation_->in_force();
  f.by_handle = passthrough_->nodes().by_handle();
  f.descriptors = passthrough_->nodes().ring_size();
  return f;
}

std::uint64_t Mount::reads() const { return passthrough_->reads(); }

bool Mount::barrier(std::chrono::milliseconds longest) {
  std::vector<FlushItem> items;
  NodeTable& nodes = passthrough_->nodes();
  passthrough_->writers().each([&](Node& node) {
    FlushItem item;
    item.nodeid = reinterpret_cast<std::uint64_t>(&node);
    item.generation = node.generation;
    if (!acts_for_others() && !nodes.names(node, &item.names)) return;
    items.push_back(std::move(item));
  });
  if (items.empty()) return true;
  reap(false);
  OwnFlushers& flushers = passthrough_->own_flushers();
  pid_t child = flushers.start();
  if (child < 0) return false;
  if (child == 0) {
    // It must neither outlive the daemon nor keep the connection to the kernel open.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::close(fuse_session_fd(session_));
    ::_exit(flush_all(backing_.mountpoint().c_str(), items));
  }
  Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  pollfd p{pidfd.get(), POLLIN, 0};
  bool in_time = pidfd && ::poll(&p, 1, static_cast<int>(longest.count())) == 1;
  int status = 0;
  if (in_time) {
    const bool flushed = ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    flushers.reaped(child);
    return flushed;
  }
  // It dies when the request it waits for is answered: nobody waits for that here.
  ::kill(child, SIGKILL);
  Lock l(mutex_);
  late_.push_back(child);
  return false;
}

void Mount::reap(bool wait) {
  Lock l(mutex_);
  std::erase_if(late_, [&](pid_t pid) {
    if (::waitpid(pid, nullptr, wait ? 0 : WNOHANG) == 0) return false;
    passthrough_->own_flushers().reaped(pid);
    return true;
  });
}

}  // namespace somfs::fs
