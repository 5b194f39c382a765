// SPDX-License-Identifier: Apache-2.0
#include "cli/worker.h"

#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <iterator>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include "cli/confine.h"
#include "common/printable.h"
#include "replicator/dial.h"
#include "replicator/framing.h"

namespace somfs::cli {
namespace {

// The descriptors of a worker, after the three of every program; it writes its last words to standard error.
constexpr int kCaller = 3, kDaemon = 4, kRoot = 5, kDescriptors = 6;
constexpr std::size_t kMostWords = 512;
constexpr int kLingerMs = 6000, kHurryMs = 500;   // the first is more than a transport lingers

struct SpawnActions {
  posix_spawn_file_actions_t all;
  SpawnActions() { ::posix_spawn_file_actions_init(&all); }
  ~SpawnActions() { ::posix_spawn_file_actions_destroy(&all); }
  SpawnActions(const SpawnActions&) = delete;
  SpawnActions& operator=(const SpawnActions&) = delete;
};

Result<std::string> receive_packet_after(std::string_view brought, const replicator::Patience& patience) {
  SOMFS_TRY(replicator::send_packet(kDaemon, brought, patience));
  return replicator::receive_packet(kDaemon, replicator::Reception::kMost, patience);
}

// The mirror's account of its stages lacks what was done here, before it heard of the epoch.
void add_own_times(replicator::Message& message, const replicator::StageSums& now, replicator::StageSums& before) {
  using replicator::Stage;
  replicator::Committed committed;
  if (!decode(message.body, &committed)) return;
  const replicator::StageSums own = now - std::exchange(before, now);
  for (Stage stage : {Stage::transfer, Stage::decrypt, Stage::decompress}) committed.times[static_cast<std::size_t>(stage)] += own.wall[static_cast<std::size_t>(stage)];
  message.body = encode(committed);
}

Status converse(replicator::StreamSettings with_caller) {
  using namespace replicator;
  // Who has a question to the daemon waits for its answer; at any other time there is nothing to read but that it is gone.
  const Patience caller_or_end = Patience::for_ever(kDaemon), daemon = Patience::for_ever();
  const Ask ask = [&](std::string_view brought) -> Result<Step> {
    auto packet = receive_packet_after(brought, daemon);
    if (!packet) return fail(Exit::interrupted, "turned away");   // the daemon knows why
    auto step = Step::decode(*packet);
    wipe(*packet);
    return step;
  };
  SOMFS_TRY_ASSIGN(Call call, answer_call(kCaller, ask, caller_or_end));
  auto framing = sealed_framing(std::make_unique<Channel>(std::move(call.session)));
  // Between two processes of one machine nothing is gained by more threads; the caller's side has them.
  auto to_daemon = make_stream(kDaemon, kDaemon, stored_framing(), {.sending = PipelineMode::serial});
  if (!call.first.empty()) {
    std::string header = call.first.substr(0, framing->header_size());
    SOMFS_TRY(framing->body_size(header));
    SOMFS_TRY_ASSIGN(Message first, decode(*framing, header, call.first.substr(header.size())));
    SOMFS_TRY(to_daemon->send(std::move(first)));
  }
  with_caller.codec = readable(call.features, with_caller.codec);
  auto to_caller = make_stream(kCaller, kCaller, std::move(framing), with_caller);
  std::atomic<bool> over{false};
  std::jthread back([&] {
    StageSums before;
    for (;;) {
      auto message = to_daemon->receive();
      if (message && message->type == MessageType::committed) add_own_times(*message, to_caller->stages(), before);
      if (!message || !to_caller->send(std::move(*message))) break;
    }
    over = true;
    ::shutdown(kCaller, SHUT_RD);   // what was sent may still leave
  });
  SOMFS_TRY(no_more_threads());
  for (;;) {
    auto message = to_caller->receive();
    if (message) {
      if (to_daemon->send(std::move(*message))) continue;
      break;
    }
    if (over) break;
    // Whoever broke the connection is told nothing more. The daemon hears of it as a message, so that it comes after all that came before.
    to_caller->close();
    const Error& e = message.error();
    (void)to_daemon->send({MessageType::error, encode(ErrorBody{static_cast<std::uint8_t>(e.exit), e.line()})});
    break;
  }
  back.join();
  return {};
}

bool number(const char* text, unsigned* out) {
  const char* end = text + std::strlen(text);
  const auto [at, e] = std::from_chars(text, end, *out);
  return e == std::errc() && at == end;
}

}  // namespace

// Until it is waited for, the number of a child is nobody else's.

Result<Worker> Worker::start(const Fd& caller, const Fd& daemon, const Fd& root, const WorkerSettings& settings, const std::string& name) {
  int words[2];
  if (::pipe2(words, O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno("cannot start a worker");
  Fd read_end(words[0]), write_end(words[1]);
  // Out of the way of the numbers they are to have.
  const int wanted[] = {write_end.get(), caller.get(), daemon.get(), root.get()};
  Fd high[std::size(wanted)];
  for (std::size_t i = 0; i < std::size(wanted); ++i) {
    high[i] = Fd(::fcntl(wanted[i], F_DUPFD_CLOEXEC, kDescriptors));
    if (!high[i]) return fail_errno("cannot start a worker");
  }
  SpawnActions actions;
  int e = ::posix_spawn_file_actions_addopen(&actions.all, 0, "/dev/null", O_RDWR, 0);
  if (e == 0) e = ::posix_spawn_file_actions_adddup2(&actions.all, 0, 1);
  for (int i = 0; e == 0 && i < static_cast<int>(std::size(wanted)); ++i)
    e = ::posix_spawn_file_actions_adddup2(&actions.all, high[i].get(), 2 + i);
  std::string program = "somfs-mirrord", word = kWord, uid = std::to_string(settings.uid), gid = std::to_string(settings.gid),
              pipeline = replicator::name_of(settings.pipeline), threads = std::to_string(settings.threads), who = name;
  char* argv[] = {program.data(), word.data(), uid.data(), gid.data(), pipeline.data(), threads.data(), who.data(), nullptr};
  char* environment[] = {nullptr};
  pid_t pid = 0;
  if (e == 0) e = ::posix_spawn(&pid, "/proc/self/exe", &actions.all, nullptr, argv, environment);
  if (e != 0) return fail_errno("cannot start a worker", {}, e);
  Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process) {
    e = errno;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return fail_errno("cannot watch a worker", {}, e);
  }
  return Worker(pid, std::move(process), std::move(read_end));
}

Worker::~Worker() {
  if (!process_) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

std::string Worker::finish(bool talked, int interrupt) {
  pollfd p[2] = {{process_.get(), POLLIN, 0}, {interrupt, POLLIN, 0}};
  while (talked && ::poll(p, 2, kLingerMs) < 0 && errno == EINTR) {}
  if (p[1].revents != 0) talked = false;
  while (!talked && ::poll(p, 1, kHurryMs) < 0 && errno == EINTR) {}
  const bool ended = p[0].revents == 0;
  if (ended) ::kill(pid_, SIGKILL);
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {}
  process_.reset();
  std::string said(kMostWords, '\0');
  const ssize_t n = ::read(words_.get(), said.data(), said.size());
  said.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  while (said.ends_with('\n')) said.pop_back();
  if (!ended && WIFSIGNALED(status)) said.insert(0, std::string("ended by signal ") + ::sigabbrev_np(WTERMSIG(status)) + (said.empty() ? "" : ": "));
  return printable(said);
}

int worker_main(int argc, char** argv) {
  unsigned uid = 0, gid = 0;
  replicator::StreamSettings caller;
  caller.silence_ms = replicator::kSilenceMs;
  const auto pipeline = argc < 6 ? std::nullopt : replicator::pipeline_mode(argv[4]);
  if (pipeline) caller.receiving = *pipeline;
  ::prctl(PR_SET_NAME, "somfs-worker");
  // Before anything is believed of the descriptors: nothing but those it was given is open.
  Status done = !pipeline || !number(argv[2], &uid) || !number(argv[3], &gid) || !number(argv[5], &caller.threads) || ::close_range(kDescriptors, ~0u, 0) != 0
                    ? Status(fail(Exit::usage, "this is what the daemon starts for each caller"))
                    : confine({uid, gid, kRoot});
  ::close(kRoot);
  ::mallopt(M_ARENA_MAX, 1);   // the C library looks into files when it manages several
  if (done) done = converse(caller);
  if (!done && done.error().exit != Exit::interrupted) {
    const std::string line = done.error().line() + "\n";
    [[maybe_unused]] const int e = write_all(2, line);
  }
  ::_exit(done ? 0 : static_cast<int>(done.error().exit));
}

}  // namespace somfs::cli
