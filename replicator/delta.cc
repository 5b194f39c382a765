// SPDX-License-Identifier: Apache-2.0
#include "replicator/delta.h"

#include <cstdio>   // before librsync.h, which uses FILE and size_t without asking for them

#include <librsync.h>

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>
#include <vector>

#include "common/bytes.h"
#include "common/sync.h"

namespace somfs::replicator {
namespace {

constexpr std::size_t kBuffer = 64u << 10;
constexpr std::uint32_t kStrong = 16, kLeastStrong = 8, kMostStrong = 32;
constexpr std::uint32_t kLeastBlock = 256;
constexpr std::size_t kSignatureHeader = 12;
constexpr std::size_t kWorstChain = 64;       // distinct blocks with one weak sum: chance gives two or three
constexpr std::uint32_t kLargestBlock = 64u << 20;

struct JobFree {
  void operator()(rs_job_t* job) const { rs_job_free(job); }
};
using Job = std::unique_ptr<rs_job_t, JobFree>;

// librsync prints its errors on standard error unless told otherwise; ours come back as results.
void keep_quiet() {
  [[maybe_unused]] static const bool once = [] {
    rs_trace_to([](rs_loglevel, char const*) {});
    return true;
  }();
}

auto rs_failed(const char* what, rs_result r) { return fail(Exit::temporary, what, {}, rs_strerror(r)); }

// Runs a job over one piece of input; all of it is taken. True when the job is done.
Result<bool> drive(rs_job_t* job, std::string_view in, bool eof, const PieceSink& out, const char* what) {
  keep_quiet();
  std::string space(kBuffer, '\0');
  rs_buffers_t b{};
  b.next_in = const_cast<char*>(in.data());   // librsync does not write there
  b.avail_in = in.size();
  b.eof_in = eof ? 1 : 0;
  while (true) {
    b.next_out = space.data();
    b.avail_out = space.size();
    rs_result r = rs_job_iter(job, &b);
    if (r != RS_DONE && r != RS_BLOCKED) return rs_failed(what, r);
    std::size_t made = space.size() - b.avail_out;
    if (made != 0) SOMFS_TRY(out(std::string_view(space.data(), made)));
    if (r == RS_DONE) return true;
    if (b.avail_in == 0 && b.avail_out != 0 && !eof) return false;
    if (b.avail_in == 0 && made == 0 && eof) return fail(Exit::temporary, what, {}, "it is cut off");
  }
}

std::uint32_t big_endian(std::string_view four) {
  std::uint32_t v = 0;
  for (char c : four) v = v << 8 | static_cast<unsigned char>(c);
  return v;
}

// How many distinct blocks share one weak sum, at worst.
std::size_t worst_chain(std::string_view sums, std::size_t strong_length) {
  std::vector<std::pair<std::uint32_t, std::uint64_t>> all;
  all.reserve(sums.size() / (4 + strong_length));
  for (std::size_t at = 0; at + 4 + strong_length <= sums.size(); at += 4 + strong_length) {
    ByteReader r(sums.substr(at, 4 + strong_length));
    std::uint32_t weak = r.u32();
    all.emplace_back(weak, std::hash<std::string_view>()(r.raw(strong_length)));
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  std::size_t worst = 0, run = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    run = i != 0 && all[i].first == all[i - 1].first ? run + 1 : 1;
    worst = std::max(worst, run);
  }
  return worst;
}

}  // namespace

std::uint32_t delta_block(std::uint64_t basis_size) {
  constexpr std::uint32_t step = 1024;
  const double size = static_cast<double>(basis_size);
  const double block = std::clamp<double>(std::max(2 * std::sqrt(size), size / static_cast<double>(kMaxBlocks)), 2 * step, kLargestBlock - step);
  return (static_cast<std::uint32_t>(block) + step - 1) / step * step;
}

SignatureShape signature_shape(std::uint64_t basis_size) { return {RS_BLAKE2_SIG_MAGIC, delta_block(basis_size), kStrong}; }

Status make_signature(const SignatureShape& shape, const PieceSource& read, const PieceSink& out) {
  Job job(rs_sig_begin(shape.block, shape.strong, static_cast<rs_magic_number>(shape.magic)));
  std::string buffer(kBuffer, '\0');
  while (true) {
    SOMFS_TRY_ASSIGN(std::size_t n, read(buffer.data(), buffer.size()));
    SOMFS_TRY(drive(job.get(), {buffer.data(), n}, n == 0, out, "cannot make a signature"));
    if (n == 0) return {};
  }
}

Status make_signature(const SignatureShape& shape, std::uint64_t size, const RangeSource& read, const PieceSink& out) {
  auto part = [&read](std::uint64_t from, std::uint64_t to) -> PieceSource {
    return [&read, from, to](char* buffer, std::size_t n) mutable -> Result<std::size_t> {
      SOMFS_TRY_ASSIGN(std::size_t got, read(buffer, static_cast<std::size_t>(std::min<std::uint64_t>(n, to - from)), from));
      from += got;
      return got;
    };
  };
  constexpr std::uint64_t end = ~0ull;
  if (size < kTwoThreads) return make_signature(shape, part(0, end), out);
  const std::uint64_t half = (size / 2 + shape.block - 1) / shape.block * shape.block;
  std::string sums;
  Status second;
  {
    std::jthread beside([&] {
      second = make_signature(shape, part(half, end), [&](std::string_view piece) -> Status {
        sums.append(piece);
        return {};
      });
    });
    SOMFS_TRY(make_signature(shape, part(0, half), out));
  }
  SOMFS_TRY(second);
  std::string_view rest = sums;
  rest.remove_prefix(std::min(rest.size(), kSignatureHeader));   // one header for both
  for (; !rest.empty(); rest.remove_prefix(std::min(rest.size(), kBuffer))) SOMFS_TRY(out(rest.substr(0, kBuffer)));
  return {};
}

namespace {

struct SumsFree {
  void operator()(rs_signature_t* sums) const { rs_free_sumset(sums); }
};
using Sums = std::unique_ptr<rs_signature_t, SumsFree>;

Result<Sums> load(std::string_view signature) {
  rs_signature_t* raw = nullptr;
  Job job(rs_loadsig_begin(&raw));
  auto nothing = [](std::string_view) -> Status { return {}; };
  Status driven = [&]() -> Status {
    SOMFS_TRY(drive(job.get(), signature, true, nothing, "cannot load a signature"));
    return {};
  }();
  Sums sums(raw);
  SOMFS_TRY(driven);
  if (rs_result r = rs_build_hash_table(sums.get()); r != RS_DONE) return rs_failed("cannot index a signature", r);
  return sums;
}

// A delta on its way from one thread to another, bounded.
class Handover {
 public:
  Status push(std::string_view piece) {
    Lock l(mutex_);
    while (!abandoned_ && bytes_.size() + piece.size() > kGiveUpAfter) change_.wait(mutex_);
    if (abandoned_) return fail(Exit::interrupted, "the delta is not wanted any more");
    bytes_.append(piece);
    change_.notify_all();
    return {};
  }
  void end() {
    Lock l(mutex_);
    ended_ = true;
    change_.notify_all();
  }
  void abandon() {
    Lock l(mutex_);
    abandoned_ = true;
    change_.notify_all();
  }
  // What came meanwhile; empty: the end.
  std::string take() {
    Lock l(mutex_);
    while (bytes_.empty() && !ended_) change_.wait(mutex_);
    change_.notify_all();
    return std::exchange(bytes_, {});
  }

