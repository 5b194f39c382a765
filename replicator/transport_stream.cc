// SPDX-License-Identifier: Apache-2.0
// Messages as frames over descriptors, in an arrangement of the stages (pipeline.h). Out: send() → lanes → writer thread → descriptor;
// serial: send() does all of it. In: descriptor → reader thread → lanes → receive(); serial: receive() does all of it.
// Bounded: so many bytes of bodies wait in each direction; beyond that send() blocks, and the descriptor is not read.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

#include "common/clock.h"
#include "common/fd.h"
#include "common/sync.h"
#include "replicator/channel.h"
#include "replicator/conveyor.h"
#include "replicator/framing.h"
#include "replicator/stage_meter.h"

namespace somfs::replicator {
namespace {

constexpr std::size_t kQueued = 2u << 20, kQueuedEach = 1u << 20;   // and for each thread of a lane
constexpr std::size_t kSmall = 64u << 10;
constexpr unsigned kMostThreads = 4;
constexpr int kLook = 32;                    // frames after which the arrangement is chosen anew
constexpr std::chrono::seconds kLinger{5};   // how long the end waits for what was sent to leave

// Those it may run on. The C library would look into files, which a worker has not.
unsigned cores() {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? static_cast<unsigned>(std::max(1, CPU_COUNT(&set))) : 1;
}

// How many threads a stream has for its lanes: hybrid has two lanes, and what is chosen later may be hybrid.
unsigned pool_of(PipelineMode mode, unsigned per_lane) {
  switch (mode) {
    case PipelineMode::serial:
    case PipelineMode::fine: return 0;
    case PipelineMode::threaded: return per_lane;
    case PipelineMode::hybrid:
    case PipelineMode::automatic: break;
  }
  return 2 * per_lane;
}

unsigned lanes_in(PipelineMode mode) { return mode == PipelineMode::threaded ? 1 : mode == PipelineMode::hybrid ? 2 : 0; }

// Which arrangement the next frame passes in.
class Arrangement {
 public:
  Arrangement(PipelineMode mode, Site site, unsigned threads) : mode_(mode), site_(site), threads_(threads), now_(mode) {
    if (automatic()) now_ = PipelineMode::fine;
  }
  bool automatic() const { return mode_ == PipelineMode::automatic; }
  PipelineMode now() const { return now_; }
  // Of a frame of so many bytes, which are all there are to be done: alone it gains nothing from other threads.
  PipelineMode next(const StageMeter& meter, std::size_t bytes, bool idle) {
    if (!automatic()) return mode_;
    if (idle && bytes < kSmall) return PipelineMode::serial;
    if (++frames_ % kLook == 0) {
      const StageSums sums = meter.sums();
      now_ = choose_mode((sums - seen_).cpu, site_, threads_, cores());
      seen_ = sums;
    }
    return now_;
  }

