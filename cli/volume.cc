// SPDX-License-Identifier: Apache-2.0
#include "cli/volume.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <optional>

#include "cli/control_server.h"
#include "cli/lease.h"
#include "cli/own_directory.h"
#include "cli/replication.h"
#include "cli/snapshot_tree.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/printable.h"
#include "fs/capture.h"
#include "fs/cow.h"
#include "fs/gate.h"
#include "fs/insiders.h"
#include "fs/mount.h"
#include "fs/slowdown.h"
#include "replicator/text_codes.h"
#include "snapshot/coordinator.h"
#include "snapshot/gap_scan.h"
#include "snapshot/journal.h"
#include "snapshot/store.h"
#include "snapshot/writers.h"

namespace somfs::cli {
namespace {

// Outlives every volume: writers that had to be abandoned may still look at it.
const SystemClock& system_clock() {
  static const SystemClock clock;
  return clock;
}

// What names the file system whatever device number it gets: its UUID (FS_IOC_GETFSUUID, Linux 6.9), else the kernel's f_fsid.
std::string identity_of_file_system(int fd) {
  struct {
    std::uint8_t len;
    std::uint8_t uuid[16];
  } u{};
  if (::ioctl(fd, _IOR(0x15, 0, u), &u) == 0 && u.len == 16) {
    Uuid id;
    std::memcpy(id.bytes.data(), u.uuid, 16);
    return "uuid:" + id.text();
  }
  struct statfs s{};
  if (::fstatfs(fd, &s) != 0) return "unknown";
  std::uint64_t id = 0;
  std::memcpy(&id, &s.f_fsid, sizeof id);
  return "fsid:" + std::to_string(s.f_type) + ":" + std::to_string(id);
}

// A copy on the same file system is another volume: its root is another directory.
std::string identity_of(int root_fd) {
  struct statx x{};
  if (::statx(root_fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &x) != 0) return identity_of_file_system(root_fd);
  const bool born = (x.stx_mask & STATX_BTIME) != 0;
  return identity_of_file_system(root_fd) + " root:" + std::to_string(x.stx_ino) +
         (born ? "." + std::to_string(x.stx_btime.tv_sec) + "." + std::to_string(x.stx_btime.tv_nsec) : "");
}

// One process at a time works on a volume. One that was just unmounted may still be closing its files: it is waited for.
Status lock_own(int own_fd, const std::string& dir) {
  for (int tries = 0; ::flock(own_fd, LOCK_EX | LOCK_NB) != 0; ++tries) {
    if (errno != EWOULDBLOCK && errno != EINTR) return fail_errno("cannot lock", printable(dir));
    // One that answers is not about to end.
    const bool serves = tries == 20 && ask(dir, {{"verb", "status"}}).has_value();
    if (serves || tries == 300) return fail(Exit::locked, "another somfs process works on", printable(dir), {}, "see somfs-ctl status");
    const timespec tick{0, 50'000'000};
    ::nanosleep(&tick, nullptr);
  }
  return {};
}

const char* to_string(snapshot::Gap g) {
  switch (g) {
    case snapshot::Gap::none: return "none";
    case snapshot::Gap::unmounted: return "unmounted";
    case snapshot::Gap::killed: return "killed";
    case snapshot::Gap::crashed: return "crashed";
    case snapshot::Gap::rolled_back: return "rolled back";
    case snapshot::Gap::broken: break;
  }
  return "journal broken";
}

const char* to_string(snapshot::WriterReport::Answer a) {
  using A = snapshot::WriterReport::Answer;
  switch (a) {
    case A::ready: return "ready";
    case A::veto: return "veto";
    case A::timeout: return "timeout";
    case A::failed: return "failed";
    case A::skipped: break;
  }
  return "skipped";
}

std::string default_snapshot_name(std::int64_t wall_ns) {
  std::time_t s = wall_ns / 1000000000;
  std::tm tm{};
  ::gmtime_r(&s, &tm);
  char b[48];
  std::size_t n = std::strftime(b, sizeof b, "%Y-%m-%dT%H.%M.%S", &tm);
  std::snprintf(b + n, sizeof b - n, ".%03d", static_cast<int>(wall_ns / 1000000 % 1000));
  return b;
}

// syncfs in a child: it may hang with the disk, and then it is killed and left, not waited for.
Status sync_file_system(int fd, std::int64_t deadline_mono_ns, const Clock& clock) {
  pid_t pid = ::fork();
  if (pid < 0) return fail_errno("cannot start a child to flush the file system");
  if (pid == 0) {
    // Nothing else stays open here: if the daemon is killed meanwhile, its mount and its lock must be seen to be gone.
    if (fd > 0) ::close_range(0, static_cast<unsigned>(fd) - 1, 0);
    ::close_range(static_cast<unsigned>(fd) + 1, ~0U, 0);
    ::_exit(::syncfs(fd) == 0 ? 0 : errno & 0x7f);
  }
  for (;;) {
    int status = 0;
    pid_t got = ::waitpid(pid, &status, WNOHANG);
    if (got == pid) {
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
      return fail(Exit::veto, "cannot flush the file system", {}, WIFEXITED(status) ? std::strerror(WEXITSTATUS(status)) : "the flush was killed");
    }
    if (clock.mono_ns() > deadline_mono_ns) {
      ::kill(pid, SIGKILL);
      std::thread([pid] { ::waitpid(pid, nullptr, 0); }).detach();
      return fail(Exit::veto, "flushing the file system took too long", {}, {}, "raise --timeout, or try when it is less busy");
    }
    const timespec tick{0, 500'000};
    ::nanosleep(&tick, nullptr);
  }
}

// A file in memory that a descriptor can be handed over for.
Result<Fd> in_memory(const std::string& bytes) {
  Fd fd(::memfd_create("somfs", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return fail_errno("cannot make a file in memory");
  if (int e = write_all(fd.get(), bytes); e != 0) return fail_errno("cannot fill a file in memory", {}, e);
  (void)::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
  return fd;
}

// A writer with a time-out of its own beneath that of the whole procedure.
class InTime final : public snapshot::Writer {
 public:
  InTime(std::shared_ptr<snapshot::Writer> inner, double timeout_s, const Clock& clock)
      : inner_(std::move(inner)), timeout_ns_(static_cast<std::int64_t>(timeout_s * 1e9)), clock_(clock) {}
  std::string name() const override { return inner_->name(); }
  void announce(const snapshot::CutRequest& request) override { inner_->announce(request); }
  snapshot::WriterReport prepare(std::int64_t deadline) override { return inner_->prepare(std::min(deadline, clock_.mono_ns() + timeout_ns_)); }
  void release(bool took_place, std::int64_t deadline) noexcept override { inner_->release(took_place, deadline); }

 private:
  std::shared_ptr<snapshot::Writer> inner_;
  const std::int64_t timeout_ns_;
  const Clock& clock_;
};

snapshot::WriterConfig writer_of(const WriterConfig& c, const std::string& volume, int own_fd) {
  if (c.type == "postgresql") {
    snapshot::PostgresConfig w;
    w.name = c.name;
    w.volume = volume;
    w.host = c.socket;
    w.port = c.port;
    if (!c.user.empty()) w.user = w.os_user = c.user;
    if (!c.database.empty()) w.database = c.database;
    // The label of the last snapshot, for whoever restores it as a base backup.
    w.on_label = [own_fd](const std::string& snapshot, const std::string& label) {
      if (auto s = replace_file(own_fd, "backup_label", "# snapshot " + snapshot + "\n" + label); !s) log::warning("{}", s.error().line());
    };
    return w;
  }
  if (c.type == "sqlite") {
    snapshot::SqliteConfig w;
    w.name = c.name;
    w.volume = volume;
    for (const std::string& f : c.files) w.databases.push_back(f.starts_with("/") ? f : volume + "/" + f);
    return w;
  }
  if (c.type == "cgroup") return snapshot::CgroupConfig{c.name, c.path};
  return snapshot::HooksConfig{c.name, c.directory, volume};
}

// The list the mirrors were made with; another list means that every target has to be compared.
Status note_excludes(int own_fd, const std::vector<std::string>& excludes, snapshot::Journal& journal) {
  std::string now;
  for (const std::string& e : excludes) now += e + "\n";
  auto before = read_file(own_fd, "excludes", 1u << 20);
  if (before && *before == now) return {};
  if (before) journal.flag_gap(false);
  return replace_file(own_fd, "excludes", now);
}

}  // namespace

struct Volume::Impl {
  VolumeOptions options;
  const Clock& clock = system_clock();
  std::int64_t started_ns = 0;

  // In the order in which they are made; destroyed in reverse.
  std::optional<fs::Backing> backing;
  fs::Protected where;                                 // whom the mount found inside, and of what
  std::vector<fs::Insider> inside;
  Fd own, journal_dir, store_dir;
  std::unique_ptr<snapshot::Journal> journal;
  std::unique_ptr<snapshot::Store> store;
  std::unique_ptr<snapshot::GapScan> gap_scan;
  std::unique_ptr<fs::Gate> gate;
  std::unique_ptr<fs::Slowdown> slowdown;
  std::unique_ptr<fs::Cow> cow;
  std::unique_ptr<fs::Capture> capture;
  std::unique_ptr<SnapshotTree> tree;
  TargetLocks locks;
  std::unique_ptr<snapshot::Coordinator> coordinator;
  std::unique_ptr<Replication> replication;
  std::unique_ptr<fs::Mount> mount;
  std::unique_ptr<ControlServer> server;
  std::jthread housekeeper;

  Mutex cut_mutex;                                     // one cut at a time; before every other lock
  snapshot::SnapshotInfo cut_info GUARDED_BY(cut_mutex);
  bool ending GUARDED_BY(cut_mutex) = false;           // unmounted: no cut may follow the clean mark
  std::uint64_t synced_seq GUARDED_BY(cut_mutex) = ~0ull;  // the last change known to have been flushed
  std::atomic<std::int64_t> last_change_seen_ns{0};
  std::atomic<std::uint64_t> last_seq_seen{0};

  Status open_parts();
  Status open_writers();
  void serve(Connection& c, const Json& request);
  Json status();
  std::vector<std::string> warnings() const;
  Json lag_of(const snapshot::TargetState& target);
  Result<snapshot::CutReport> cut(snapshot::SnapshotInfo info, snapshot::CutRequest request);
  Result<Json> snapshot_create(const Json& request);
  Json snapshot_list();
  void serve_source(Connection& c, const Json& request);
  Result<Json> lease_request(const Json& request, const std::string& target, std::uint64_t cut_epoch, Fd* attachment);
  void keep_house(const std::stop_token& stop);
  void note_changes();
};

namespace {

Json snapshot_json(const snapshot::SnapshotInfo& s) {
  return {{"name", s.name}, {"epoch", s.epoch}, {"created_ns", s.created_ns}, {"consistency", s.consistency},
          {"for_migration", s.for_migration}, {"expires_ns", s.expires_ns}, {"store_bytes", s.store_bytes}};
}

Json dropped_json(const std::vector<snapshot::DroppedSnapshot>& dropped) {
  Json list = Json::array();
  for (const auto& d : dropped) list.push_back({{"name", d.name}, {"reason", d.reason}, {"when_ns", d.when_ns}});
  return list;
}

Json writers_json(const std::vector<snapshot::WriterReport>& writers) {
  Json list = Json::array();
  for (const auto& w : writers)
    list.push_back({{"name", w.name}, {"answer", to_string(w.answer)}, {"reason", w.reason}, {"prepare_ms", w.prepare_ms}, {"release_ms", w.release_ms}});
  return list;
}

}  // namespace

const char* VolumeOptions::weaker_promise() const {
  if (writeback) return "writeback mode: writers are not stopped at a cut; a snapshot is at best what a power cut would leave";
  if (passthrough) return "passthrough: opening a file for reading and writing may fail with ETXTBSY while somebody reads it";
  return "";
}

Result<std::unique_ptr<Volume>> Volume::open(VolumeOptions options) {
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  SOMFS_TRY(impl->open_parts());
  return std::unique_ptr<Volume>(new Volume(std::move(impl)));
}

Status Volume::Impl::open_parts() {
  started_ns = clock.wall_ns();
  fs::BackingOptions b;
  b.dir = options.dir;
  if (options.mountpoint != options.dir) b.mountpoint = options.mountpoint;
  b.force = options.force;
  b.excludes = options.config.excludes;
  SOMFS_TRY_ASSIGN(backing, fs::Backing::open(b));
  options.dir = backing->dir();
  options.mountpoint = backing->mountpoint();
  for (const auto& o : backing->open_beneath())
    log::warning("process {} ({}) writes beneath the mount, unseen: {}", o.pid, printable(o.command), printable(o.path));
  {
    // Our own directory is no change that anyone should see.
    struct stat before{}, there{};
    (void)::fstat(backing->fd(), &before);
    const bool fresh = ::fstatat(backing->fd(), ".somfs", &there, AT_SYMLINK_NOFOLLOW) != 0;
    SOMFS_TRY_ASSIGN(own, own_directory(backing->fd(), ".somfs"));
    const timespec times[2] = {before.st_atim, before.st_mtim};
    if (fresh) (void)::futimens(backing->fd(), times);
  }
  SOMFS_TRY(lock_own(own.get(), options.dir));
  SOMFS_TRY_ASSIGN(journal_dir, own_directory(own.get(), "journal"));
  SOMFS_TRY_ASSIGN(store_dir, own_directory(own.get(), "store"));

  snapshot::Journal::Options jo;
  jo.bounds.bytes = options.config.journal_memory;
  // Segments are preallocated: a small disk must not lose its reserve to them.
  struct statvfs space{};
  (void)::fstatvfs(backing->fd(), &space);
  const std::uint64_t size = static_cast<std::uint64_t>(space.f_blocks) * space.f_frsize;
  jo.segment_bytes = static_cast<std::size_t>(std::clamp<std::uint64_t>(size / 256, 256u << 10, jo.segment_bytes));
  jo.log_bytes = 16 * jo.segment_bytes;
  jo.on_first_change = [this] { replication->changed(); };   // nothing is captured before the mount serves
  SOMFS_TRY_ASSIGN(journal, snapshot::Journal::open(journal_dir.get(), identity_of(backing->fd()), clock, jo));

  SOMFS_TRY(note_excludes(own.get(), options.config.excludes, *journal));

  snapshot::Store::Options so;
  so.reserve_bytes = options.config.reserve_bytes(size);
  so.index_bytes = options.config.index_memory;
  so.on_drop = [](const snapshot::DroppedSnapshot& d) { log::warning("dropped snapshot {}: {}", d.name, printable(d.reason)); };
  SOMFS_TRY_ASSIGN(store, snapshot::Store::open(store_dir.get(), backing->fd(), boot_id(), clock, so));

  snapshot::GapScanOptions scan;
  scan.trusted_until_ns = journal->trusted_until_ns();
  scan.limits.excluded.insert(options.config.excludes.begin(), options.config.excludes.end());
  if (!store->list().empty() && journal->gap_found() != snapshot::Gap::none) {
    // Snapshots are right only if nothing was changed beneath them while nobody watched.
    SOMFS_TRY_ASSIGN(auto changed, snapshot::first_change_beneath(backing->fd(), *journal, scan));
    if (changed) store->drop_all("the tree was changed while it was not mounted: " + printable(*changed));
  }

  fs::Gate::Options gate_options;
  gate_options.max_parked_bytes = options.config.parked_bytes;
  gate = std::make_unique<fs::Gate>(clock, gate_options);
  cow = std::make_unique<fs::Cow>(*store);
  capture = std::make_unique<fs::Capture>(*journal);
  tree = std::make_unique<SnapshotTree>(backing->fd(), store_dir.get(), [this] { return store->list(); });

  snapshot::CutActions a;
  a.prepare_store = [this](const snapshot::CutRequest&) NO_THREAD_SAFETY_ANALYSIS { return store->prepare(cut_info); };
  a.barrier = [this](std::int64_t deadline) NO_THREAD_SAFETY_ANALYSIS -> Status {
    std::uint64_t seq = journal->last_seq();
    if (auto left = (deadline - clock.mono_ns()) / 1'000'000; left <= 0 || !mount->barrier(std::chrono::milliseconds(left)))
      return fail(Exit::veto, "flushing the files open for writing took too long", {}, {}, "raise --timeout, or try when it is less busy");
    if (seq == synced_seq && seq == journal->last_seq()) return {};
    seq = journal->last_seq();
    SOMFS_TRY(sync_file_system(backing->fd(), deadline, clock));
    synced_seq = seq;
    return {};
  };
  a.quiet = [this] { return gate->idle() && journal->changes_in_epoch() == 0; };
  a.rotate = [this] { return journal->rotate(); };
  a.take = [this](const std::string& name, std::uint64_t epoch) { return store->take(name, epoch); };
  a.cancel = [this](const std::string& name) { store->cancel(name); };
  coordinator = std::make_unique<snapshot::Coordinator>(*gate, std::move(a), clock);
  SOMFS_TRY(open_writers());

  replication = std::make_unique<Replication>(Replication::Parts{
      options.dir, options.mountpoint, options.config, clock, own.get(), backing->fd(), store_dir.get(), *journal, *store, locks,
      [this](snapshot::SnapshotInfo info) { return cut(std::move(info), {.writers = false, .flush = false}); },
      [this](double seconds) { return mount->barrier(std::chrono::milliseconds(static_cast<std::int64_t>(std::clamp(seconds, 0.001, 1e6) * 1e3))); }});

  slowdown = std::make_unique<fs::Slowdown>(*gate, [this](std::uint64_t bytes) { return replication->slowdown(bytes); }, clock);

  fs::MountOptions m;
  m.writeback = options.writeback;
  m.passthrough = options.passthrough;
  m.read_only = options.read_only;
  m.no_atime = options.no_atime;
  m.no_dir_atime = options.no_dir_atime;
  m.allow_other = options.allow_other;
  m.options = options.mount_options;
  m.fsname = options.dir;
  SOMFS_TRY_ASSIGN(mount, fs::Mount::open(*backing, m, fs::Chain(slowdown.get(), {cow.get(), capture.get()}), store.get(), journal.get(), tree.get(), replication.get()));
  last_change_seen_ns = clock.mono_ns();
  last_seq_seen = journal->last_seq();
  if (journal->gap_scan_wanted()) gap_scan = std::make_unique<snapshot::GapScan>(backing->fd(), *journal, scan);
  // Only now, as nobody gets in any more but by the mount.
  struct stat beneath{};
  (void)::fstat(backing->fd(), &beneath);
  where = {options.dir, options.mountpoint, options.config.excludes, beneath.st_dev};
  inside = fs::insiders(where);
  SOMFS_TRY_ASSIGN(server, ControlServer::start(options.dir, options.mountpoint, [this](Connection& c, const Json& r) { serve(c, r); }));
  housekeeper = std::jthread([this](const std::stop_token& stop) { keep_house(stop); });
  return {};
}

Status Volume::Impl::open_writers() {
  std::vector<std::shared_ptr<snapshot::Writer>> writers;
  for (const WriterConfig& c : options.config.writers) {
    SOMFS_TRY_ASSIGN(auto made, snapshot::make_writers({writer_of(c, options.mountpoint, own.get())}, clock));
    for (auto& w : made) writers.push_back(std::make_shared<InTime>(std::move(w), c.timeout_s, clock));
  }
  coordinator->set_writers(std::move(writers));
  return {};
}

void Volume::Impl::keep_house(const std::stop_token& stop) {
  Mutex m;
  CondVar wake;
  std::stop_callback on_stop(stop, [&] {
    Lock lock(m);
    wake.notify_all();
  });
  for (;;) {
    {
      Lock lock(m);
      if (stop.stop_requested()) return;
      wake.wait_until(m, std::chrono::steady_clock::now() + std::chrono::milliseconds(500));
      if (stop.stop_requested()) return;
    }
    store->keep_reserve();
    store->expire();
    tree->let_go_of_removed();
    note_changes();
  }
}

void Volume::Impl::note_changes() {
  const std::uint64_t seq = journal->last_seq();
  if (seq != last_seq_seen.exchange(seq)) last_change_seen_ns = clock.mono_ns();
}

Result<snapshot::CutReport> Volume::Impl::cut(snapshot::SnapshotInfo info, snapshot::CutRequest request) {
  const Replication::Excuse excuse = request.flush ? replication->excuse() : nullptr;
  Lock lock(cut_mutex);
  if (ending) return fail(Exit::temporary, "the volume is being unmounted:", printable(options.dir));
  info.created_ns = clock.wall_ns();
  if (info.name.empty()) info.name = default_snapshot_name(info.created_ns);
  request.name = info.name;
  request.drain_ms = options.config.drain_ms;
  request.hold_ms = options.config.hold_ms;
  cut_info = std::move(info);
  auto report = coordinator->cut(request);
  if (report) store->set_consistency(request.name, report->consistency);
  return report;
}

Result<Json> Volume::Impl::snapshot_create(const Json& request) {
  snapshot::SnapshotInfo info;
  info.name = request.value("name", "");
  if (info.name.empty()) info.name = default_snapshot_name(clock.wall_ns());
  std::string name = info.name;
  SOMFS_TRY_ASSIGN(auto r, cut(std::move(info), {.crash_consistent = request.value("crash_consistent", false), .timeout_s = request.value("timeout", 30.0)}));
  return Json{{"schema", 1}, {"name", name}, {"epoch", r.epoch}, {"freeze_ms", r.freeze_ms}, {"total_ms", r.total_ms},
              {"writers", writers_json(r.writers)}, {"consistency", r.consistency}, {"frozen", r.frozen}};
}

Json Volume::Impl::snapshot_list() {
  Json list = Json::array();
  for (const auto& s : store->list()) list.push_back(snapshot_json(s));
  return {{"schema", 1}, {"snapshots", list}, {"dropped", dropped_json(store->dropped())}};
}

// V: the age of the first change that the mirror does not hold; where a gap hides that one, of the cut that it holds. Null: not known.
Json Volume::Impl::lag_of(const snapshot::TargetState& target) {
  if (target.acked_epoch == 0) return nullptr;
  const std::int64_t since = target.gap ? target.acked_cut_ns : journal->changed_since_ns(target.acked_epoch);
  if (since == 0) return target.gap ? Json(nullptr) : Json(0.0);
  return std::max(0.0, static_cast<double>(clock.wall_ns() - since) / 1e9);
}

std::vector<std::string> Volume::Impl::warnings() const {
  std::vector<std::string> all;
  if (const std::string promise = options.weaker_promise(); !promise.empty()) all.push_back(promise);
  for (std::string& line : fs::warnings_of(fs::still_inside(inside, where), where)) all.push_back(std::move(line));
  return all;
}

Json Volume::Impl::status() {
  auto h = coordinator->freezes();
  auto js = journal->stats();
  auto gs = gap_scan ? gap_scan->progress() : snapshot::GapScan::Progress{snapshot::GapScan::State::done, 0, 0, 0, {}};
  auto gate_stats = gate->stats();
  std::string state = coordinator->state() != "idle" ? coordinator->state() : gap_scan && gs.state == snapshot::GapScan::State::running ? "scanning" : "protected";
  Json v{{"schema", 1}, {"dir", options.dir}, {"state", state}, {"epoch", journal->epoch()},
         {"freeze_ms", {{"count", h.count()}, {"min", h.min()}, {"mean", h.mean()}, {"p50", h.percentile(50)}, {"p99", h.percentile(99)}, {"max", h.max()}}}};
  Json mirrors = Json::array();
  auto relations = replication->status();
  for (const auto& t : journal->targets()) {
    bool clean = false;
    if (!t.gap && t.acked_epoch != 0 && journal->changes_in_epoch() == 0) {
      auto since = journal->dirty_since(t.acked_epoch, journal->epoch() - 1);
      clean = since && since->empty();
    }
    Json m{{"target", t.target}, {"state", locks.held(t.target) ? "MIGRATING" : t.gap ? "GAP" : clean ? "SYNCED" : "BEHIND"}, {"epoch", t.acked_epoch}};
    double lag = clean ? 0 : t.acked_cut_ns == 0 ? -1 : static_cast<double>(clock.wall_ns() - t.acked_cut_ns) / 1e9;
    m["acked_lag_s"] = lag < 0 ? Json(nullptr) : Json(lag);
    if (auto at = relations.find(t.target); at != relations.end()) {
      for (const char* which : {"acked_lag_s", "applied_lag_s"})
        if (at->second[which].is_null()) at->second[which] = m["acked_lag_s"];   // nothing has landed yet in this process
      m = std::move(at->second);
      relations.erase(at);
    }
    if (!m.contains("applied_lag_s")) m["applied_lag_s"] = m["acked_lag_s"];   // a migration ends when the tree shows it
    if (!m.contains("backlog_bytes")) m["backlog_bytes"] = 0;
    if (!m.contains("pipeline")) m["pipeline"] = Json::object();
    m["root"] = t.root.empty() ? Json(nullptr) : Json(replicator::hex(t.root));
    mirrors.push_back(std::move(m));
  }
  for (auto& [target, m] : relations) {   // that never landed anything
    m["root"] = nullptr;
    mirrors.push_back(std::move(m));
  }
  v["mirrors"] = std::move(mirrors);
  v["mountpoint"] = options.mountpoint;
  v["mode"] = options.read_only ? "read-only" : options.writeback ? "writeback" : "write-through";
  v["volume"] = journal->volume().text();
  v["generation"] = journal->generation().text();
  v["uptime_s"] = static_cast<double>(clock.wall_ns() - started_ns) / 1e9;
  v["pid"] = static_cast<int>(::getpid());
  v["journal"] = {{"dirty_objects", js.dirty_objects}, {"dirty_names", js.dirty_names}, {"degraded", js.degraded}, {"trouble", js.trouble},
                  {"appended_bytes", js.appended_bytes}, {"syncs", js.syncs}, {"changes_in_epoch", journal->changes_in_epoch()}};
  v["gap_scan"] = {{"gap", to_string(journal->gap_found())}, {"state", gap_scan ? snapshot::name_of(gs.state) : "idle"}, {"objects", gs.objects}, {"suspects", gs.suspects}, {"reason", gs.reason}};
  v["gate"] = {{"state", gate_stats.state}, {"parked", gate_stats.parked}, {"parked_bytes", gate_stats.parked_bytes}, {"most_parked", gate_stats.most_parked},
               {"opened_by_timer", gate_stats.hold_timeouts}, {"opened_by_bound", gate_stats.overflows}, {"drain_timeouts", gate_stats.drain_timeouts}};
  Json list = Json::array();
  std::uint64_t bytes = 0;
  for (const auto& s : store->list()) {
    list.push_back(snapshot_json(s));
    bytes += s.store_bytes;
  }
  struct statvfs space{};
  (void)::fstatvfs(backing->fd(), &space);
  v["snapshots"] = std::move(list);
  v["dropped"] = dropped_json(store->dropped());
  v["store_bytes"] = bytes;
  v["free_bytes"] = static_cast<std::uint64_t>(space.f_bavail) * space.f_frsize;
  v["reserve_bytes"] = options.config.reserve_bytes(static_cast<std::uint64_t>(space.f_blocks) * space.f_frsize);
  v["writers"] = writers_json(coordinator->last_writers());
  auto force = mount->in_force();
  v["in_force"] = {{"killpriv_v2", force.killpriv_v2}, {"parallel_dirops", force.parallel_dirops}, {"posix_acl", force.posix_acl},
                   {"readdirplus", force.readdirplus}, {"file_handles", force.by_handle}, {"tmpfile", force.tmpfile}, {"writeback", force.writeback}, {"passthrough", force.passthrough}, {"max_write", force.max_write}};
  std::string warning;
  for (const std::string& line : warnings()) warning += (warning.empty() ? "" : "; ") + line;
  v["warning"] = warning;
  return v;
}

void Volume::Impl::serve(Connection& c, const Json& request) {
  std::string verb = request.value("verb", "");
  Result<Json> answer = fail(Exit::usage, "unknown request", printable(verb));
  if (verb == "status") answer = status();
  else if (verb == "idle") {
    note_changes();   // the last one may have come since the housekeeper looked
    answer = Json{{"schema", 1}, {"idle_ms", static_cast<double>(clock.mono_ns() - last_change_seen_ns) / 1e6}};
  }
  else if (verb == "configuration") answer = Json{{"schema", 1}, {"file", options.config.file}};
  else if (verb == "snapshot-create") answer = snapshot_create(request);
  else if (verb == "snapshot-list") answer = snapshot_list();
  else if (verb == "snapshot-delete") {
    Status s = store->remove(request.value("name", ""));
    tree->let_go_of_removed();
    answer = s ? Result<Json>(Json{{"schema", 1}, {"deleted", request.value("name", "")}}) : pass_on(std::move(s).error());
  } else if (verb == "source-open") {
    return serve_source(c, request);
  } else if (verb == "replicate" || verb == "replicate-stop" || verb == "pause" || verb == "resume" || verb == "sync" || verb == "lose") {
    // Nobody speaks while waiting for the answer: what is readable is the end.
    answer = replication->serve(verb, request, [&c] {
      pollfd p{c.fd(), POLLIN, 0};
      return ::poll(&p, 1, 0) > 0;
    });
  } else if (verb == "umount") {
    (void)c.send(Json{{"schema", 1}, {"unmounting", true}});
    mount->stop();
    (void)c.receive();   // held until this process has finished
    return;
  }
  (void)c.send(answer ? *answer : error_json(answer.error()));
}

// The snapshot and the target's lock live as long as the connection.
void Volume::Impl::serve_source(Connection& c, const Json& request) {
  std::string target = request.value("target", ""), snapshot = request.value("snapshot", ""), purpose = request.value("purpose", "");
  TargetLocks::Hold hold;
  const Replication::Aside aside = purpose == "migrate" || purpose == "verify" ? replication->step_aside(target) : nullptr;
  if (purpose == "migrate" || aside) {
    // A run that was killed or lost its link holds the lock until this process has noticed: whoever runs it again is not refused for that.
    for (int tries = 0; !(hold = locks.take(target, c.fd())) && tries < (locks.leaving(target) ? 3000 : 100); ++tries) {
      const timespec tick{0, 10'000'000};
      ::nanosleep(&tick, nullptr);
    }
    if (!hold) {
      (void)c.send(error_json({Exit::locked, 0, "another run is under way to", printable(target), {}, "wait for it, or look at somfs-ctl status"}));
      return;
    }
  }
  Json answer{{"schema", 1}, {"volume", journal->volume().text()}, {"generation", journal->generation().text()}, {"brake", options.config.brake},
              {"excludes", options.config.excludes}, {"replicated", aside != nullptr}};
  Json ancestors = Json::array();
  for (const Uuid& u : journal->ancestors()) ancestors.push_back(u.text());
  answer["ancestors"] = std::move(ancestors);
  std::uint64_t cut_epoch = 0;
  bool made = snapshot.empty();
  if (made) {
    ucred who{};
    socklen_t size = sizeof who;
    (void)::getsockopt(c.fd(), SOL_SOCKET, SO_PEERCRED, &who, &size);
    snapshot::SnapshotInfo info;
    std::int64_t now = clock.wall_ns();
    info.name = purpose + "-" + default_snapshot_name(now);
    info.for_migration = true;
    info.expires_ns = now + static_cast<std::int64_t>(options.config.expire_s * 1e9);
    snapshot = info.name;
    auto r = cut(std::move(info), {.crash_consistent = request.value("crash_consistent", false), .timeout_s = request.value("timeout", 30.0),
                                  .requester_pid = who.pid});
    if (!r) {
      (void)c.send(error_json(r.error()));
      return;
    }
    cut_epoch = r->epoch;
    answer["freeze_ms"] = r->freeze_ms;
    answer["total_ms"] = r->total_ms;
    answer["writers"] = writers_json(r->writers);
    answer["consistency"] = r->consistency;
  }
  answer["snapshot"] = snapshot;
  answer["epoch"] = cut_epoch;
  auto known = journal->target(target);
  answer["base_epoch"] = known ? known->acked_epoch : 0;
  answer["base_root"] = known ? replicator::hex(known->root) : std::string();
  answer["lag_s"] = known ? lag_of(*known) : Json(nullptr);
  answer["gap"] = known && known->gap;
  answer["content"] = known && known->content;
  if (c.send(answer, {backing->fd(), store_dir.get()})) {
    while (auto line = c.receive()) {
      Fd attachment;
      auto reply = lease_request(*line, target, cut_epoch, &attachment);
      std::vector<int> fds;
      if (attachment) fds.push_back(attachment.get());
      if (!c.send(reply ? *reply : error_json(reply.error()), fds)) break;
    }
  }
  hold = {};                                 // removal may take its time, and nobody migrates any more
  if (made) (void)store->remove(snapshot);   // it may have been dropped meanwhile
}

Result<Json> Volume::Impl::lease_request(const Json& request, const std::string& target, std::uint64_t cut_epoch, Fd* attachment) {
  std::string verb = request.value("verb", "");
  if (verb == "dirty-since") {
    std::uint64_t from = request.value("epoch", std::uint64_t{0});
    auto dirty = journal->dirty_since(from, cut_epoch);
    SOMFS_TRY_ASSIGN(*attachment, in_memory((dirty ? *dirty : journal->known_since(from, cut_epoch)).encode()));
    return Json{{"schema", 1}, {"complete", dirty.has_value()}};
  }
  if (verb == "flag-gap") {   // something could not be read: what changed in it is not at the mirror
    SOMFS_TRY(journal->flag_gap_of(target));
    return Json{{"schema", 1}};
  }
  if (verb == "acknowledge") {
    std::uint64_t epoch = request.value("epoch", std::uint64_t{0});
    if (epoch > cut_epoch) return fail(Exit::usage, "cannot acknowledge an epoch that has not ended");
    SOMFS_TRY_ASSIGN(Uuid mirror, Uuid::parse(request.value("mirror", "")));
    const std::string root = replicator::from_hex(request.value("root", "")).value_or(std::string());
    std::int64_t cut_ns = 0;
    for (const auto& s : store->list())
      if (s.epoch == epoch) cut_ns = s.created_ns;
    SOMFS_TRY(journal->acknowledge(target, mirror, epoch, cut_ns, root));
    return Json{{"schema", 1}, {"acknowledged", epoch}};
  }
  return fail(Exit::usage, "unknown request", printable(verb));
}

Volume::Volume(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Volume::~Volume() = default;

Status Volume::run() {
  // Here and not before: what it starts must not hold on to the terminal of whoever mounts.
  if (Status started = impl_->replication->open(); !started) log::error("{}", started.error().line());
  Status s = impl_->mount->run();
  // The mount is gone, and with what was parked when the connection broke nothing changes any more. Requests under way are ended
  // before the parts they use.
  impl_->slowdown->settle();
  impl_->gate->settle();
  if (impl_->housekeeper.joinable()) {
    impl_->housekeeper.request_stop();
    impl_->housekeeper.join();
  }
  impl_->gap_scan.reset();
  impl_->replication->close();
  {
    Lock lock(impl_->cut_mutex);
    impl_->ending = true;
  }
  Status closed = impl_->journal->close();
  impl_->server.reset();
  if (!s) return s;
  return closed;
}

std::vector<std::string> Volume::warnings() const { return impl_->warnings(); }

void Volume::stop() { impl_->mount->stop(); }

}  // namespace somfs::cli
