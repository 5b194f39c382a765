// SPDX-License-Identifier: Apache-2.0
#include "cli/watchman.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "common/log.h"
#include "common/printable.h"
#include "replicator/allow_list.h"
#include "snapshot/child.h"

namespace somfs::cli {
namespace {

constexpr const char *kFile = "watch", *kLock = "watch.lock", *kDirectory = ".somfs-mirrord";
constexpr std::size_t kMostBytes = 4u << 20, kMostHooks = 256;
constexpr std::int64_t kSaveEvery = 10'000'000'000;
constexpr std::chrono::milliseconds kLook{500};
constexpr std::int64_t kSlice = 200'000'000;   // of waiting for a hook

bool directory_there(int at, const std::string& name) {
  struct stat st {};
  return ::fstatat(at, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

Status can_be_run(const std::string& hook) {
  struct stat st {};
  if (!hook.starts_with('/')) return fail(Exit::configuration, "cannot use the hook", printable(hook), "it is not an absolute path");
  if (::stat(hook.c_str(), &st) != 0) return pass_on(Error{Exit::configuration, errno, "cannot use the hook", printable(hook), {}, {}});
  if (!S_ISREG(st.st_mode) || ::access(hook.c_str(), X_OK) != 0) return fail(Exit::configuration, "cannot use the hook", printable(hook), "it is no file that can be run");
  if ((st.st_uid != 0 && st.st_uid != ::geteuid()) || (st.st_mode & 022) != 0)
    return fail(Exit::configuration, "refusing the hook", printable(hook), "it belongs to another user or others may write it", "chown root it, and chmod go-w");
  return {};
}

}  // namespace

Watchman::Watchman(std::string store, Fd dir, Fd lock, WatchConfig config, const Clock& clock)
    : store_(std::move(store)), dir_(std::move(dir)), lock_(std::move(lock)), config_(std::move(config)), clock_(clock), sources_(config_.silence, clock) {}

Result<std::unique_ptr<Watchman>> Watchman::make(const std::string& store, Fd dir, const WatchConfig& config, const Clock& clock) {
  if (const std::string wrong = config.silence.problem(); !wrong.empty()) return fail(Exit::configuration, "cannot watch the sources", {}, wrong);
  if (!config.hook.empty()) SOMFS_TRY(can_be_run(config.hook));
  Fd lock(::openat(dir.get(), kLock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return fail_errno("cannot watch the sources of", printable(store));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return fail(Exit::locked, "another daemon watches the sources of", printable(store));
  std::unique_ptr<Watchman> w(new Watchman(store, std::move(dir), std::move(lock), config, clock));
  w->restore();
  return w;
}

void Watchman::begin() {
  watcher_ = std::jthread([this] { watch(); });
  runner_ = std::jthread([this] { run_hooks(); });
}

Watchman::~Watchman() {
  Lock l(mutex_);
  end_ = true;
  wake_.notify_all();
}

void Watchman::restore() {
  auto text = read_file(dir_.get(), kFile, kMostBytes);
  if (!text) {
    if (text.error().sys != ENOENT) log::warning("what was known of the sources is forgotten: {}", text.error().line());
    return;
  }
  const Fd store(::open(store_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const nlohmann::json kept = nlohmann::json::parse(*text, nullptr, false);
  Lock l(mutex_);
  const bool sound = kept.is_object() && kept.contains("schema") && kept["schema"] == 1 && kept.contains("sources") &&
                     sources_.restore(kept["sources"], [&](const std::string& volume) { return directory_there(store.get(), volume); });
  if (!sound) log::warning("what was known of the sources is forgotten: {}/{}/{} is damaged", printable(store_), kDirectory, kFile);
}

void Watchman::watch() {
  std::int64_t saved = clock_.mono_ns();
  for (bool last = false; !last;) {
    std::vector<SourceWatch::Change> changes;
    nlohmann::json file;
    {
      Lock l(mutex_);
      if (!end_ && !news_) wake_.wait_until(mutex_, std::chrono::steady_clock::now() + kLook);
      last = end_;
      news_ = false;
      changes = sources_.look();
      if (!changes.empty() || (heard_ && (last || clock_.mono_ns() - saved >= kSaveEvery))) {
        heard_ = false;
        file = {{"schema", 1}, {"written", clock_.wall_ns() / 1'000'000'000}, {"suspect_after_s", config_.silence.suspect_s},
                {"lost_after_s", config_.silence.lost_s}, {"sources", sources_.encode()}};
      }
      if (!config_.hook.empty())
        for (const auto& change : changes)
          if (hooks_.size() < kMostHooks) hooks_.push_back(change);
      wake_.notify_all();
    }
    for (const auto& c : changes) {
      const std::string line = fmt::format("the source of {}{}{} is {}, it was {}", c.volume, c.source.host.empty() ? "" : ", ", c.source.host, name_of(c.after), name_of(c.before));
      if (c.after == SourceState::suspect || c.after == SourceState::lost) log::warning("{}: silent for {:.0f} s", line, c.silent_s);
      else log::info("{}", line);
    }
    if (!file.is_null()) {
      save(file.dump(2, ' ', true, nlohmann::json::error_handler_t::replace) + "\n");
      saved = clock_.mono_ns();
    }
  }
}

void Watchman::save(const std::string& text) {
  const Status done = replace_file(dir_.get(), kFile, text);
  if (!done && !save_failed_) log::warning("cannot keep what is known of the sources: {}", done.error().line());
  save_failed_ = !done;
}

bool Watchman::ends() {
  Lock l(mutex_);
  return end_;
}

void Watchman::run_hooks() {
  for (;;) {
    SourceWatch::Change change;
    {
      Lock l(mutex_);
      while (hooks_.empty() && !end_) wake_.wait(mutex_);
      if (end_) return;
      change = std::move(hooks_.front());
      hooks_.pop_front();
    }
    run_hook(change);
  }
}

void Watchman::run_hook(const SourceWatch::Change& change) {
  snapshot::Child::Options options;
  options.argv = {config_.hook};
  options.env = {"SOMFS_STORE=" + store_, "SOMFS_VOLUME=" + change.volume, std::string("SOMFS_STATE=") + name_of(change.after),
                 std::string("SOMFS_BEFORE=") + name_of(change.before), fmt::format("SOMFS_SILENT_S={:.0f}", change.silent_s),
                 fmt::format("SOMFS_HEARD={}", change.source.heard_ns / 1'000'000'000), "SOMFS_HOST=" + change.source.host};
  options.output = false;
  options.own_session = true;
  const std::string what = fmt::format("the hook {} for {}, {}", printable(config_.hook), change.volume, name_of(change.after));
  auto child = snapshot::Child::start(options, clock_);
  if (!child) {
    log::warning("{}: {}", what, child.error().line());
    return;
  }
  child->close_input();
  const std::int64_t until = clock_.mono_ns() + static_cast<std::int64_t>(config_.hook_s * 1e9);
  std::optional<int> status;
  while (!status && clock_.mono_ns() < until && !ends()) status = child->wait(std::min(until, clock_.mono_ns() + kSlice));
  if (!status) {
    child->kill();
    log::warning("{}: killed, {}", what, clock_.mono_ns() < until ? "the daemon ends" : fmt::format("it did not end within {:.0f} s", config_.hook_s));
  } else if (*status != 0) {
    const std::string said = child->last_error();
    log::warning("{}: {} {}{}{}", what, WIFSIGNALED(*status) ? "ended by signal" : "exit code", WIFSIGNALED(*status) ? WTERMSIG(*status) : WEXITSTATUS(*status),
                 said.empty() ? "" : ": ", said);
  }
}

// ---- a conversation

Watchman::Visit::~Visit() {
  if (!volume_) return;
  Lock l(watchman_->mutex_);
  watchman_->sources_.gone(*volume_, at_work_);
}

void Watchman::Visit::arrived(const replicator::Hello& hello) {
  if (watchman_ == nullptr || volume_) return;
  volume_ = hello.volume_name;
  replicates_ = hello.wants == replicator::kReplicate;
  at_work_ = true;
  Lock l(watchman_->mutex_);
  watchman_->sources_.arrived(*volume_, replicates_, hello.host);
  watchman_->heard_ = watchman_->news_ = true;
  watchman_->wake_.notify_all();
}

void Watchman::Visit::listens() {
  if (!volume_ || !std::exchange(at_work_, false)) return;
  Lock l(watchman_->mutex_);
  watchman_->sources_.listens(*volume_);
}

void Watchman::Visit::heard(const replicator::Message& message) {
  // An error may be the worker's, which tells of a connection that broke.
  if (!volume_ || message.type == replicator::MessageType::error) return;
  at_work_ = true;
  Lock l(watchman_->mutex_);
  watchman_->sources_.heard(*volume_, replicates_);
  watchman_->heard_ = true;
  if (!replicates_ || message.type != replicator::MessageType::bye || message.body.empty()) return;
  watchman_->sources_.said_goodbye(*volume_, message.body);
  watchman_->news_ = true;
  watchman_->wake_.notify_all();
}

// ---- who asks

Result<nlohmann::json> Watchman::kept(const std::string& store) {
  const Fd at(::open(store.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!at) return fail_errno("cannot open the store", printable(store));
  const Fd dir(::openat(at.get(), kDirectory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!dir && errno == ENOENT) return fail(Exit::configuration, "this is no store of a mirror daemon:", printable(store), {}, "name what somfs-mirrord has as --store");
  if (!dir) return fail_errno("cannot look at the sources of", printable(store));
  nlohmann::json out{{"sources", nlohmann::json::array()}};
  if (auto text = read_file(dir.get(), kFile, kMostBytes); text) {
    out = nlohmann::json::parse(*text, nullptr, false);
    // As a daemon would take it.
    SystemClock clock;
    SourceWatch check(Silence(), clock);
    if (!out.is_object() || !out.contains("sources") || !check.restore(out["sources"], [](const std::string&) { return true; }))
      return fail(Exit::configuration, "cannot read what is known of the sources of", printable(store), "its file .somfs-mirrord/watch is damaged", "a daemon that is started replaces it");
  } else if (text.error().sys != ENOENT) {
    return pass_on(std::move(text).error());
  }
  const Fd lock(::openat(dir.get(), kLock, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  const bool running = lock && ::flock(lock.get(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  out["running"] = running;
  for (auto& one : out["sources"]) {
    if (!one.contains("heard") || !one["heard"].is_number_unsigned()) one["heard"] = nullptr;
    if (!one.contains("host") || !one["host"].is_string()) one["host"] = "";
    one["connected"] = running && one.contains("connected") && one["connected"] == true;
  }
  return out;
}

}  // namespace somfs::cli
