// SPDX-License-Identifier: Apache-2.0
#include "cli/source_watch.h"

#include <algorithm>
#include <utility>

#include "common/printable.h"
#include "replicator/allow_list.h"

namespace somfs::cli {
namespace {

constexpr SourceState kStates[] = {SourceState::unwatched, SourceState::alive,   SourceState::suspect,  SourceState::lost,
                                   SourceState::paused,    SourceState::stopped, SourceState::unmounted};

}  // namespace

const char* name_of(SourceState state) {
  switch (state) {
    case SourceState::unwatched: return "UNWATCHED";
    case SourceState::alive: return "ALIVE";
    case SourceState::suspect: return "SUSPECT";
    case SourceState::lost: return "LOST";
    case SourceState::paused: return "PAUSED";
    case SourceState::stopped: return "STOPPED";
    case SourceState::unmounted: return "UNMOUNTED";
  }
  return "";
}

void SourceWatch::become(const std::string& volume, Source& source, SourceState state) {
  if (source.state == state) return;
  const double silent = silent_s(source);
  const SourceState before = std::exchange(source.state, state);
  changes_.push_back({volume, before, state, silent, source});
}

void SourceWatch::arrived(const std::string& volume, bool replicates, std::string_view host) {
  Source& source = sources_[volume];
  ++source.conversations;
  source.host = printable(host.substr(0, 255));
  heard(volume, replicates);
}

void SourceWatch::listens(const std::string& volume) {
  Source& source = sources_[volume];
  --source.at_work;
  source.silent_since = clock_.mono_ns();
}

void SourceWatch::heard(const std::string& volume, bool replicates) {
  Source& source = sources_[volume];
  // Before the silence ends, of which the change tells.
  if (replicates) become(volume, source, SourceState::alive);
  ++source.at_work;
  source.heard_ns = clock_.wall_ns();
  source.silent_since = clock_.mono_ns();
}

void SourceWatch::said_goodbye(const std::string& volume, std::string_view how) {
  Source& source = sources_[volume];
  if (how == "paused") become(volume, source, SourceState::paused);
  else if (how == "stopped") become(volume, source, SourceState::stopped);
  else if (how == "unmounted") become(volume, source, SourceState::unmounted);
}

void SourceWatch::gone(const std::string& volume, bool at_work) {
  Source& source = sources_[volume];
  if (at_work) listens(volume);
  --source.conversations;
}

std::vector<SourceWatch::Change> SourceWatch::look() {
  for (auto& [volume, source] : sources_) {
    const double silent = silent_s(source);
    const bool alive = source.state == SourceState::alive;
    if ((alive || source.state == SourceState::suspect) && silent >= silence_.lost_s) become(volume, source, SourceState::lost);
    else if (alive && silent >= silence_.suspect_s) become(volume, source, SourceState::suspect);
  }
  return std::exchange(changes_, {});
}

double SourceWatch::silent_s(const Source& source) const {
  return source.at_work != 0 ? 0 : static_cast<double>(clock_.mono_ns() - source.silent_since) / 1e9;
}

nlohmann::json SourceWatch::encode() const {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& [volume, s] : sources_)
    list.push_back({{"volume", volume}, {"state", name_of(s.state)}, {"heard", s.heard_ns <= 0 ? nlohmann::json(nullptr) : nlohmann::json(static_cast<std::uint64_t>(s.heard_ns) / 1'000'000'000)},
                    {"connected", s.conversations != 0}, {"host", s.host}});
  return list;
}

bool SourceWatch::restore(const nlohmann::json& kept, const std::function<bool(const std::string& volume)>& keep) {
  if (!kept.is_array()) return false;
  std::map<std::string, Source> restored;
  for (const auto& one : kept) {
    const auto text = [&](const char* key) { return one.is_object() && one.contains(key) && one[key].is_string() ? one[key].get<std::string>() : std::string(); };
    const std::string volume = text("volume"), state = text("state");
    const auto known = std::find_if(std::begin(kStates), std::end(kStates), [&](SourceState s) { return state == name_of(s); });
    if (!replicator::volume_name_ok(volume) || known == std::end(kStates)) return false;
    if (!keep(volume)) continue;
    Source source;
    source.state = *known;
    source.host = text("host");
    if (one.contains("heard") && one["heard"].is_number_unsigned())
      source.heard_ns = static_cast<std::int64_t>(std::min<std::uint64_t>(one["heard"].get<std::uint64_t>(), 1ull << 33)) * 1'000'000'000;
    source.silent_since = clock_.mono_ns();
    restored.emplace(volume, std::move(source));
  }
  sources_ = std::move(restored);
  return true;
}

}  // namespace somfs::cli
