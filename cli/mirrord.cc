// SPDX-License-Identifier: Apache-2.0
// The backup site. --stdio serves one peer on standard input and output: what ssh:// spawns. --listen serves paired sources on the network.
#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/arguments.h"
#include "cli/config.h"
#include "cli/confine.h"
#include "cli/interrupt.h"
#include "cli/mirror_daemon.h"
#include "cli/service.h"
#include "cli/terminal.h"
#include "cli/version.h"
#include "cli/worker.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/printable.h"
#include "replicator/keys.h"
#include "replicator/mirror.h"
#include "replicator/wire.h"

namespace somfs::cli {
namespace {

struct Arguments {
  std::string store, listen, config, invite, valid = "1h", comment, allow, volume, rights = replicator::kSourceRights.text(), log_file, suspect_after, lost_after, hook;
  std::vector<std::string> forwards;
  bool stdio = false, create = false, show_key = false;
};

Status serve_stdio(const Arguments& a) {
  // Nothing else may write into the conversation: standard output becomes standard error for everybody but the transport.
  int out = ::fcntl(1, F_DUPFD_CLOEXEC, 3), in = ::fcntl(0, F_DUPFD_CLOEXEC, 3);
  int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (out < 0 || in < 0 || null < 0 || ::dup2(2, 1) < 0 || ::dup2(null, 0) < 0) return fail_errno("cannot set up standard input and output");
  auto transport = replicator::make_stream(in, out, {.receiving = replicator::PipelineMode::automatic});
  auto mode = a.create ? replicator::Mirror::Mode::create : replicator::Mirror::Mode::existing;
  Status served = replicator::serve(*transport, [&](const replicator::Hello&) { return replicator::Mirror::open(a.store, mode); });
  transport->close();
  return served;
}

Result<WorkerSettings> worker_settings(const MirrordConfig& config) {
  WorkerSettings settings;
  settings.pipeline = config.pipeline;
  settings.threads = config.threads;
  const std::string& wanted = config.user;
  const std::string name = wanted.empty() ? "somfs" : wanted;
  errno = 0;
  if (const passwd* p = ::getpwnam(name.c_str())) {
    if (p->pw_uid == 0) return fail(Exit::configuration, "workers cannot be root", printable(name));
    settings.uid = p->pw_uid;
    settings.gid = p->pw_gid;
    return settings;
  }
  if (!wanted.empty()) return fail(Exit::configuration, "no such user", printable(wanted), "workers of the mirror daemon are to be this one");
  return settings;   // nobody
}

Status listen(const Arguments& a, const MirrordConfig& config) {
  SOMFS_TRY_ASSIGN(ServiceManager manager, ServiceManager::from_environment());
  log::open(a.log_file, log::Level::info);
  SOMFS_TRY_ASSIGN(const WorkerSettings workers, worker_settings(config));
  std::vector<Fd> listeners = std::move(manager.sockets);
  if (listeners.empty()) {
    if (a.listen.empty()) return fail(Exit::usage, "no address to listen on");
    SOMFS_TRY_ASSIGN(const replicator::Address address, replicator::Address::parse(a.listen));
    SOMFS_TRY_ASSIGN(Fd listener, replicator::listen_on(address));
    listeners.push_back(std::move(listener));
  }
  const int port = replicator::bound_port(listeners.front().get());
  const MirrorDaemon::Limits limits{config.connections, config.handshakes, config.handshake_s, config.brake};
  WatchConfig watch = config.watch;
  for (auto [said, seconds] : {std::pair{&a.suspect_after, &watch.silence.suspect_s}, {&a.lost_after, &watch.silence.lost_s}}) {
    if (said->empty()) continue;
    SOMFS_TRY_ASSIGN(*seconds, parse_seconds(*said));
  }
  if (!a.hook.empty()) watch.hook = a.hook;
  if (const std::string wrong = watch.silence.problem(); !wrong.empty()) return fail(Exit::usage, "cannot watch the sources", {}, wrong);
  std::vector<ForwardConfig> forwards = config.forwards;
  for (const std::string& said : a.forwards) {
    const std::size_t at = said.find('=');
    ForwardConfig f;
    f.volume = said.substr(0, at);
    f.target = at == std::string::npos ? "" : said.substr(at + 1);
    if (!replicator::volume_name_ok(f.volume) || f.target.empty())
      return fail(Exit::usage, "not a forward", printable(said), "a volume and where it goes are expected", "write --forward VOLUME=TARGET");
    forwards.push_back(std::move(f));
  }
  SOMFS_TRY_ASSIGN(auto daemon, MirrorDaemon::make(a.store, std::move(listeners), workers, limits, watch, forwards));
  Interrupt interrupt([&] {
    manager.tell("STOPPING=1\nSTATUS=ending conversations");
    daemon->stop();
  });
  if (!call_filter_available()) log::warning("the system calls of workers are not filtered: not on this kernel or processor");
  std::cout << "listening on port " << port << std::endl;
  manager.tell(fmt::format("READY=1\nSTATUS=listening on port {}", port));
  return daemon->run([&](std::size_t callers) { manager.tell(fmt::format("STATUS=listening on port {}, callers: {}", port, callers)); });
}

Result<replicator::Grants> grants(const std::string& volume, const Arguments& a) {
  const auto rights = replicator::Rights::parse(a.rights);
  if (!rights) return fail(Exit::usage, "not a list of rights", printable(a.rights), "some of push, migrate, confirm, read-back and remove are expected, with commas between");
  return replicator::Grants{{volume, *rights}};
}

Status invite(const Arguments& a) {
  SOMFS_TRY_ASSIGN(const double valid_s, parse_seconds(a.valid));
  if (!replicator::volume_name_ok(a.invite))
    return fail(Exit::usage, "not a name for a volume", printable(a.invite), "1 to 64 of A-Z a-z 0-9 . _ -, the first a letter, a digit or _");
  SOMFS_TRY_ASSIGN(auto given, grants(a.invite, a));
  SOMFS_TRY_ASSIGN(MirrorKeys keys, MirrorKeys::open(a.store));
  SOMFS_TRY_ASSIGN(const std::string code, keys.invite(std::move(given), a.comment, static_cast<std::int64_t>(valid_s)));
  std::cout << code << std::endl;
  return {};
}

Status allow(const Arguments& a) {
  SOMFS_TRY_ASSIGN(const replicator::PublicKey key, replicator::parse_public(a.allow));
  if (!replicator::volume_name_ok(a.volume)) return fail(Exit::usage, "--allow needs --volume NAME, of 1 to 64 of A-Z a-z 0-9 . _ -");
  SOMFS_TRY_ASSIGN(auto given, grants(a.volume, a));
  SOMFS_TRY_ASSIGN(MirrorKeys keys, MirrorKeys::open(a.store));
  return keys.allow({key, std::move(given), a.comment});
}

Status show_key(const Arguments& a) {
  SOMFS_TRY_ASSIGN(const MirrorKeys keys, MirrorKeys::open(a.store));
  SOMFS_TRY_ASSIGN(const replicator::PublicKey key, keys.shared());
  std::cout << replicator::public_text(key) << "\nfingerprint " << replicator::fingerprint(key) << std::endl;
  return {};
}

int main_of(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == Worker::kWord) return worker_main(argc, argv);
  std::signal(SIGPIPE, SIG_IGN);
  CommandLine app("The mirror's side of somfs.", "somfs-mirrord");
  Arguments a;
  app.add_option("--store", a.store, "With --stdio the mirror directory; else the directory of the daemon's mirrors and keys");
  const Option what[] = {
      app.add_option("--listen", a.listen, "Serve paired sources there: ADDR:PORT"),
      app.add_flag("--stdio", a.stdio, "Serve one peer on standard input and output"),
      app.add_option("--invite", a.invite, "Print a code with which one source may pair for this volume, once"),
      app.add_option("--allow", a.allow, "Let the source with this public key mirror into --volume"),
      app.add_flag("--key", a.show_key, "Print this mirror's public key"),
  };
  app.add_option("--config", a.config, "Read what is not said here from this file, and limits; alone, serve paired sources as it says");
  app.add_option("--volume", a.volume, "For --allow: the volume's name");
  app.add_option("--rights", a.rights, "For --invite and --allow: what the source may do").capture_default_str();
  app.add_option("--valid", a.valid, "For --invite: how long the code can be used").capture_default_str();
  app.add_option("--comment", a.comment, "For --invite and --allow: who this is, for the list of peers");
  app.add_flag("--create", a.create, "For --stdio: make the mirror when there is none");
  app.add_option("--suspect-after", a.suspect_after, "For --listen: after so long a silence a source that replicates is SUSPECT (default: 1m)");
  app.add_option("--lost-after", a.lost_after, "For --listen: and then LOST (default: 10m)");
  app.add_option("--hook", a.hook, "For --listen: run this program whenever the state of a source changes");
  app.add_option("--forward", a.forwards, "For --listen: what is committed to this volume goes on to a further mirror: VOLUME=TARGET; may be repeated");
  app.add_option("--log", a.log_file, "For --listen: log to this file instead of standard error");
  app.set_version_flag("--version", std::string("somfs-mirrord ") + kVersion);
  auto complain = [](const Error& e) {
    std::cerr << "somfs-mirrord: " << e.line() << std::endl;
    return static_cast<int>(e.exit);
  };
  const Parsed parsed = app.parse(argc, argv);
  if (parsed.answer) {
    std::cout << *parsed.answer << std::flush;
    return 0;
  }
  if (parsed.problem) return complain({Exit::usage, 0, *parsed.problem, {}, {}, "see somfs-mirrord --help"});
  MirrordConfig config;
  if (!a.config.empty()) {
    auto loaded = load_mirrord_config(a.config);
    if (!loaded) return complain(loaded.error());
    config = std::move(*loaded);
    for (auto [said, configured] : {std::pair{&a.store, &config.store}, {&a.listen, &config.listen}, {&a.log_file, &config.log}})
      if (said->empty()) *said = *configured;
  }
  int chosen = 0;
  for (const Option& o : what) chosen += o.count() != 0;
  const bool serves = what[0].count() != 0 || (chosen == 0 && !a.config.empty());
  if ((chosen != 1 && !serves) || chosen > 1 || a.store.empty())
    return complain({Exit::usage, 0, "--store DIR and one of --listen, --stdio, --invite, --allow and --key are needed", {}, {}, "see somfs-mirrord --help"});
  Status done = a.stdio            ? serve_stdio(a)
                : serves            ? listen(a, config)
                : !a.invite.empty() ? invite(a)
                : !a.allow.empty()  ? allow(a)
                                    : show_key(a);
  return done ? 0 : complain(done.error());
}

}  // namespace
}  // namespace somfs::cli

int main(int argc, char** argv) { return somfs::cli::main_of(argc, argv); }
