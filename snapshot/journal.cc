// SPDX-License-Identifier: Apache-2.0
#include "snapshot/journal.h"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>

#include "common/log.h"
#include "common/printable.h"
#include "snapshot/journal_impl.h"

namespace somfs::snapshot {

Journal::Journal(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Journal::~Journal() = default;

Journal::Impl::~Impl() {
  keeper_.request_stop();
  if (keeper_.joinable()) keeper_.join();
}

// ---- appending

bool Journal::Impl::start_segment(std::uint64_t epoch) {
  std::shared_ptr<Segment> next = std::move(spare_);
  spare_ = nullptr;
  if (next == nullptr) {
    auto made = Segment::create(dir_.get(), next_segment_, options_.segment_bytes);
    if (!made) {
      lose_log(made.error().line());
      return false;
    }
    next = *made;
    ++next_segment_;
    names_dirty_ = true;
  }
  if (current_ != nullptr) {
    current_->seal(seq_, clock_.wall_ns());
    unsynced_.push_back(current_);
  }
  next->begin({next->number(), epoch, volume_, generation_});
  appended_ += Segment::kHeader;
  current_ = std::move(next);
  return true;
}

void Journal::Impl::lose_log(const std::string& why) {
  if (current_ != nullptr) {
    current_->seal(seq_, clock_.wall_ns());
    unsynced_.push_back(std::move(current_));
    current_ = nullptr;
  }
  gap_wanted_ = true;
  if (trouble_.empty()) log::error("the change journal goes on in memory: {}", why);
  trouble_ = why;
}

void Journal::Impl::append(RecordType type, std::string_view body) {
  if (current_ == nullptr) return;
  if (!current_->fits(body.size()) && !start_segment(epoch_)) return;
  const std::size_t taken = current_->append(type, seq_, clock_.wall_ns(), body);
  appended_ += taken;
  log_size_ += taken;
  counts_.appended_bytes += taken;
}

void Journal::Impl::everything() {
  all_marked_ = true;
  marks_.clear();
  in_flight_.clear();
  dirty_.set_volume_whole();
  append(RecordType::everything, {});
  last_mark_ = appended_.load();
}

void Journal::Impl::mark(const ObjectId& object, const Handle* handle) {
  if (all_marked_) return;
  auto [at, fresh] = marks_.try_emplace(object);
  if (!fresh) return;
  if (handle != nullptr) at->second = *handle;
  in_flight_.insert(object);
  ++counts_.marks;
  scratch_.clear();
  encode_mark(scratch_, object, handle, false, false);
  append(RecordType::mark, scratch_);
  last_mark_ = appended_.load();
  constexpr std::size_t kMarkCost = 160;
  if (marks_.size() > options_.bounds.bytes / kMarkCost) everything();
}

void Journal::intend(const ObjectId& object, const Handle* handle, Promise promise) noexcept {
  {
    Lock l(impl_->mu_);
    impl_->mark(object, handle);
  }
  if (promise == Promise::now) make_marks_durable();
}

void Journal::accept(const Change& change, std::span<const std::byte>) noexcept {
  if (impl_->take_in(change) && impl_->options_.on_first_change) impl_->options_.on_first_change();
}

bool Journal::Impl::take_in(const Change& change) {
  Lock l(mu_);
  ++seq_;
  const bool first = changes_++ == 0;
  if (first) note_first_change();
  if (!in_flight_.empty()) {
    in_flight_.erase(change.object);
    if (change.parent) in_flight_.erase(change.parent);
    if (change.old) in_flight_.erase(change.old);
  }
  const bool was_whole = dirty_.volume_whole();
  if (!dirty_.add(change)) return first;  // a record would tell nothing new
  if (change.parent && dirty_.needs_handle(change.parent))
    if (auto at = marks_.find(change.parent); at != marks_.end()) dirty_.learn_handle(change.parent, at->second);
  degraded_ |= dirty_.degraded();
  if (dirty_.volume_whole() && !was_whole) {
    everything();
    return first;
  }
  scratch_.clear();
  encode_change(scratch_, change);
  append(RecordType::change, scratch_);
  return first;
}

void Journal::Impl::note_first_change() {
  constexpr std::size_t kMost = 4096;
  first_changes_.push_back({epoch_, clock_.wall_ns()});
  if (first_changes_.size() <= kMost) return;
  // The oldest two become one that says too much rather than too little.
  first_changes_[1].wall_ns = first_changes_[0].wall_ns;
  first_changes_.pop_front();
}

std::int64_t Journal::changed_since_ns(std::uint64_t epoch) const {
  const Impl& j = *impl_;
  Lock l(j.mu_);
  auto at = std::partition_point(j.first_changes_.begin(), j.first_changes_.end(),
                                 [&](const Impl::FirstChange& f) { return f.epoch <= epoch; });
  return at == j.first_changes_.end() ? 0 : at->wall_ns;
}

void Journal::found(const ObjectId& object, const Handle* handle, bool subtree) noexcept {
  Impl& j = *impl_;
  Lock l(j.mu_);
  const bool was_whole = j.dirty_.volume_whole();
  j.dirty_.mark(object, handle, subtree);
  j.degraded_ |= j.dirty_.degraded();
  if (j.dirty_.volume_whole() && !was_whole) return j.everything();
  j.scratch_.clear();
  encode_mark(j.scratch_, object, handle, true, subtree);
  j.append(RecordType::mark, j.scratch_);
  j.last_mark_ = j.appended_.load();
}

// ---- durability

int Journal::Impl::sync_files(const std::vector<std::shared_ptr<Segment>>& files, bool names) {
  for (const auto& f : files)
    if (int e = f->sync(); e != 0) return e;
  return names && ::fsync(dir_.get()) != 0 ? errno : 0;
}

void Journal::Impl::make_durable(std::uint64_t position) {
  if (durable_.load() >= position) return;
  std::vector<std::shared_ptr<Segment>> files;
  bool names = false;
  std::uint64_t reached = 0;
  {
    Lock l(mu_);
    while (syncing_ && durable_.load() < position) synced_.wait(mu_);
    if (durable_.load() >= position) return;
    syncing_ = true;
    files = std::move(unsynced_);
    unsynced_.clear();
    if (current_ != nullptr) files.push_back(current_);
    names = names_dirty_;
    names_dirty_ = false;
    reached = appended_.load();
  }
  const int e = sync_files(files, names);
  Lock l(mu_);
  ++counts_.syncs;
  // After a failed sync nobody knows what is on the disk: this log is not gone on with.
  if (e != 0) lose_log(Error{Exit::temporary, e, "cannot sync the journal", {}, {}, {}}.line());
  durable_ = std::max(durable_.load(), reached);
  syncing_ = false;
  synced_.notify_all();
}

void Journal::make_marks_durable() noexcept { impl_->make_durable(impl_->last_mark_.load()); }

// ---- epochs

void Journal::Impl::hand_over(bool epoch_ends) {
  Finished f;
  f.first = f.last = epoch_;
  f.set = std::exchange(dirty_, DirtySet(options_.bounds));
  if (epoch_ends) {
    // Nothing is in flight at a cut: a mark without a change is of a call that failed.
    f.marks = std::move(marks_);
    marks_ = {};
    in_flight_.clear();
    all_marked_ = false;
    changes_ = 0;
    ++epoch_;
  } else {
    f.in_flight = in_flight_;
  }
  if (current_ != nullptr) start_segment(epoch_);
  f.log_from = current_ != nullptr ? current_->number() : 0;
  f.wall_ns = clock_.wall_ns();
  if (all_marked_) dirty_.set_volume_whole();
  log_size_ = 0;
  // While the disk takes nothing, the list stays short. Its front may be in writing.
  constexpr std::size_t kMostFinished = 16;
  if (finished_.size() < kMostFinished) {
    finished_.push_back(std::move(f));
    return;
  }
  Finished& back = finished_.back();
  back.set.merge(f.set);
  back.last = f.last;
  back.in_flight.merge(f.in_flight);
  back.log_from = f.log_from;
  back.wall_ns = f.wall_ns;
}

std::uint64_t Journal::rotate() noexcept {
  Lock l(impl_->mu_);
  impl_->hand_over(true);
  return impl_->epoch_ - 1;
}

Status Journal::Impl::settle() {
  if (closed_) return {};
  for (;;) {
    // Only the holder of keep_mu_ takes from the front or looks into it, so it stays as it is while it is written.
    Finished* f = nullptr;
    {
      Lock l(mu_);
      if (finished_.empty()) break;
      f = &finished_.front();
    }
    for (const auto& id : f->in_flight)
      if (!f->set.objects().contains(id)) f->set.mark(id, nullptr);
    if (!f->set.empty()) SOMFS_TRY(epochs_.add(f->first, f->last, f->set));
    const std::uint64_t from = state_.log_from;
    if (f->log_from != 0) {
      state_.log_from = f->log_from;
      state_.log_wall_ns = f->wall_ns;
    }
    SOMFS_TRY(write_state());
    for (std::uint64_t n = from; n < state_.log_from; ++n) ::unlinkat(dir_.get(), segment_name(n).c_str(), 0);
    Finished done;
    {
      Lock l(mu_);
      done = std::move(finished_.front());
      finished_.pop_front();
    }
  }
  std::set<std::uint64_t> acked;
  for (const auto& [name, t] : state_.targets) acked.insert(t.state.acked_epoch);
  std::uint64_t running = 0;
  {
    Lock l(mu_);
    running = epoch_;
  }
  return epochs_.merge_some(acked, running - 1);
}

Status Journal::Impl::write_state() {
  {
    Lock l(mu_);
    state_.epoch = epoch_;
    state_.seq = seq_;
  }
  state_.wall_ns = clock_.wall_ns();
  state_.next_piece = epochs_.next();
  return replace_file(dir_.get(), "state", state_.encode());
}

// The last finished epoch stays whoever has it: its objects are suspects after a power loss until they were quiet for one epoch.
void Journal::Impl::drop_acknowledged() {
  if (state_.targets.empty()) return;
  std::uint64_t up_to = ~0ull;
  for (const auto& [name, t] : state_.targets) up_to = std::min(up_to, t.state.acked_epoch);
  {
    Lock l(mu_);
    up_to = std::min(up_to, epoch_ < 2 ? 0 : epoch_ - 2);
  }
  state_.dropped_up_to = std::max(state_.dropped_up_to, up_to);
}

Status Journal::Impl::tend() {
  std::uint64_t all = 0;
  bool lost = false, room_wanted = false;
  std::uint64_t spare_number = 0;
  {
    Lock l(mu_);
    all = appended_.load();
    lost = current_ == nullptr;
    if (log_size_ > options_.log_bytes) hand_over(false);
    room_wanted = current_ != nullptr && spare_ == nullptr && !making_spare_ && current_->used() > current_->size() / 2;
    if (room_wanted) spare_number = next_segment_++;
    making_spare_ |= room_wanted;
  }
  make_durable(all);
  if (room_wanted) {
    auto made = Segment::create(dir_.get(), spare_number, options_.segment_bytes);
    Lock l(mu_);
    making_spare_ = false;
    // Numbers tell the order: a spare that came too late is of no use.
    if (made && (current_ == nullptr || current_->number() > spare_number)) {
      ::unlinkat(dir_.get(), segment_name(spare_number).c_str(), 0);
    } else if (made) {
      spare_ = *made;
      names_dirty_ = true;
    }
  }
  Lock k(keep_mu_);
  if (closed_) return {};
  bool gap = false;
  {
    Lock l(mu_);
    if (lost && current_ == nullptr && start_segment(epoch_)) {
      // What was marked meanwhile is in no log: every object is marked again at its next touch.
      marks_.clear();
      in_flight_.clear();
      trouble_.clear();
      hand_over(false);
    }
    gap = std::exchange(gap_wanted_, false);
  }
  if (gap) flag_gap(false);
  return settle();
}

void Journal::Impl::keep(std::stop_token stop) {
  std::mutex m;
  std::condition_variable_any wake;
  std::unique_lock l(m);
  while (!wake.wait_for(l, stop, std::chrono::milliseconds(options_.flush_ms), [&] { return stop.stop_requested(); })) {
    if (stop.stop_requested()) break;
    if (Status s = tend(); !s) {
      Lock g(mu_);
      if (trouble_.empty()) log::error("the change journal cannot be compacted: {}", s.error().line());
      trouble_ = s.error().line();
    }
  }
}

Status Journal::flush() { return impl_->tend(); }

Status Journal::close() {
  SOMFS_TRY(impl_->tend());
  Lock k(impl_->keep_mu_);
  {
    Lock l(impl_->mu_);
    impl_->hand_over(false);
  }
  SOMFS_TRY(impl_->settle());
  impl_->state_.clean = true;
  if (!impl_->state_.scan_pending) impl_->state_.trusted_until_ns = impl_->clock_.wall_ns();
  impl_->closed_ = true;
  return impl_->write_state();
}

// ---- what it says of itself

Uuid Journal::volume() const {
  Lock l(impl_->keep_mu_);
  return impl_->state_.volume;
}
Uuid Journal::generation() const {
  Lock l(impl_->keep_mu_);
  return impl_->state_.generation;
}
std::vector<Uuid> Journal::ancestors() const {
  Lock l(impl_->keep_mu_);
  return impl_->state_.ancestors;
}
Gap Journal::gap_found() const { return impl_->gap_found_; }
std::int64_t Journal::trusted_until_ns() const {
  Lock l(impl_->keep_mu_);
  return impl_->state_.trusted_until_ns;
}
std::uint64_t Journal::epoch() const {
  Lock l(impl_->mu_);
  return impl_->epoch_;
}
std::uint64_t Journal::last_seq() const {
  Lock l(impl_->mu_);
  return impl_->seq_;
}
std::uint64_t Journal::changes_in_epoch() const {
  Lock l(impl_->mu_);
  return impl_->changes_;
}

Journal::Stats Journal::stats() const {
  Lock l(impl_->mu_);
  Stats s = impl_->counts_;
  s.dirty_objects = impl_->dirty_.objects().size();
  for (const auto& [dir, names] : impl_->dirty_.names()) s.dirty_names += names.size();
  s.degraded = impl_->degraded_;
  s.trouble = impl_->trouble_;
  return s;
}

// ---- targets

namespace {

// The clean mark is the last thing that is written.
tl::unexpected<Error> ended() {
  return fail(Exit::temporary, "the volume was unmounted before this was noted", {}, {}, "mount it and run it again: nothing is sent twice");
}

}  // namespace

Result<TargetState> Journal::target(const std::string& target) const {
  Lock l(impl_->keep_mu_);
  auto at = impl_->state_.targets.find(target);
  if (at == impl_->state_.targets.end())
    return fail(Exit::not_allowed, "unknown target", printable(target), "nothing was migrated to it from here");
  return at->second.state;
}

std::vector<TargetState> Journal::targets() const {
  Lock l(impl_->keep_mu_);
  std::vector<TargetState> out;
  for (const auto& [name, t] : impl_->state_.targets) out.push_back(t.state);
  return out;
}

std::optional<DirtySet> Journal::dirty_since(std::uint64_t acked_epoch, std::uint64_t up_to) const {
  Lock l(impl_->keep_mu_);
  for (const auto& [name, t] : impl_->state_.targets)
    if (t.state.gap && t.gap_epoch > acked_epoch) return std::nullopt;
  if (acked_epoch < std::max(impl_->state_.dropped_up_to, impl_->complete_from_) || !impl_->settle()) return std::nullopt;
  auto set = impl_->epochs_.collect(acked_epoch, up_to);
  if (!set) {
    log::error("{}", set.error().line());
    return std::nullopt;
  }
  return *set;
}

DirtySet Journal::known_since(std::uint64_t acked_epoch, std::uint64_t up_to) const {
  Lock l(impl_->keep_mu_);
  DirtySet everything;
  everything.set_volume_whole();
  if (acked_epoch < impl_->state_.dropped_up_to || !impl_->settle()) return everything;
  auto set = impl_->epochs_.collect(acked_epoch, up_to);
  if (set) return *set;
  log::error("{}", set.error().line());
  return everything;
}

Status Journal::acknowledge(const std::string& target, const Uuid& mirror, std::uint64_t epoch, std::int64_t cut_ns, const std::string& root) {
  Lock l(impl_->keep_mu_);
  if (impl_->closed_) return ended();
  if (target.empty() || target.size() > JournalState::kMostName)
    return fail(Exit::usage, "not a target", printable(target), "its name is empty or too long");
  auto& targets = impl_->state_.targets;
  if (!targets.contains(target) && targets.size() >= JournalState::kMostTargets)
    return fail(Exit::configuration, "too many targets", printable(target), {}, "forget one first");
  SOMFS_TRY(impl_->settle());  // the epoch's end is durable before anyone relies on its number
  KnownTarget& t = targets[target];
  t.state.target = target;
  t.state.mirror = mirror;
  if (epoch > t.state.acked_epoch || (epoch == t.state.acked_epoch && cut_ns != 0)) t.state.acked_cut_ns = cut_ns;
  if (epoch > t.state.acked_epoch || (epoch == t.state.acked_epoch && !root.empty())) t.state.root = root.size() == JournalState::kRoot ? root : std::string();
  t.state.acked_epoch = std::max(t.state.acked_epoch, epoch);
  if (epoch >= t.gap_epoch) t.state.gap = t.state.content = false;
  impl_->drop_acknowledged();
  SOMFS_TRY(impl_->write_state());
  impl_->epochs_.drop(impl_->state_.dropped_up_to);
  return {};
}

Status Journal::forget(const std::string& target) {
  Lock l(impl_->keep_mu_);
  if (impl_->closed_) return ended();
  if (impl_->state_.targets.erase(target) == 0) return fail(Exit::not_allowed, "unknown target", printable(target));
  impl_->drop_acknowledged();
  SOMFS_TRY(impl_->write_state());
  impl_->epochs_.drop(impl_->state_.dropped_up_to);
  return {};
}

// ---- gaps

void Journal::Impl::flag_gap(bool content) {
  std::uint64_t now = 0;
  {
    Lock l(mu_);
    now = epoch_;
  }
  for (auto& [name, t] : state_.targets) {
    t.state.gap = true;
    t.state.content |= content;
    t.gap_epoch = now;
  }
  if (Status s = write_state(); !s) {
    Lock l(mu_);
    gap_wanted_ = true;  // again at the next round
    trouble_ = s.error().line();
  }
}

void Journal::flag_gap(bool content) noexcept {
  Lock l(impl_->keep_mu_);
  if (impl_->closed_) return;  // the next start is a gap for every target anyway
  impl_->flag_gap(content);
}

Status Journal::flag_gap_of(const std::string& target) {
  Lock l(impl_->keep_mu_);
  if (impl_->closed_) return ended();
  auto& targets = impl_->state_.targets;
  if (target.empty() || target.size() > JournalState::kMostName) return fail(Exit::usage, "not a target", printable(target), "its name is empty or too long");
  if (!targets.contains(target) && targets.size() >= JournalState::kMostTargets)
    return fail(Exit::configuration, "too many targets", printable(target), {}, "forget one first");
  KnownTarget& t = targets[target];
  t.state.target = target;
  t.state.gap = true;
  {
    Lock g(impl_->mu_);
    t.gap_epoch = impl_->epoch_;
  }
  return impl_->write_state();
}

Status Journal::finish_gap_scan() {
  impl_->make_durable(impl_->last_mark_.load());
  Lock k(impl_->keep_mu_);
  impl_->state_.scan_pending = false;
  {
    Lock l(impl_->mu_);
    impl_->recovered_.clear();
  }
  return impl_->write_state();
}

bool Journal::gap_scan_wanted() const {
  Lock l(impl_->keep_mu_);
  return impl_->state_.scan_pending;
}

bool Journal::explains(const ObjectId& object) const {
  Lock l(impl_->mu_);
  return impl_->marks_.contains(object) || impl_->recovered_.contains(object);
}

}  // namespace somfs::snapshot