 private:
  Mutex mutex_;
  CondVar change_;
  std::string bytes_ GUARDED_BY(mutex_);
  bool ended_ GUARDED_BY(mutex_) = false, abandoned_ GUARDED_BY(mutex_) = false;
};

}  // namespace

struct Signature::Impl {
  std::string bytes;
  Sums sums;
};

Signature::Signature() : impl_(std::make_unique<Impl>()) {}
Signature::~Signature() = default;
Signature::Signature(Signature&&) noexcept = default;
Signature& Signature::operator=(Signature&&) noexcept = default;
const std::string& Signature::bytes() const { return impl_->bytes; }

Status Signature::feed(std::string_view piece) {
  if (impl_->bytes.size() + piece.size() > kSignatureHeader + (kMaxBlocks + 1) * (4 + kMostStrong))
    return fail(Exit::temporary, "cannot use a signature", {}, "it is larger than it may be");
  impl_->bytes.append(piece);
  return {};
}

SignatureShape Signature::shape() const {
  std::string_view all = impl_->bytes;
  if (all.size() < kSignatureHeader) return {};
  return {big_endian(all.substr(0, 4)), big_endian(all.substr(4, 4)), big_endian(all.substr(8, 4))};
}

Status Signature::finish() {
  std::string_view all = impl_->bytes;
  const SignatureShape shape = this->shape();
  if (shape.magic != RS_BLAKE2_SIG_MAGIC && shape.magic != RS_RK_BLAKE2_SIG_MAGIC)
    return fail(Exit::temporary, "cannot use a signature", {}, "it is not one");
  if (shape.block < kLeastBlock || shape.block > kLargestBlock || shape.strong < kLeastStrong || shape.strong > kMostStrong ||
      (all.size() - kSignatureHeader) % (4 + shape.strong) != 0)
    return fail(Exit::temporary, "cannot use a signature", {}, "its lengths are not possible");
  if (worst_chain(all.substr(kSignatureHeader), shape.strong) > kWorstChain)
    return fail(Exit::temporary, "cannot use a signature", {}, "its weak sums collide too often");
  SOMFS_TRY_ASSIGN(impl_->sums, load(all));
  return {};
}

Result<bool> make_delta(Signature& signature, const PieceSource& read, const PieceSink& out) {
  Job job(rs_delta_begin(signature.impl_->sums.get()));
  std::string buffer(kBuffer, '\0'), held;
  std::uint64_t in = 0, made = 0;
  bool decided = false;
  auto take = [&](std::string_view piece) -> Status {
    made += piece.size();
    if (decided) return out(piece);
    held.append(piece);
    return {};
  };
  auto release = [&]() -> Status {
    decided = true;
    for (std::string_view rest = held; !rest.empty(); rest.remove_prefix(std::min(rest.size(), kBuffer)))
      SOMFS_TRY(out(rest.substr(0, kBuffer)));
    held = {};
    return {};
  };
  while (true) {
    SOMFS_TRY_ASSIGN(std::size_t n, read(buffer.data(), buffer.size()));
    in += n;
    SOMFS_TRY(drive(job.get(), {buffer.data(), n}, n == 0, take, "cannot make a delta"));
    if (!decided) {
      const bool worth = made < in - in / 16;
      if (n == 0 && !worth) return false;
      if (!worth && in >= kGiveUpAfter) return false;
      if (n == 0 || (in >= (1u << 20) && made < in / 2) || in >= kGiveUpAfter) SOMFS_TRY(release());
    }
    if (n == 0) return true;
  }
}

Result<bool> make_delta(Signature& signature, const PieceSource& front, const PieceSource& back, const PieceSink& out) {
  constexpr std::size_t kDeltaHeader = 4;
  // A search counts in the table it searches: each thread has its own.
  SOMFS_TRY_ASSIGN(Sums sums, load(signature.bytes()));
  Handover second;
  Status compared;
  std::jthread beside([&] {
    compared = [&]() -> Status {
      Job job(rs_delta_begin(sums.get()));
      std::string buffer(kBuffer, '\0');
      for (std::size_t n = 1; n != 0;) {
        SOMFS_TRY_ASSIGN(n, back(buffer.data(), buffer.size()));
        SOMFS_TRY(drive(job.get(), {buffer.data(), n}, n == 0, [&](std::string_view piece) { return second.push(piece); }, "cannot make a delta"));
      }
      return {};
    }();
    second.end();
  });
  // Commands follow one another, wherever they were made: the end command of the first part and the header of the second go.
  std::string held;
  auto first = make_delta(signature, front, [&](std::string_view piece) -> Status {
    held.append(piece);
    SOMFS_TRY(out(std::string_view(held).substr(0, held.size() - 1)));
    held.erase(0, held.size() - 1);
    return {};
  });
  Status joined = [&]() -> Status {
    if (!first) return pass_on(first.error());
    if (!*first) return {};
    std::size_t skip = kDeltaHeader;
    while (true) {
      const std::string bytes = second.take();
      if (bytes.empty()) return {};
      std::string_view rest = bytes;
      const std::size_t gone = std::min(skip, rest.size());
      skip -= gone;
      for (rest.remove_prefix(gone); !rest.empty(); rest.remove_prefix(std::min(rest.size(), kBuffer))) SOMFS_TRY(out(rest.substr(0, kBuffer)));
    }
  }();
  second.abandon();
  beside.join();
  SOMFS_TRY(joined);
  if (!*first) return false;
  SOMFS_TRY(compared);
  return true;
}

struct Patch::Impl {
  Basis basis;
  Job job;
  std::string error;
  bool done = false;

