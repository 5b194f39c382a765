// SPDX-License-Identifier: Apache-2.0
#include "bench/source_site.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <optional>
#include <thread>

#include "bench/collector.h"
#include "bench/requests.h"
#include "bench/thread_cpu.h"
#include "common/fd.h"
#include "replicator/group.h"
#include "replicator/history.h"

namespace somfs::bench {
namespace {

using namespace replicator;

constexpr ObjectId kRoot{2, 1}, kFile{100, 7};
constexpr std::size_t kPiece = 256u << 10;      // of one data record, as the sender's
constexpr std::uint64_t kSample = 31;           // one request of so many is timed; odd, to meet no rhythm of powers of two

Uuid volume() { return Uuid::from_raw("somfs-bench-vol."); }
Uuid generation() { return Uuid::from_raw("somfs-bench-gen."); }

ObjectRecord record(ObjectId id, Kind kind, std::uint8_t flags, std::uint64_t size) {
  ObjectRecord r;
  r.id = id;
  r.flags = flags;
  r.attr.kind = kind;
  r.attr.mode = kind == Kind::dir ? 0755 : 0644;
  r.attr.uid = ::geteuid();
  r.attr.gid = ::getegid();
  r.attr.size = size;
  r.attr.mtime = {1'700'000'000, 0};
  return r;
}

struct Written {
  std::uint64_t bytes = 0, requests = 0;
  double cpu = 0, group_cpu = 0, group_wall = 0;   // cpu: without the copies into the group
  std::optional<Error> failed;
};

// Requests until the settings say that it is enough, or `stop`. With `collector`: each is copied into the open group when it was written.
Written write_requests(const RunSettings& s, int fd, Requests& requests, Collector* collector, const std::atomic<bool>& stop) {
  Written w;
  SystemClock clock;
  const std::int64_t start = clock.mono_ns();
  const double cpu = thread_cpu();
  double sampled_cpu = 0, sampled_wall = 0;
  std::uint64_t samples = 0;
  while (!stop) {
    const double passed = static_cast<double>(clock.mono_ns() - start) / 1e9;
    if ((s.seconds > 0 && passed >= s.seconds) || (s.bytes != 0 && w.bytes >= s.bytes)) break;
    if (s.rate != 0) {
      const double ahead = static_cast<double>(w.bytes) / static_cast<double>(s.rate) - passed;
      if (ahead > 0.001) {
        std::this_thread::sleep_for(std::chrono::duration<double>(std::min(ahead, 0.1)));
        continue;
      }
    }
    if (collector != nullptr) collector->wait_for_room();
    const Requests::One one = requests.next();
    if (int e = pwrite_all(fd, one.bytes, one.off); e != 0) {
      w.failed = fail_errno("cannot write", s.volume, e).value();
      break;
    }
    if (collector != nullptr) {
      const bool sample = w.requests % kSample == 0;
      const double c = sample ? thread_cpu() : 0;
      const std::int64_t t = sample ? clock.mono_ns() : 0;
      collector->add(one.off, one.bytes);
      if (sample) {
        sampled_cpu += thread_cpu() - c;
        sampled_wall += static_cast<double>(clock.mono_ns() - t) / 1e9;
        ++samples;
      }
    }
    w.bytes += one.bytes.size();
    ++w.requests;
  }
  const double all = samples == 0 ? 0 : static_cast<double>(w.requests) / static_cast<double>(samples);
  w.group_cpu = sampled_cpu * all;
  w.group_wall = sampled_wall * all;
  w.cpu = std::max(0.0, thread_cpu() - cpu - w.group_cpu);
  if (collector != nullptr) collector->end();
  return w;
}

Result<Fd> open_file(const RunSettings& s) {
  Fd fd(::open(written_file(s).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | (s.direct ? O_DIRECT : 0), 0644));
  if (!fd) return fail_errno("cannot make", written_file(s));
  if (::ftruncate(fd.get(), static_cast<off_t>(s.file)) != 0) return fail_errno("cannot make", written_file(s));
  return fd;
}

// Groups from the collector to the transport, and the answers to the pace.
class Site {
 public:
  Site(const RunSettings& settings, Transport& transport)
      : settings_(settings), transport_(transport), collector_(settings.random), pace_(make_pace(pace_settings(settings))) {
    tell(pace_->decision());
  }

  Result<Measured> run() {
    SOMFS_TRY_ASSIGN(Fd file, open_file(settings_));
    SOMFS_TRY(greet());
    Requests requests(settings_.request, settings_.file, settings_.random, settings_.compressible);
    before_ = transport_.stages();
    const double cpu = process_cpu();
    const std::uint64_t wire = transport_.bytes_sent();
    const std::int64_t start = clock_.mono_ns();
    Written written;
    Status sent, received;
    collector_.begin();
    {
      std::jthread writer([&] { written = write_requests(settings_, file.get(), requests, &collector_, stop_); });
      std::jthread receiver([&] { received = receive(); });
      sent = send_groups();
      stop_ = true;
      if (!sent) transport_.close();       // the receiver has nothing to wait for
    }
    if (!received) return pass_on(received.error());
    if (!sent) return pass_on(sent.error());
    if (written.failed) return pass_on(*written.failed);
    const StageSums sums = transport_.stages() - before_;
    Measured m;
    m.bytes = written.bytes;
    m.requests = written.requests;
    m.wire = transport_.bytes_sent() - wire;
    m.groups = epoch_ - 1;
    for (Stage stage : {Stage::compress, Stage::encrypt, Stage::send}) {
      m.cpu[index(stage)] = sums.cpu[index(stage)];
      m.wall[index(stage)] = sums.wall[index(stage)];
    }
    m.cpu[index(Stage::group)] = written.group_cpu + build_cpu_;
    m.wall[index(Stage::group)] = written.group_wall + build_wall_;
    m.writer_cpu = written.cpu;
    m.source_cpu = process_cpu() - cpu;
    {
      Lock l(mutex_);
      m.seconds = static_cast<double>(last_answer_ - start) / 1e9;
      m.periods = std::move(periods_);
    }
    SOMFS_TRY(transport_.send({MessageType::bye, {}}));
    return m;
  }

 private:
  static std::size_t index(Stage stage) { return static_cast<std::size_t>(stage); }
  static PaceSettings pace_settings(const RunSettings& s) {
    PaceSettings p;
    p.pacing = s.pacing;
    p.first_s = s.first_s;
    p.lanes = lanes_of(s.mode);
    p.memory_bytes = s.group * p.credits;
    return p;
  }
  void tell(const Decision& d) { collector_.decide(d.interval_s, d.threshold_bytes, d.cut_when_full); }
  // How many threads share the time of a stage that lanes do: what the pace wants is the time on the wall.
  double parallel() const { return settings_.mode == PipelineMode::threaded || settings_.mode == PipelineMode::hybrid ? settings_.threads : 1; }

  Status expect(MessageType type) {
    SOMFS_TRY_ASSIGN(Message m, transport_.receive());
    if (m.type == type) return {};
    ErrorBody e;
    if (m.type == MessageType::error && decode(m.body, &e)) return fail(static_cast<Exit>(e.exit), "the mirror gave up", {}, e.line);
    return fail(Exit::temporary, "the mirror answers out of turn");
  }

  // The mirror gets an empty file of full size, as epoch 1.
  Status greet() {
    Hello hello;
    hello.volume = volume();
    hello.generation = generation();
    hello.wants = kReplicate;
    hello.host = "bench";
    SOMFS_TRY(transport_.send({MessageType::hello, encode(hello)}));
    SOMFS_TRY(expect(MessageType::welcome));
    SOMFS_TRY(begin(0));
    std::string body;
    RecordWriter w(body);
    w.object(record(kRoot, Kind::dir, kNew, 0));
    ObjectRecord file = record(kFile, Kind::file, kNew, settings_.file);
    file.parent = kRoot;
    file.name = "data";
    w.object(file);
    SOMFS_TRY(send_records(std::move(body)));
    SOMFS_TRY(transport_.send({MessageType::commit, history_->root()}));
    SOMFS_TRY(expect(MessageType::committed));
    return expect(MessageType::applied);
  }

  Status begin(std::uint64_t base) {
    Begin b;
    b.base_epoch = base;
    b.epoch = base + 1;
    b.generation = generation();
    b.strategy = base == 0 ? "full" : "differential";
    b.replace_all = base == 0;
    b.brake_share = 1;
    history_.emplace(volume(), b);
    return transport_.send({MessageType::begin, encode(b)});
  }

  Status send_records(std::string body) {
    history_->add(body);
    return transport_.send({MessageType::records, std::move(body)});
  }

  Status send_groups() {
    Group group;
    while (collector_.take(group)) {
      GroupDone done;
      Period period;
      {
        Lock l(mutex_);
        while (in_flight_.size() >= kCredits && !failed_) change_.wait(mutex_);
        if (failed_) return {};            // the receiver says why
        period.interval_s = group.interval_s;
        in_flight_[epoch_ + 1] = {group.bytes.size(), periods_.size()};
        done.credits_in_use = static_cast<unsigned>(in_flight_.size());
        period.open_s = static_cast<double>(group.closed_ns - group.opened_ns) / 1e9;
        period.bytes = group.bytes.size();
        periods_.push_back(period);
      }
      const StageSums before = transport_.stages();
      const double built = build_wall_;
      SOMFS_TRY(send(group));
      const StageSums sums = transport_.stages() - before;
      done.bytes = group.bytes.size();
      done.arrived = group.requested;
      done.opened_ns = group.opened_ns;
      done.closed_ns = group.closed_ns;
      done.now_ns = clock_.mono_ns();
      done.times[index(Stage::group)] = build_wall_ - built;
      done.times[index(Stage::compress)] = sums.wall[index(Stage::compress)] / parallel();
      done.times[index(Stage::encrypt)] = sums.wall[index(Stage::encrypt)] / parallel();
      done.times[index(Stage::send)] = sums.wall[index(Stage::send)];
      Lock l(mutex_);
      periods_[epoch_ - 2].source_s = done.times[0] + done.times[1] + done.times[2] + done.times[3];
      tell(pace_->group_done(done));
      if (settings_.periods != 0 && periods_.size() >= settings_.periods) stop_ = true;
    }
    Lock l(mutex_);
    all_sent_ = true;
    while (!in_flight_.empty() && !failed_) change_.wait(mutex_);
    return {};
  }

  Status send(const Group& group) {
    SOMFS_TRY(begin(epoch_));
    ++epoch_;
    std::vector<Piece> sorted;
    const std::vector<Piece>* pieces = &group.pieces;
    if (settings_.random) {
      sorted = group.pieces;
      std::sort(sorted.begin(), sorted.end(), [](const Piece& a, const Piece& b) { return a.off < b.off; });
      pieces = &sorted;
    }
    Building building(*this);
    std::string body;
    body.reserve(settings_.frame + kPiece + 64);
    RecordWriter w(body);
    w.object(record(kFile, Kind::file, kSize, settings_.file));
    for (const Piece& piece : *pieces)
      for (std::size_t done = 0; done < piece.len; done += kPiece) {
        w.data(piece.off + done, std::string_view(group.bytes).substr(piece.at + done, std::min(kPiece, piece.len - done)));
        if (body.size() < settings_.frame) continue;
        building.pause();
        SOMFS_TRY(send_records(std::move(body)));
        building.resume();
        body = {};
        body.reserve(settings_.frame + kPiece + 64);
      }
    building.pause();
    if (!body.empty()) SOMFS_TRY(send_records(std::move(body)));
    return transport_.send({MessageType::commit, history_->root()});
  }

  // Counts what building records takes.
  class Building {
   public:
    explicit Building(Site& site) : site_(site) { resume(); }
    void resume() {
      cpu_ = thread_cpu();
      wall_ = site_.clock_.mono_ns();
    }
    void pause() {
      site_.build_cpu_ += thread_cpu() - cpu_;
      site_.build_wall_ += static_cast<double>(site_.clock_.mono_ns() - wall_) / 1e9;
    }

   private:
    Site& site_;
    double cpu_ = 0;
    std::int64_t wall_ = 0;
  };

  Status receive() {
    Status s = receive_answers();
    Lock l(mutex_);
    failed_ = !s;
    if (!s) {
      stop_ = true;
      collector_.end();
    }
    change_.notify_all();
    return s;
  }
  Status receive_answers() {
    for (;;) {
      {
        Lock l(mutex_);
        while (in_flight_.empty() && !all_sent_) change_.wait_until(mutex_, std::chrono::steady_clock::now() + std::chrono::milliseconds(1));
        if (in_flight_.empty()) return {};
      }
      SOMFS_TRY_ASSIGN(Message m, transport_.receive());
      if (m.type == MessageType::progress) continue;
      ErrorBody e;
      if (m.type == MessageType::error && decode(m.body, &e)) return fail(static_cast<Exit>(e.exit), "the mirror gave up", {}, e.line);
      if (m.type == MessageType::committed) {
        if (!decode(m.body, &committed_)) return fail(Exit::temporary, "the mirror's answer is malformed");
        if (committed_.held) return fail(Exit::person, "the mirror holds an epoch", {}, committed_.reason);
        Lock l(mutex_);
        last_answer_ = clock_.mono_ns();
        continue;
      }
      Applied applied;
      if (m.type != MessageType::applied || !decode(m.body, &applied) || applied.epoch != committed_.epoch)
        return fail(Exit::temporary, "the mirror answers out of turn");
      acknowledge(applied);
    }
  }
  void acknowledge(const Applied& applied) {
    Acknowledged a;
    a.now_ns = clock_.mono_ns();
    a.times = committed_.times;
    for (Stage stage : {Stage::decrypt, Stage::decompress}) a.times[index(stage)] /= parallel();
    // The thread that makes an epoch durable applies it too before it looks at the next one: to the pace that is one lane.
    a.times[index(Stage::acknowledge)] += applied.seconds;
    a.times[index(Stage::apply)] = 0;
    Lock l(mutex_);
    const auto at = in_flight_.find(applied.epoch);
    if (at == in_flight_.end()) return;
    a.bytes = at->second.bytes;
    Period& period = periods_[at->second.period];
    for (std::size_t i = kFirstOfBackup; i < index(Stage::apply); ++i) period.mirror_s += a.times[i];
    in_flight_.erase(at);
    tell(pace_->acknowledged(a));
    change_.notify_all();
  }

  static constexpr std::size_t kCredits = 32;
  struct Flight {
    std::uint64_t bytes;
    std::size_t period;
  };

  const RunSettings& settings_;
  Transport& transport_;
  std::optional<EpochRoot> history_;       // of the group under way
  SystemClock clock_;
  Collector collector_;                    // its lock comes after mutex_
  std::atomic<bool> stop_{false};
  StageSums before_;
  std::uint64_t epoch_ = 1;                // the sender's: the last one that was begun
  double build_cpu_ = 0, build_wall_ = 0;  // the sender's
  Committed committed_;                    // the receiver's: the last one, which is to be applied

  Mutex mutex_;
  CondVar change_;
  const std::unique_ptr<Pace> pace_ GUARDED_BY(mutex_);
  std::map<std::uint64_t, Flight> in_flight_ GUARDED_BY(mutex_);   // by epoch
  std::vector<Period> periods_ GUARDED_BY(mutex_);
  std::int64_t last_answer_ GUARDED_BY(mutex_) = 0;
  bool all_sent_ GUARDED_BY(mutex_) = false, failed_ GUARDED_BY(mutex_) = false;
};

}  // namespace

std::string written_file(const RunSettings& settings) { return settings.volume + "/data"; }

Result<Measured> run_site(const RunSettings& settings, std::unique_ptr<Transport> stream) { return Site(settings, *stream).run(); }

Result<Measured> run_writer(const RunSettings& settings) {
  SOMFS_TRY_ASSIGN(Fd file, open_file(settings));
  Requests requests(settings.request, settings.file, settings.random, settings.compressible);
  const double cpu = process_cpu();
  const std::int64_t start = SystemClock().mono_ns();
  const std::atomic<bool> stop{false};
  Written written = write_requests(settings, file.get(), requests, nullptr, stop);
  if (written.failed) return pass_on(*written.failed);
  Measured m;
  m.bytes = written.bytes;
  m.requests = written.requests;
  m.seconds = static_cast<double>(SystemClock().mono_ns() - start) / 1e9;
  m.writer_cpu = written.cpu;
  m.source_cpu = process_cpu() - cpu;
  return m;
}

}  // namespace somfs::bench
