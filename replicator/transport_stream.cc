// SPDX-License-Identifier: Apache-2.0
// Messages as frames over descriptors. send() → raw queue → codec thread → frame queue → writer thread → descriptor.
// At most kQueued bytes of bodies and as many of frames wait; beyond that send() blocks.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <optional>
#include <thread>

#include "common/clock.h"
#include "common/fd.h"
#include "common/sync.h"
#include "replicator/channel.h"
#include "replicator/frame.h"
#include "replicator/framing.h"

namespace somfs::replicator {
namespace {

constexpr std::size_t kQueued = 2u << 20;
constexpr std::chrono::seconds kLinger{5};   // how long the end waits for what was sent to leave

class Stream final : public Transport {
 public:
  Stream(int in_fd, int out_fd, std::unique_ptr<Framing> framing, std::uint64_t bwlimit)
      : framing_(std::move(framing)), in_(in_fd), out_(out_fd == in_fd ? -1 : out_fd), out_fd_(out_fd), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (bwlimit != 0) bucket_.emplace(bwlimit);
    int type = 0;
    socklen_t n = sizeof type;
    socket_ = ::getsockopt(out_fd_, SOL_SOCKET, SO_TYPE, &type, &n) == 0;
    // A pipe has no "do not wait" for one write: the description itself must not block, or close() could not end a write.
    if (!socket_) ::fcntl(out_fd_, F_SETFL, ::fcntl(out_fd_, F_GETFL) | O_NONBLOCK);
    codec_ = std::jthread([this] { run_codec(); });
    writer_ = std::jthread([this] { run_writer(); });
  }

  ~Stream() override {
    {
      Lock l(mutex_);
      ending_ = true;
      change_.notify_all();
      auto until = std::chrono::steady_clock::now() + kLinger;
      while (!closed_ && !drained_ && change_.wait_until(mutex_, until)) {}
    }
    close();
  }

  Status send(Message message) override {
    if (message.body.size() > kMaxBody) return fail(Exit::temporary, "cannot send", {}, "the message is larger than the protocol allows");
    Lock l(mutex_);
    while (!closed_ && !write_error_ && !raw_.empty() && raw_bytes_ + message.body.size() > kQueued) change_.wait(mutex_);
    if (write_error_) return pass_on(*write_error_);
    if (closed_) return closed_error();
    raw_bytes_ += message.body.size();
    raw_.push_back(std::move(message));
    change_.notify_all();
    return {};
  }

  Result<Message> receive() override {
    if (read_error_) return pass_on(*read_error_);
    auto m = receive_frame();
    if (!m) read_error_ = m.error();
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
  }

  std::uint64_t bytes_sent() const override { return sent_; }
  std::uint64_t bytes_received() const override { return received_; }

 private:
  static tl::unexpected<Error> closed_error() { return fail(Exit::link_down, "cannot talk to the other side", {}, "the link was closed"); }

  Result<Message> receive_frame() {
    std::string head(framing_->header_size(), '\0');
    SOMFS_TRY_ASSIGN(std::size_t got, read_some(head.data(), head.size()));
    if (got == 0) return fail(Exit::link_down, "cannot receive", {}, "the other side went away");
    if (got < head.size()) return fail(Exit::link_down, "cannot receive", {}, "the stream ends within a frame");
    SOMFS_TRY_ASSIGN(std::size_t size, framing_->body_size(head));
    std::string payload(size, '\0');
    SOMFS_TRY_ASSIGN(got, read_some(payload.data(), payload.size()));
    if (got < payload.size()) return fail(Exit::link_down, "cannot receive", {}, "the stream ends within a frame");
    return framing_->decode(head, std::move(payload));
  }