  static rs_result copy(void* self, rs_long_t pos, std::size_t* len, void** buf) {
    auto& i = *static_cast<Impl*>(self);
    auto got = i.basis(static_cast<char*>(*buf), *len, static_cast<std::uint64_t>(pos));
    if (!got) {
      i.error = got.error().line();
      return RS_IO_ERROR;
    }
    if (*got == 0) return RS_INPUT_ENDED;
    *len = *got;
    return RS_DONE;
  }
};

Patch::Patch(Basis basis) : impl_(std::make_unique<Impl>()) {
  impl_->basis = std::move(basis);
  impl_->job.reset(rs_patch_begin(&Impl::copy, impl_.get()));
}
Patch::~Patch() = default;

Status Patch::feed(std::string_view piece, const PieceSink& out) {
  if (piece.empty()) return {};
  if (impl_->done) return fail(Exit::temporary, "cannot apply a delta", {}, "bytes follow its end");
  auto done = drive(impl_->job.get(), piece, false, out, "cannot apply a delta");
  if (!done) {
    if (!impl_->error.empty()) return fail(Exit::temporary, impl_->error);
    return pass_on(done.error());
  }
  impl_->done = *done;
  return {};
}

Status Patch::finish(const PieceSink& out) {
  if (impl_->done) return {};
  SOMFS_TRY(drive(impl_->job.get(), {}, true, out, "cannot apply a delta"));
  return {};
}

}  // namespace somfs::replicator
