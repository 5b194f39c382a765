// SPDX-License-Identifier: Apache-2.0
// Opening: what happened since the journal was last written, and what of it can still be believed.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "common/log.h"
#include "snapshot/journal_impl.h"

namespace somfs::snapshot {
namespace {

constexpr std::int64_t kClockMargin = 2'000'000'000;
constexpr std::size_t kMostSegment = 1u << 30;
// An epoch's number is never used twice, though the end of the last ones may be forgotten by a power loss.
constexpr std::uint64_t kEpochSkip = 1u << 20;

std::optional<std::uint64_t> numbered(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  std::uint64_t n = 0;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), n);
  if (error != std::errc() || end != name.data() + name.size() || n == 0 || (name.front() == '0')) return std::nullopt;
  return n;
}

}  // namespace

struct Journal::Impl::Found {
  std::vector<std::string> names;          // files of the journal
  std::vector<std::uint64_t> segments, pieces;
  bool has_state = false;
};

struct Journal::Impl::Replay {
  struct OfEpoch {
    DirtySet set;
    std::map<ObjectId, Handle> in_flight;  // marked, and no change seen
  };
  std::map<std::uint64_t, OfEpoch> epochs;
  std::uint64_t epoch = 0, seq = 0, segment = 0;  // the highest seen
  std::int64_t last_wall_ns = 0;           // of any record
  std::int64_t intact_wall_ns = 0;         // of the last record before the first tear
  bool torn_inside = false;                // a torn segment that another one follows
  bool torn = false;
  std::string unreadable;                  // why
  std::map<std::uint64_t, std::size_t> used;  // bytes that they hold, of segments that are not torn
  Uuid volume, generation;
};