  // Fewer than `n` only at the end of the stream.
  Result<std::size_t> read_some(char* to, std::size_t n) {
    std::size_t got = 0;
    while (got < n) {
      pollfd p[2] = {{in_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
      if (::poll(p, 2, -1) < 0 && errno != EINTR) return link_error("cannot receive", errno);
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

  void give_up(const Error& error) REQUIRES(mutex_) {
    write_error_ = error;
    raw_.clear();
    raw_bytes_ = 0;
    frames_.clear();
    frame_bytes_ = 0;
    change_.notify_all();
  }

  void run_codec() {
    while (true) {
      Message m;
      {
        Lock l(mutex_);
        while (!closed_ && raw_.empty() && !ending_) change_.wait(mutex_);
        if (closed_ || raw_.empty()) break;
        m = std::move(raw_.front());
        raw_.pop_front();
        raw_bytes_ -= m.body.size();
        change_.notify_all();
      }
      auto encoded = framing_->encode(m);
      Lock l(mutex_);
      if (!encoded) {
        give_up(encoded.error());
        break;
      }
      std::string frame = std::move(*encoded);
      while (!closed_ && !write_error_ && !frames_.empty() && frame_bytes_ + frame.size() > kQueued) change_.wait(mutex_);
      frame_bytes_ += frame.size();
      frames_.push_back(std::move(frame));
      change_.notify_all();
    }
    Lock l(mutex_);
    codec_done_ = true;
    change_.notify_all();
  }

  void run_writer() {
    // A write to a pipe nobody reads raises SIGPIPE in this thread alone: blocked here, it dies with the thread.
    sigset_t pipe_only;
    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_only, nullptr);
    while (true) {
      std::string frame;
      {
        Lock l(mutex_);
        while (!closed_ && frames_.empty() && !codec_done_) change_.wait(mutex_);
        if (closed_ || frames_.empty()) break;
        frame = std::move(frames_.front());
        frames_.pop_front();
        frame_bytes_ -= frame.size();
        change_.notify_all();
      }
      if (auto s = write_frame(frame); !s) {
        Lock l(mutex_);
        give_up(s.error());
      }
    }
    Lock l(mutex_);
    drained_ = true;
    change_.notify_all();
  }

  Status write_frame(std::string_view frame) {
    SystemClock clock;
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
  Fd in_, out_;
  const int out_fd_;
  Fd wake_;
  bool socket_ = false;
  std::optional<TokenBucket> bucket_;   // the writer thread's
  std::optional<Error> read_error_;     // the receiver thread's
  std::atomic<std::uint64_t> sent_{0}, received_{0};

  Mutex mutex_;
  CondVar change_;
  std::deque<Message> raw_ GUARDED_BY(mutex_);
  std::deque<std::string> frames_ GUARDED_BY(mutex_);
  std::size_t raw_bytes_ GUARDED_BY(mutex_) = 0, frame_bytes_ GUARDED_BY(mutex_) = 0;
  bool closed_ GUARDED_BY(mutex_) = false, ending_ GUARDED_BY(mutex_) = false;
  bool codec_done_ GUARDED_BY(mutex_) = false, drained_ GUARDED_BY(mutex_) = false;
  std::optional<Error> write_error_ GUARDED_BY(mutex_);

  std::jthread codec_, writer_;         // last: they use everything above, and are joined first
};

}  // namespace

std::unique_ptr<Transport> make_stream(int in_fd, int out_fd, std::unique_ptr<Framing> framing, std::uint64_t bwlimit) {
  return std::make_unique<Stream>(in_fd, out_fd, std::move(framing), bwlimit);
}

std::unique_ptr<Transport> make_stream(int in_fd, int out_fd, std::uint64_t bwlimit) {
  return make_stream(in_fd, out_fd, plain_framing(), bwlimit);
}

std::unique_ptr<Transport> make_sealed_stream(int socket, std::unique_ptr<Channel> channel, std::uint64_t bwlimit) {
  return make_stream(socket, socket, sealed_framing(std::move(channel)), bwlimit);
}

}  // namespace somfs::replicator
