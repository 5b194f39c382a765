// SPDX-License-Identifier: Apache-2.0
#include "bench/pipeline_run.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "bench/mirror_site.h"
#include "bench/source_site.h"
#include "common/fd.h"
#include "replicator/channel.h"
#include "replicator/dial.h"
#include "replicator/framing.h"
#include "replicator/keys.h"

namespace somfs::bench {
namespace {

using namespace replicator;
using Json = nlohmann::ordered_json;

std::size_t index(Stage stage) { return static_cast<std::size_t>(stage); }

std::vector<int> allowed_cores() {
  cpu_set_t set;
  std::vector<int> cores;
  if (::sched_getaffinity(0, sizeof set, &set) == 0)
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_ISSET(i, &set)) cores.push_back(i);
  return cores.empty() ? std::vector<int>{0} : cores;
}

void keep_to(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core : cores) CPU_SET(core, &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

struct Cores {
  std::vector<int> source, mirror;
  bool shared = true;
};
Cores cores_of(const RunSettings& s) {
  const std::vector<int> all = allowed_cores();
  if (!s.own_cores || all.size() < 2) return {all, all, true};
  const auto half = all.begin() + static_cast<std::ptrdiff_t>((all.size() + 1) / 2);
  return {{all.begin(), half}, {half, all.end()}, false};
}

struct Sockets {
  Fd source, mirror;
};
Result<Sockets> connect_sites() {
  SOMFS_TRY_ASSIGN(Fd listening, listen_on({"127.0.0.1", 0}));
  Sockets s;
  SOMFS_TRY_ASSIGN(s.source, connect_to({"127.0.0.1", bound_port(listening.get())}, Patience::for_seconds(10)));
  for (int tries = 0; tries < 1000 && !s.mirror; ++tries) {   // connected is not yet accepted
    s.mirror = Fd(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!s.mirror && errno != EAGAIN && errno != EINTR) return fail_errno("cannot accept");
    if (!s.mirror) ::usleep(1000);
  }
  if (!s.mirror) return fail(Exit::link_down, "the loopback connection was not accepted");
  keep_alive(s.mirror.get());
  return s;
}

struct Channels {
  std::unique_ptr<Channel> source, mirror;
};
Result<Channels> shake_hands() {
  const KeyPair source = KeyPair::generate(), mirror = KeyPair::generate();
  SOMFS_TRY_ASSIGN(Handshake near, Handshake::link(source.secret, mirror.shared, "bench"));
  SOMFS_TRY_ASSIGN(Handshake far, Handshake::answer_link(mirror.secret, "bench", [](const PublicKey&) -> Status { return {}; }));
  SOMFS_TRY_ASSIGN(std::string call, near.next_message());
  SOMFS_TRY(far.take_message(call));
  SOMFS_TRY_ASSIGN(std::string answer, far.next_message());
  SOMFS_TRY(near.take_message(answer));
  Channels c;
  SOMFS_TRY_ASSIGN(c.source, near.finish());
  SOMFS_TRY_ASSIGN(c.mirror, far.finish());
  return c;
}

std::unique_ptr<Transport> stream_of(const RunSettings& s, Fd socket, std::unique_ptr<Channel> channel, bool source) {
  StreamSettings stream;
  stream.codec = s.codec;
  stream.threads = s.threads;
  // The way back is narrow: each site's arrangement is that of the way there.
  if (source) stream.sending = s.mode;
  else stream.sending = PipelineMode::serial, stream.receiving = s.mode;
  if (source) stream.bwlimit = s.link;
  const int fd = socket.release();
  return channel ? make_sealed_stream(fd, std::move(channel), stream) : make_stream(fd, fd, stream);
}

// The mirror's process, from its beginning to its end.
[[noreturn]] void be_mirror(const RunSettings& s, const Cores& cores, Fd socket, std::unique_ptr<Channel> channel, int tell) {
  keep_to(cores.mirror);
  const MirrorSums told = serve_site(s, stream_of(s, std::move(socket), std::move(channel), false));
  const std::string_view bytes(reinterpret_cast<const char*>(&told), sizeof told);
  const int e = write_all(tell, bytes);
  ::_exit(e != 0 || told.failed ? 1 : 0);
}

Result<bool> same_bytes(const std::string& a, const std::string& b) {
  Fd left(::open(a.c_str(), O_RDONLY | O_CLOEXEC)), right(::open(b.c_str(), O_RDONLY | O_CLOEXEC));
  if (!left || !right) return fail_errno("cannot compare", !left ? a : b);
  std::string x(1 << 20, '\0'), y(x.size(), '\0');
  for (std::uint64_t off = 0;; off += x.size()) {
    std::size_t m = 0, n = 0;
    if (int e = pread_all(left.get(), x.data(), x.size(), off, &m); e != 0) return fail_errno("cannot read", a, e);
    if (int e = pread_all(right.get(), y.data(), y.size(), off, &n); e != 0) return fail_errno("cannot read", b, e);
    // Without a journal the mirror's file ends with the last byte that was written.
    std::fill(x.begin() + static_cast<std::ptrdiff_t>(m), x.end(), '\0');
    std::fill(y.begin() + static_cast<std::ptrdiff_t>(n), y.end(), '\0');
    if (x != y) return false;
    if (m == 0 && n == 0) return true;
  }
}

double rounded(double value, double per_unit) { return std::round(value * per_unit) / per_unit; }

}  // namespace

std::string RunSettings::problem() const {
  if (request < 512 || request > (4u << 20) || request % 512 != 0) return "a request must have 512 bytes to 4 MiB, in multiples of 512";
  if (file < request || file % request != 0) return "the file must hold a whole number of requests";
  if (!(compressible >= 0 && compressible <= 1)) return "the compressible part must lie between 0 and 1";
  if (seconds <= 0 && bytes == 0 && periods == 0) return "seconds, bytes or periods must bound the run";
  if (!(seconds >= 0 && seconds <= 3600)) return "a run must not take longer than an hour";
  if (threads < 1 || threads > 64) return "a lane must have 1 to 64 threads";
  if (frame < (4u << 10) || frame > (3u << 20)) return "a frame must have 4 KiB to 3 MiB";
  if (group < (64u << 10) || group > (1u << 30)) return "a group must have at least 64 KiB, and 1 GiB at most";
  PaceSettings pace;
  pace.first_s = first_s;
  return pace.problem();
}

double Measured::cpu_use() const {
  const double cores = cores_shared ? cores_source : cores_source + cores_mirror;
  return seconds > 0 && cores > 0 ? (source_cpu + mirror_cpu) / seconds / cores : 0;
}

double Measured::bound_mb_s(PipelineMode mode, unsigned threads) const {
  double source = writer_cpu, mirror = 0;
  for (std::size_t i = 0; i < kStages; ++i) (i < kFirstOfBackup ? source : mirror) += cpu[i];
  // One thread of the mirror writes, acknowledges and applies.
  StageTimes lanes = cpu;
  lanes[index(Stage::acknowledge)] += lanes[index(Stage::apply)];
  // The writer is a lane of its own, on the source's cores.
  const unsigned at_source = std::max(1u, cores_source), at_mirror = std::max(1u, cores_mirror);
  double least = std::max({least_time(lanes, Site::source, mode, threads, at_source), least_time(lanes, Site::mirror, mode, threads, at_mirror), writer_cpu});
  least = std::max({least, source / at_source, mirror / at_mirror});
  if (cores_shared) least = std::max(least, (source + mirror) / at_source);
  return least > 0 ? static_cast<double>(bytes) / 1e6 / least : 0;
}

std::string Measured::json(const RunSettings& s) const {
  Json out;
  out["schema"] = 1;
  out["mb_s"] = rounded(mb_s(), 100);
  out["seconds"] = rounded(seconds, 1e6);
  out["bytes"] = bytes;
  out["requests"] = requests;
  out["request"] = s.request;
  out["random"] = s.random;
  out["direct"] = s.direct;
  if (!s.only_writes) {
    out["codec"] = name_of(s.codec);
    out["sealed"] = s.sealed;
    out["mode"] = name_of(s.mode);
    out["threads"] = s.threads;
    out["pacing"] = name_of(s.pacing);
    out["journal"] = s.journal;
    out["groups"] = groups;
    out["wire_bytes"] = wire;
    out["cores"] = {{"source", cores_source}, {"mirror", cores_mirror}, {"shared", cores_shared}};
    out["cpu_use"] = rounded(cpu_use(), 1e4);
    out["bound_mb_s"] = rounded(bound_mb_s(s.mode, s.threads), 100);
    const double gb = static_cast<double>(bytes) / 1e9;
    Json stages = Json::object();
    for (std::size_t i = 0; i < kStages && gb > 0; ++i)
      stages[name_of(static_cast<Stage>(i))] = {{"cpu_s_per_gb", rounded(cpu[i] / gb, 1e5)}, {"wall_s_per_gb", rounded(wall[i] / gb, 1e5)}};
    out["stages"] = stages;
    if (gb > 0) {
      out["writer_cpu_s_per_gb"] = rounded(writer_cpu / gb, 1e5);
      out["source_cpu_s_per_gb"] = rounded(source_cpu / gb, 1e5);
      out["mirror_cpu_s_per_gb"] = rounded(mirror_cpu / gb, 1e5);
    }
    Json trace = Json::array();
    for (const Period& p : periods)
      trace.push_back({{"interval_ms", rounded(p.interval_s * 1e3, 1e4)}, {"open_ms", rounded(p.open_s * 1e3, 1e4)}, {"bytes", p.bytes},
                       {"source_ms", rounded(p.source_s * 1e3, 1e4)}, {"mirror_ms", rounded(p.mirror_s * 1e3, 1e4)}});
    out["periods"] = trace;
    if (checked) out["equal"] = equal;
  }
  return out.dump();
}

Result<Measured> run(const RunSettings& settings) {
  if (std::string wrong = settings.problem(); !wrong.empty()) return fail(Exit::usage, "cannot measure that", {}, wrong);
  const Cores cores = cores_of(settings);
  if (settings.only_writes) {
    keep_to(cores.source);
    return run_writer(settings);
  }
  SOMFS_TRY_ASSIGN(Sockets sockets, connect_sites());
  Channels channels;
  if (settings.sealed) {
    SOMFS_TRY_ASSIGN(channels, shake_hands());
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno("cannot make a pipe");
  Fd listen(ends[0]), tell(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return fail_errno("cannot begin the mirror's process");
  if (child == 0) {
    sockets.source.reset();
    listen.reset();
    be_mirror(settings, cores, std::move(sockets.mirror), std::move(channels.mirror), tell.get());
  }
  sockets.mirror.reset();
  tell.reset();
  channels.mirror.reset();
  keep_to(cores.source);
  auto measured = run_site(settings, stream_of(settings, std::move(sockets.source), std::move(channels.source), true));
  MirrorSums told;
  std::size_t got = 0;
  const int e = read_all(listen.get(), &told, sizeof told, &got);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (!measured) return measured;
  if (e != 0 || got != sizeof told || status != 0) return fail(Exit::temporary, "the mirror's process failed");
  Measured& m = *measured;
  for (std::size_t i = kFirstOfBackup; i < kStages; ++i) {
    m.cpu[i] = told.cpu[i];
    m.wall[i] = told.wall[i];
  }
  m.mirror_cpu = told.process_cpu;
  m.cores_source = static_cast<unsigned>(cores.source.size());
  m.cores_mirror = static_cast<unsigned>(cores.mirror.size());
  m.cores_shared = cores.shared;
  if (settings.check) {
    m.checked = true;
    SOMFS_TRY_ASSIGN(m.equal, same_bytes(written_file(settings), mirrored_file(settings)));
  }
  return measured;
}

}  // namespace somfs::bench