Status Journal::Impl::look(Found* found) const {
  const int fd = ::openat(dir_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* d = fd < 0 ? nullptr : ::fdopendir(fd);
  if (d == nullptr) return fail_errno("cannot list", "the journal's directory");
  while (const dirent* e = ::readdir(d)) {
    const std::string name = e->d_name;
    if (auto n = numbered(name, "log-")) found->segments.push_back(*n);
    else if (auto p = numbered(name, "epoch-")) found->pieces.push_back(*p);
    else if (name == "state") found->has_state = true;
    else continue;
    found->names.push_back(name);
  }
  ::closedir(d);
  std::sort(found->segments.begin(), found->segments.end());
  std::sort(found->pieces.begin(), found->pieces.end());
  return {};
}

void Journal::Impl::replay(const Found& found, Replay* out) const {
  auto take = [&](const SegmentHeader& header, const ScannedRecord& r) {
    auto& of = out->epochs.try_emplace(header.epoch, Replay::OfEpoch{DirtySet(options_.bounds), {}}).first->second;
    if (r.type == RecordType::mark) {
      MarkBody m;
      if (!decode_mark(r.body, &m)) return false;
      if (m.found) of.set.mark(m.object, &m.handle, m.subtree);
      else of.in_flight[m.object] = m.handle;
    } else if (r.type == RecordType::change) {
      ChangeBody c;
      if (!decode_change(r.body, &c)) return false;
      of.set.add(c.get());
      if (c.change.parent)
        if (auto at = of.in_flight.find(c.change.parent); at != of.in_flight.end()) of.set.learn_handle(at->first, at->second);
      for (const auto& id : {c.change.object, c.change.parent, c.change.old}) of.in_flight.erase(id);
    } else if (r.type == RecordType::everything) {
      of.set.set_volume_whole();
    } else {
      return false;
    }
    out->seq = std::max(out->seq, r.seq);
    out->last_wall_ns = std::max(out->last_wall_ns, r.wall_ns);
    if (!out->torn) out->intact_wall_ns = std::max(out->intact_wall_ns, r.wall_ns);
    return true;
  };
  bool open_end = false;
  for (auto number : found.segments) {
    out->segment = std::max(out->segment, number);
    if (number < state_.log_from) continue;
    auto bytes = read_file(dir_.get(), segment_name(number), kMostSegment);
    if (!bytes) {
      out->unreadable = bytes.error().line();
      return;
    }
    const ScanEnd end = scan_segment(*bytes, take);
    if (end.how != ScanEnd::How::torn && end.how != ScanEnd::How::bad_header) out->used[number] = end.used;
    if (end.how == ScanEnd::How::spare) continue;
    if (open_end) out->torn_inside = out->torn = true;
    open_end = end.how != ScanEnd::How::sealed;
    out->torn |= end.how == ScanEnd::How::torn || end.how == ScanEnd::How::bad_header;
    if (end.how == ScanEnd::How::bad_header) continue;
    out->epoch = std::max(out->epoch, end.header.epoch);
    out->volume = end.header.volume;
    out->generation = end.header.generation;
    if (state_.volume && end.header.volume != state_.volume) out->unreadable = segment_name(number) + " is of another volume";
  }
}

Status Journal::Impl::recover(Found& found, const std::string& fs_id) {
  const std::int64_t now = clock_.wall_ns();
  const Uuid boot = options_.boot ? options_.boot : boot_id();
  std::string broken;
  if (!found.has_state) {
    broken = "its state is missing";
  } else {
    SOMFS_TRY_ASSIGN(const std::string bytes, read_file(dir_.get(), "state", JournalState::kMostBytes));
    if (!JournalState::decode(bytes, &state_)) broken = "its state is corrupt";
  }
  const bool same_boot = state_.boot == boot && boot;
  Replay log;
  replay(found, &log);
  if (broken.empty()) broken = log.unreadable;
  // In the same boot the page cache kept every byte: only the last record may be half written.
  if (broken.empty() && log.torn_inside && (same_boot || state_.clean)) broken = "its log is torn inside";
  if (broken.empty())
    if (Status s = epochs_.load(found.pieces, state_.dropped_up_to); !s) broken = s.error().line();
  epochs_.at_least(state_.next_piece);

  state_.epoch = std::max({state_.epoch, log.epoch, epochs_.last_epoch()});
  state_.seq = std::max(state_.seq, log.seq);
  {
    Lock l(mu_);
    next_segment_ = std::max(state_.log_from, log.segment + 1);
  }
  // Segments are longer than what they hold. On a full disk that is the room for what is written next.
  for (const auto& [number, bytes] : log.used) {
    const Fd segment(::openat(dir_.get(), segment_name(number).c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!segment || ::ftruncate(segment.get(), static_cast<off_t>(bytes)) != 0) log::debug("{} keeps its room", segment_name(number));
  }
  if (!broken.empty()) {
    log::error("the change journal is broken: {}; contents will be compared", broken);
    return start_anew(found, log);
  }
  const std::int64_t last = std::max(state_.wall_ns, log.last_wall_ns);
  if (state_.fs_id != fs_id || now + kClockMargin < last) gap_found_ = Gap::rolled_back;
  else if (state_.clean) gap_found_ = Gap::unmounted;
  else gap_found_ = same_boot ? Gap::killed : Gap::crashed;

  std::int64_t trusted = 0;
  if (gap_found_ == Gap::unmounted) trusted = state_.trusted_until_ns;
  if (gap_found_ == Gap::killed) trusted = last;
  if (gap_found_ == Gap::crashed) trusted = std::max(state_.log_wall_ns, log.intact_wall_ns);
  state_.trusted_until_ns = state_.scan_pending ? std::min(trusted, state_.trusted_until_ns) : trusted;
  // A power loss takes back the end of a history; it does not start another one, for marks and catalog tell what was taken back.
  // A restored disk, a clock that cannot be believed or a lost journal may have forked it.
  if (gap_found_ == Gap::rolled_back) state_.renew_generation();
  state_.scan_pending = gap_found_ != Gap::rolled_back;
  return keep_replayed(log);
}

// The log becomes pieces, so that the running log starts empty.
Status Journal::Impl::keep_replayed(Replay& log) {
  const std::uint64_t before = state_.epoch;
  const bool lost = gap_found_ == Gap::crashed || gap_found_ == Gap::rolled_back;
  if (lost) state_.epoch += kEpochSkip;
  DirtySet suspects(options_.bounds);
  if (lost) {
    SOMFS_TRY_ASSIGN(suspects, epochs_.collect(before < 2 ? 0 : before - 2, before));
  }
  for (auto& [epoch, of] : log.epochs) {
    for (const auto& [id, handle] : of.in_flight)
      if (lost || epoch == before) of.set.mark(id, &handle);
    if (lost) suspects.merge(of.set);
    if (!of.set.empty()) SOMFS_TRY(epochs_.add(epoch, epoch, of.set));
    Lock l(mu_);
    for (const auto& [id, object] : of.set.objects()) recovered_.insert(id);
  }
  if (!lost) return {};
  suspects.suspect_all();
  if (!suspects.empty()) SOMFS_TRY(epochs_.add(state_.epoch, state_.epoch, suspects));
  return {};
}

// What cannot be read is kept for a person to look at; targets and identity are saved where they can be.
Status Journal::Impl::start_anew(const Found& found, const Replay& log) {
  const std::string aside = "broken-" + std::to_string(clock_.wall_ns() / 1'000'000'000);
  if (::mkdirat(dir_.get(), aside.c_str(), 0700) != 0 && errno != EEXIST) return fail_errno("cannot create", aside);
  for (const auto& name : found.names)
    if (::renameat(dir_.get(), name.c_str(), dir_.get(), (aside + "/" + name).c_str()) != 0)
      return fail_errno("cannot set aside", name);
  gap_found_ = Gap::broken;
  epochs_ = Epochs(dir_.get(), options_.bounds);
  if (!state_.volume) state_.volume = log.volume ? log.volume : Uuid::random();
  if (!state_.generation) state_.generation = log.generation;
  state_.renew_generation();
  state_.epoch += kEpochSkip;
  state_.trusted_until_ns = 0;
  state_.scan_pending = false;
  state_.dropped_up_to = state_.epoch - 1;
  return {};
}

Status Journal::Impl::open(const std::string& fs_id) {
  Lock k(keep_mu_);
  Found found;
  SOMFS_TRY(look(&found));
  if (found.names.empty()) {
    state_.volume = Uuid::random();
    state_.generation = Uuid::random();
    state_.trusted_until_ns = clock_.wall_ns();
  } else {
    SOMFS_TRY(recover(found, fs_id));
    complete_from_ = state_.epoch;
    for (auto& [name, t] : state_.targets) {
      t.state.gap = true;
      t.state.content |= gap_found_ == Gap::rolled_back || gap_found_ == Gap::broken;
      t.gap_epoch = state_.epoch;
    }
  }
  state_.fs_id = fs_id;
  state_.boot = options_.boot ? options_.boot : boot_id();
  state_.clean = false;
  state_.log_wall_ns = clock_.wall_ns();
  {
    Lock l(mu_);
    epoch_ = state_.epoch;
    seq_ = state_.seq;
    volume_ = state_.volume;
    generation_ = state_.generation;
    state_.log_from = next_segment_;
  }
  SOMFS_TRY(write_state());
  for (auto n : found.segments) ::unlinkat(dir_.get(), segment_name(n).c_str(), 0);
  {
    Lock l(mu_);
    start_segment(epoch_);
  }
  if (options_.start_flusher) keeper_ = std::jthread([this](std::stop_token stop) { keep(stop); });
  return {};
}

Result<std::unique_ptr<Journal>> Journal::open(int dir_fd, const std::string& fs_id, const Clock& clock, Options options) {
  if (options.segment_bytes < 4096)
    return fail(Exit::configuration, "bad journal segment size", std::to_string(options.segment_bytes));
  Fd dir(::fcntl(dir_fd, F_DUPFD_CLOEXEC, 3));
  if (!dir) return fail_errno("cannot open", "the journal's directory");
  auto impl = std::make_unique<Impl>(std::move(dir), clock, options);
  SOMFS_TRY(impl->open(fs_id));
  return std::unique_ptr<Journal>(new Journal(std::move(impl)));
}

}  // namespace somfs::snapshot
