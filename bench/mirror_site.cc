// SPDX-License-Identifier: Apache-2.0
#include "bench/mirror_site.h"

#include <fcntl.h>

#include <utility>

#include "bench/thread_cpu.h"
#include "common/clock.h"
#include "common/fd.h"
#include "replicator/group.h"
#include "replicator/mirror.h"

namespace somfs::bench {
namespace {

using namespace replicator;

constexpr std::size_t kWrite = static_cast<std::size_t>(Stage::write), kAcknowledge = static_cast<std::size_t>(Stage::acknowledge),
                      kApply = static_cast<std::size_t>(Stage::apply);

double now_s() { return static_cast<double>(SystemClock().mono_ns()) / 1e9; }

// What the serving thread does after a message belongs to it: after records `write`, after a commit `acknowledge` until the answer has been sent,
// then `apply`.
class Metered final : public Transport {
 public:
  explicit Metered(std::unique_ptr<Transport> inner) : inner_(std::move(inner)) {}
  Status send(Message message) override {
    const bool committed = message.type == MessageType::committed;
    Status s = inner_->send(std::move(message));
    if (committed) {
      count();
      stage_ = kApply;
    }
    return s;
  }
  Result<Message> receive() override {
    count();
    auto m = inner_->receive();
    stage_ = !m ? kStages : m->type == MessageType::records ? kWrite : m->type == MessageType::commit ? kAcknowledge : kStages;
    cpu_ = thread_cpu();
    wall_ = now_s();
    return m;
  }
  void close() noexcept override { inner_->close(); }
  std::uint64_t bytes_sent() const override { return inner_->bytes_sent(); }
  std::uint64_t bytes_received() const override { return inner_->bytes_received(); }
  StageSums stages() const override { return inner_->stages(); }

  StageTimes own_cpu{}, own_wall{};

 private:
  void count() {
    const double cpu = thread_cpu(), wall = now_s();
    if (stage_ < kStages) {
      own_cpu[stage_] += cpu - cpu_;
      own_wall[stage_] += wall - wall_;
    }
    cpu_ = cpu;
    wall_ = wall;
  }

  const std::unique_ptr<Transport> inner_;
  std::size_t stage_ = kStages;
  double cpu_ = 0, wall_ = 0;
};

// The mirror without its journal, as in the paper's parallel tests: records are written to the file as they come. Nothing is synced, nothing
// is atomic. An answer follows the last write of its group.
Status serve_without_journal(Transport& transport, const std::string& path) {
  Fd file;
  Committed answer;
  StageSums before;
  double written = 0;
  for (;;) {
    SOMFS_TRY_ASSIGN(Message m, transport.receive());
    switch (m.type) {
      case MessageType::hello:
        file = Fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
        if (!file) return fail_errno("cannot make", path);
        SOMFS_TRY(transport.send({MessageType::welcome, encode(Welcome{})}));
        break;
      case MessageType::begin: {
        Begin begin;
        if (!decode(m.body, &begin)) return fail(Exit::temporary, "a malformed begin");
        answer.epoch = begin.epoch;
        before = transport.stages();
        written = 0;
        break;
      }
      case MessageType::records: {
        const double start = now_s();
        RecordReader reader(m.body);
        for (Record r; reader.next(&r);) {
          if (r.type != RecordType::data) continue;
          if (int e = pwrite_all(file.get(), r.bytes, r.off); e != 0) return fail_errno("cannot write", path, e);
        }
        if (!reader.ok()) return fail(Exit::temporary, "malformed records");
        written += now_s() - start;
        break;
      }
      case MessageType::commit: {
        const StageSums sums = transport.stages() - before;
        answer.times = sums.wall;
        answer.times[kWrite] = written;
        SOMFS_TRY(transport.send({MessageType::committed, encode(answer)}));
        SOMFS_TRY(transport.send({MessageType::applied, encode(Applied{answer.epoch, 0})}));
        break;
      }
      case MessageType::bye: return {};
      default: return fail(Exit::temporary, "a message that is none of a measurement");
    }
  }
}

}  // namespace

std::string mirrored_file(const RunSettings& settings) { return settings.mirror + (settings.journal ? "/tree/data" : "/data"); }

MirrorSums serve_site(const RunSettings& settings, std::unique_ptr<Transport> stream) {
  Metered metered(std::move(stream));
  Status done;
  if (settings.journal) {
    done = serve(metered, [&](const Hello&) { return Mirror::open(settings.mirror, Mirror::Mode::create); });
  } else {
    done = serve_without_journal(metered, mirrored_file(settings));
    if (!done) (void)metered.send({MessageType::error, encode(ErrorBody{static_cast<std::uint8_t>(done.error().exit), done.error().line()})});
  }
  const StageSums sums = metered.stages();
  MirrorSums told;
  told.cpu = sums.cpu;
  told.wall = sums.wall;
  for (std::size_t stage : {kWrite, kAcknowledge, kApply}) {
    told.cpu[stage] = metered.own_cpu[stage];
    told.wall[stage] = metered.own_wall[stage];
  }
  told.process_cpu = process_cpu();
  told.failed = !done;
  return told;
}

}  // namespace somfs::bench