 private:
  const PipelineMode mode_;
  const Site site_;
  const unsigned threads_;
  PipelineMode now_;
  int frames_ = 0;
  StageSums seen_;
};

// While it lives, a write of this thread to a pipe that nobody reads is an error and no signal.
class NoSignal {
 public:
  explicit NoSignal(bool wanted) : wanted_(wanted) {
    if (!wanted_) return;
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    ::sigpending(&pending);
    pending_ = ::sigismember(&pending, SIGPIPE) == 1;
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoSignal() {
    if (!wanted_) return;
    const timespec at_once{};
    if (!pending_) while (::sigtimedwait(&pipe_, nullptr, &at_once) < 0 && errno == EINTR) {}
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoSignal(const NoSignal&) = delete;
  NoSignal& operator=(const NoSignal&) = delete;

 private:
  const bool wanted_;
  bool pending_ = false;
  sigset_t pipe_, before_;
};

class Stream final : public Transport {
 public:
  Stream(int in_fd, int out_fd, std::unique_ptr<Framing> framing, const StreamSettings& settings)
      : framing_(std::move(framing)), codec_(settings.codec), threads_(settings.threads != 0 ? settings.threads : std::min(cores(), kMostThreads)),
        sending_(settings.sending, Site::source, threads_), receiving_(settings.receiving, Site::mirror, threads_),
        in_(in_fd), out_(out_fd == in_fd ? -1 : out_fd), out_fd_(out_fd), silence_ms_(settings.silence_ms),
        wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (settings.bwlimit != 0) bucket_.emplace(settings.bwlimit);
    int type = 0;
    socklen_t n = sizeof type;
    socket_ = ::getsockopt(out_fd_, SOL_SOCKET, SO_TYPE, &type, &n) == 0;
    // A pipe has no "do not wait" for one write: the description itself must not block, or close() could not end a write.
    if (!socket_) ::fcntl(out_fd_, F_SETFL, ::fcntl(out_fd_, F_GETFL) | O_NONBLOCK);
    const std::size_t bound = kQueued + kQueuedEach * threads_;
    if (settings.sending != PipelineMode::serial) {
      outgoing_ = std::make_unique<Conveyor<Outgoing>>(pool_of(settings.sending, threads_), threads_, bound,
                                                       [this](Outgoing& frame, unsigned lane, unsigned lanes) { work(frame, lane, lanes); });
      writer_ = std::jthread([this] { run_writer(); });
    }
    if (settings.receiving != PipelineMode::serial) {
      incoming_ = std::make_unique<Conveyor<Incoming>>(pool_of(settings.receiving, threads_), threads_, bound,
                                                       [this](Incoming& frame, unsigned lane, unsigned lanes) { work(frame, lane, lanes); });
      reader_ = std::jthread([this] { run_reader(); });
    }
  }

  ~Stream() override {
    if (outgoing_ != nullptr) {
      outgoing_->end();
      Lock l(mutex_);
      auto until = std::chrono::steady_clock::now() + kLinger;
      while (!closed_ && !drained_ && change_.wait_until(mutex_, until)) {}
    }
    close();
  }

  Status send(Message message) override {
    if (message.body.size() > kMaxBody) return fail(Exit::temporary, "cannot send", {}, "the message is larger than the protocol allows");
    SOMFS_TRY(sendable());
    const std::size_t bytes = message.body.size();
    auto frame = std::make_unique<Outgoing>();
    frame->message = std::move(message);
    const std::int64_t now = SystemClock().mono_ns();
    if (sent_last_ != 0) meter_.add(Stage::group, now - sent_last_, now - sent_last_, bytes, bytes);
    Status s = send_frame(std::move(frame), bytes);
    sent_last_ = SystemClock().mono_ns();
    return s;
  }

  Result<Message> receive() override {
    if (read_error_) return pass_on(*read_error_);
    const std::int64_t now = SystemClock().mono_ns();
    if (received_last_ != 0) meter_.add(Stage::write, now - received_last_, now - received_last_, received_bytes_, received_bytes_);
    auto m = incoming_ == nullptr ? receive_serially() : receive_from_lanes();
    received_last_ = SystemClock().mono_ns();
    if (m) received_bytes_ = m->body.size();
    else read_error_ = m.error();
    return m;
  }

  void close() noexcept override {
    {
      Lock l(mutex_);
      closed_ = true;
      change_.notify_all();
    }
    std::uint64_t one = 1;
    [[maybe_unused]] ssize_t n = ::write(wake_.get(), &one, sizeof one);   // never drained: every later poll returns at once
    if (outgoing_ != nullptr) outgoing_->abandon();
    if (incoming_ != nullptr) incoming_->abandon();
  }

  std::uint64_t bytes_sent() const override { return sent_; }
  std::uint64_t bytes_received() const override { return received_; }
  StageSums stages() const override { return meter_.sums(); }
  HowSent how_sent() const override { return {codec_, sending_.now()}; }

 private:
  static tl::unexpected<Error> closed_error() { return fail(Exit::link_down, "cannot talk to the other side", {}, "the link was closed"); }

  Status sendable() {
    Lock l(mutex_);
    if (write_error_) return pass_on(*write_error_);
    if (closed_) return closed_error();
    return {};
  }

  // ---- out
  Status send_frame(std::unique_ptr<Outgoing> frame, std::size_t bytes) {
    if (Status s = framing_->take(*frame); !s) return give_up(s.error());
    const bool idle = put_ == written_.load(std::memory_order_acquire);   // the writer has written what it was given
    const PipelineMode mode = outgoing_ == nullptr ? PipelineMode::serial : sending_.next(meter_, bytes, idle);
    if (mode == PipelineMode::serial && (outgoing_ == nullptr || idle)) {
      compress(*frame);
      auto wire = encrypt(*frame);
      if (!wire) return give_up(wire.error());
      if (Status s = write_frame(*wire); !s) return give_up(s.error());
      return {};
    }
    if (mode == PipelineMode::serial || mode == PipelineMode::fine) compress(*frame);
    ++put_;
    if (outgoing_->put(std::move(frame), lanes_in(mode), bytes)) return {};
    SOMFS_TRY(sendable());
    return closed_error();
  }

  void compress(Outgoing& frame) {
    StageMeter::Run run(meter_, Stage::compress, frame.message.body.size());
    framing_->compress(frame, codec_);
    if (frame.packed.codec != Codec::stored) run.produced(frame.packed.bytes.size());
  }
  Result<std::string> encrypt(Outgoing& frame) {
    StageMeter::Run run(meter_, Stage::encrypt, frame.packed.codec != Codec::stored ? frame.packed.bytes.size() : frame.message.body.size());
    auto wire = framing_->encrypt(frame);
    if (wire) run.produced(wire->size());
    return wire;
  }
  void work(Outgoing& frame, unsigned lane, unsigned lanes) {
    if (lane == 0) compress(frame);
    if (lane + 1 < lanes) return;
    auto wire = encrypt(frame);
    if (wire) frame.wire = std::move(*wire);
    else frame.failed = pass_on(wire.error());
  }

  void run_writer() {
    while (auto frame = outgoing_->take()) {
      Status s = frame->failed;
      if (s && frame->wire.empty()) {   // `fine`: encrypting is this thread's
        auto wire = encrypt(*frame);
        if (wire) frame->wire = std::move(*wire);
        else s = pass_on(wire.error());
      }
      if (s) s = write_frame(frame->wire);
      if (!s) {
        (void)give_up(s.error());
        break;
      }
      written_.fetch_add(1, std::memory_order_release);
    }
    Lock l(mutex_);
    drained_ = true;
    change_.notify_all();
  }

  // ---- in
  // A frame with its header checked and its place in the order taken; null at a clean end of the stream.
  Result<std::unique_ptr<Incoming>> read_frame() {
    auto frame = std::make_unique<Incoming>();
    frame->header.resize(framing_->header_size());
    SOMFS_TRY_ASSIGN(std::size_t got, read_some(frame->header.data(), frame->header.size(), false));
    if (got == 0) return fail(Exit::link_down, "cannot receive", {}, "the other side went away");
    if (got < frame->header.size()) return fail(Exit::link_down, "cannot receive", {}, "the stream ends within a frame");
    SOMFS_TRY_ASSIGN(std::size_t size, framing_->body_size(frame->header));
    StageMeter::Run run(meter_, Stage::transfer, size);
    frame->body.resize(size);
    SOMFS_TRY_ASSIGN(got, read_some(frame->body.data(), frame->body.size(), true));
    if (got < frame->body.size()) return fail(Exit::link_down, "cannot receive", {}, "the stream ends within a frame");
    SOMFS_TRY(framing_->take(*frame));
    return frame;
  }

  void decrypt(Incoming& frame) {
    StageMeter::Run run(meter_, Stage::decrypt, frame.body.size());
    auto payload = framing_->decrypt(frame);
    if (payload) frame.body = std::move(*payload);
    else frame.failed = pass_on(payload.error());
  }
  void decompress(Incoming& frame) {
    if (!frame.failed) return;
    StageMeter::Run run(meter_, Stage::decompress, frame.body.size());
    auto message = framing_->decompress(frame, std::move(frame.body));
    if (!message) {
      frame.failed = pass_on(message.error());
      return;
    }
    run.produced(message->body.size());
    frame.message = std::move(*message);
    if (framing_->pivotal(frame)) framing_->learn(frame.message);
  }
  void work(Incoming& frame, unsigned lane, unsigned lanes) {
    if (lane == 0) decrypt(frame);
    if (lane + 1 == lanes) decompress(frame);
  }

  Result<Message> receive_serially() {
    SOMFS_TRY_ASSIGN(auto frame, read_frame());
    decrypt(*frame);
    decompress(*frame);
    SOMFS_TRY(frame->failed);
    return std::move(frame->message);
  }

  Result<Message> receive_from_lanes() {
    auto frame = incoming_->take();
    if (frame == nullptr) {
      Lock l(mutex_);
      if (reader_error_) return pass_on(*reader_error_);
      return closed_error();
    }
    SOMFS_TRY(frame->failed);
    return std::move(frame->message);
  }

  void run_reader() {
    Status s;
    while (s) {
      auto frame = read_frame();
      if (!frame) {
        s = pass_on(frame.error());
        break;
      }
      Incoming& f = **frame;
      const std::size_t bytes = f.body.size();
      PipelineMode mode = receiving_.next(meter_, bytes, incoming_->empty());
      if (framing_->pivotal(f)) mode = PipelineMode::fine;
      if (lanes_in(mode) == 0) {
        decrypt(f);
        decompress(f);
      }
      s = f.failed;   // what is read after it could not be right
      if (!incoming_->put(std::move(*frame), lanes_in(mode), bytes)) return;
    }
    {
      Lock l(mutex_);
      reader_error_ = s.error();
    }
    incoming_->end();
  }

  // Fewer than `n` only at the end of the stream. Before a frame the other side may be silent as long as it likes, within one it may not.
  Result<std::size_t> read_some(char* to, std::size_t n, bool within) {
    std::size_t got = 0;
    while (got < n) {
      pollfd p[2] = {{in_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
      const int ready = ::poll(p, 2, within || got != 0 ? silence_ms_ : -1);
      if (ready < 0 && errno != EINTR) return link_error("cannot receive", errno);
      if (ready == 0) return fail(Exit::link_down, "cannot receive", {}, "the other side fell silent within a frame");
      if (p[1].revents != 0) return closed_error();
      if (p[0].revents == 0) continue;
      ssize_t r = ::read(in_.get(), to + got, n - got);
      if (r < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (r < 0) return link_error("cannot receive", errno);
      if (r == 0) break;
      got += static_cast<std::size_t>(r);
      received_ += static_cast<std::uint64_t>(r);
    }
    return got;
  }

  static tl::unexpected<Error> link_error(const char* what, int sys) { return pass_on(Error{Exit::link_down, sys, what, {}, {}, {}}); }

  // Nothing more is sent after it.
  Status give_up(const Error& error) {
    {
      Lock l(mutex_);
      if (!write_error_) write_error_ = error;
      change_.notify_all();
    }
    if (outgoing_ != nullptr) outgoing_->abandon();
    return pass_on(error);
  }

  Status write_frame(std::string_view frame) {
    SystemClock clock;
    StageMeter::Run run(meter_, Stage::send, frame.size());
    const NoSignal no_signal(!socket_);
    while (!frame.empty()) {
      std::string_view piece = frame;
      if (bucket_) {
        piece = frame.substr(0, bucket_->piece());
        while (std::int64_t ns = bucket_->wait_ns(piece.size(), clock.mono_ns())) {
          pollfd p = {wake_.get(), POLLIN, 0};
          ::poll(&p, 1, static_cast<int>(ns / 1'000'000 + 1));
          if (p.revents != 0) return closed_error();
        }
      }
      frame.remove_prefix(piece.size());
      SOMFS_TRY(write_piece(piece));
    }
    return {};
  }

  Status write_piece(std::string_view piece) {
    while (!piece.empty()) {
      ssize_t n = socket_ ? ::send(out_fd_, piece.data(), piece.size(), MSG_NOSIGNAL | MSG_DONTWAIT)
                          : ::write(out_fd_, piece.data(), piece.size());
      if (n >= 0) {
        piece.remove_prefix(static_cast<std::size_t>(n));
        sent_ += static_cast<std::uint64_t>(n);
        continue;
      }
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return link_error("cannot send", errno);
      pollfd p[2] = {{out_fd_, POLLOUT, 0}, {wake_.get(), POLLIN, 0}};
      if (::poll(p, 2, -1) < 0 && errno != EINTR) return link_error("cannot send", errno);
      if (p[1].revents != 0) return closed_error();
    }
    return {};
  }

  const std::unique_ptr<Framing> framing_;
  const Codec codec_;
  const unsigned threads_;
  Arrangement sending_, receiving_;     // the sender's and the reader's
  StageMeter meter_;
  std::int64_t sent_last_ = 0;          // the sender's: since then it has collected what it sends next
  std::uint64_t put_ = 0;               // the sender's: frames for the writer
  std::int64_t received_last_ = 0;      // the receiver's: since then it has worked on what it received
  std::uint64_t received_bytes_ = 0;
  Fd in_, out_;
  const int out_fd_;
  const int silence_ms_;
  Fd wake_;
  bool socket_ = false;
  std::optional<TokenBucket> bucket_;   // the writer's
  std::optional<Error> read_error_;     // the receiver's
  std::atomic<std::uint64_t> sent_{0}, received_{0};
  std::atomic<std::uint64_t> written_{0};

  Mutex mutex_;
  CondVar change_;
  bool closed_ GUARDED_BY(mutex_) = false, drained_ GUARDED_BY(mutex_) = false;
  std::optional<Error> write_error_ GUARDED_BY(mutex_), reader_error_ GUARDED_BY(mutex_);

  // Last: their threads use everything above, and are joined first. Writer and reader go before what they write and read from.
  std::unique_ptr<Conveyor<Outgoing>> outgoing_;
  std::unique_ptr<Conveyor<Incoming>> incoming_;
  std::jthread writer_, reader_;
};

}  // namespace

std::unique_ptr<Transport> make_stream(int in_fd, int out_fd, std::unique_ptr<Framing> framing, const StreamSettings& settings) {
  return std::make_unique<Stream>(in_fd, out_fd, std::move(framing), settings);
}

std::unique_ptr<Transport> make_stream(int in_fd, int out_fd, const StreamSettings& settings) {
  return make_stream(in_fd, out_fd, plain_framing(), settings);
}

std::unique_ptr<Transport> make_sealed_stream(int socket, std::unique_ptr<Channel> channel, const StreamSettings& settings) {
  StreamSettings network = settings;
  network.silence_ms = kSilenceMs;
  return make_stream(socket, socket, sealed_framing(std::move(channel)), network);
}

}  // namespace somfs::replicator
