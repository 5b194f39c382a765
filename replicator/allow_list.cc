// SPDX-License-Identifier: Apache-2.0
#include "replicator/allow_list.h"

#include <algorithm>
#include <iterator>

#include "common/printable.h"
#include "replicator/keys.h"
#include "replicator/wants.h"
#include "replicator/wire.h"

namespace somfs::replicator {
namespace {

constexpr std::size_t kMaxName = 64, kMaxComment = 128;
constexpr std::pair<Right, std::string_view> kNames[] = {
    {Right::push, "push"}, {Right::migrate, "migrate"}, {Right::read_back, "read-back"}, {Right::remove, "remove"}, {Right::confirm, "confirm"}};

std::string_view name_of(Right right) {
  return std::ranges::find(kNames, right, [](const auto& row) { return row.first; })->second;
}

// What takes one of which rights; the first is named to whoever has none of them.
struct Demand {
  std::string_view wants, verb;
  std::initializer_list<Right> rights;
};
const Demand kDemands[] = {{kReplicate, "replicate", {Right::push}},
                           {kProbe, "replicate", {Right::push}},
                           {kSync, "bring up to date", {Right::push, Right::migrate}},
                           {kMigrate, "migrate", {Right::migrate}},
                           {kVerify, "verify", {Right::push, Right::migrate, Right::read_back}}};

bool letter_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

// Takes off what comes before the first `end`, and the end itself.
std::string_view cut(std::string_view& rest, char end) {
  const std::size_t at = std::min(rest.find(end), rest.size());
  std::string_view piece = rest.substr(0, at);
  rest.remove_prefix(std::min(at + 1, rest.size()));
  return piece;
}

std::string line_of(const Peer& peer) {
  std::string out = public_text(peer.key);
  if (!peer.grants.empty()) out += ' ' + grants_text(peer.grants);
  if (!peer.comment.empty()) out += " # " + peer.comment;
  return out;
}

Result<Peer> parse_peer(std::string text) {
  std::ranges::replace(text, '\t', ' ');
  std::string_view line = text;
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  Peer peer;
  const std::size_t hash = line.find('#');
  if (hash != std::string_view::npos) {
    peer.comment = clean_comment(line.substr(hash + 1));
    line = line.substr(0, hash);
  }
  SOMFS_TRY_ASSIGN(peer.key, parse_public(cut(line, ' ')));
  if (!parse_grants(line, peer.grants))
    return fail(Exit::configuration, "cannot use a peer", {}, "after its key come grants: VOLUME=push,migrate; also confirm, read-back and remove");
  return peer;
}

}  // namespace

std::string Rights::text() const {
  std::string out;
  for (const auto& [right, name] : kNames)
    if (has(right)) out.append(out.empty() ? "" : ",").append(name);
  return out;
}

std::optional<Rights> Rights::parse(std::string_view text) {
  Rights rights;
  while (!text.empty()) {
    const auto* row = std::ranges::find(kNames, cut(text, ','), [](const auto& r) { return r.second; });
    if (row == std::end(kNames) || rights.has(row->first)) return std::nullopt;
    rights |= row->first;
  }
  if (rights.none()) return std::nullopt;
  return rights;
}

bool volume_name_ok(std::string_view name) {
  auto inner = [](char c) { return letter_or_digit(c) || c == '.' || c == '_' || c == '-'; };
  return !name.empty() && name.size() <= kMaxName && (letter_or_digit(name[0]) || name[0] == '_') && std::ranges::all_of(name, inner);
}

std::string grants_text(const Grants& grants) {
  std::string out;
  for (const auto& [volume, rights] : grants) out.append(out.empty() ? "" : " ").append(volume).append("=").append(rights.text());
  return out;
}

bool parse_grants(std::string_view words, Grants& out) {
  while (!words.empty()) {
    std::string_view word = cut(words, ' ');
    if (word.empty()) continue;
    if (word.find('=') == std::string_view::npos) return false;
    const std::string volume(cut(word, '='));
    const auto rights = Rights::parse(word);
    if (!volume_name_ok(volume) || !rights || !out.emplace(volume, *rights).second) return false;
  }
  return true;
}

std::string clean_comment(std::string_view comment) {
  while (comment.starts_with(' ')) comment.remove_prefix(1);
  std::string out(comment.substr(0, kMaxComment));
  if (printable(out) != out)
    for (char& c : out)
      if (c < ' ' || c > '~' || c == '\\') c = '?';
  while (out.ends_with(' ')) out.pop_back();
  return out;
}

Result<AllowList> AllowList::parse(std::string_view text, const std::string& name) {
  AllowList list;
  std::size_t number = 0;
  auto wrong = [&](std::string why) {
    return fail(Exit::configuration, "cannot use the list of peers", printable(name) + ":" + std::to_string(number), std::move(why));
  };
  if (text.size() > kMaxBytes) return wrong("the file is too large");
  while (!text.empty()) {
    ++number;
    std::string_view line = cut(text, '\n');
    const std::size_t first = std::min(line.find_first_not_of(" \t"), line.size());
    if (first == line.size() || line[first] == '#') {
      list.entries_.push_back({std::string(line), std::nullopt});
      continue;
    }
    auto peer = parse_peer(std::string(line));
    if (!peer) return wrong(peer.error().why);
    if (list.find(peer->key) != nullptr) return wrong("this key stands in the file already");
    if (number > kMaxPeers) return wrong("there are too many lines");
    list.entries_.push_back({{}, std::move(*peer)});
  }
  return list;
}

std::string AllowList::text() const {
  std::string out;
  for (const Entry& e : entries_) out.append(e.peer ? line_of(*e.peer) : e.other).append("\n");
  return out;
}

const Peer* AllowList::find(const PublicKey& key) const {
  for (const Entry& e : entries_)
    if (e.peer && equal_bytes(e.peer->key.raw(), key.raw())) return &*e.peer;
  return nullptr;
}

Status AllowList::known(const PublicKey& key) const {
  if (find(key) != nullptr) return {};
  return fail(Exit::not_allowed, "refusing a peer", fingerprint(key), "it is not paired with this mirror");
}

Status AllowList::allow(const PublicKey& key, std::string_view volume, Right right) const {
  SOMFS_TRY(known(key));
  const Grants& grants = find(key)->grants;
  auto of = grants.find(std::string(volume));
  if (of != grants.end() && of->second.has(right)) return {};
  return fail(Exit::not_allowed, "refusing a peer", fingerprint(key),
              "it has no right to " + std::string(name_of(right)) + " the volume " + printable(volume));
}

Status AllowList::admit(const PublicKey& key, std::string_view volume, std::string_view wants) const {
  SOMFS_TRY(known(key));
  const auto* demand = std::ranges::find(kDemands, wants, &Demand::wants);
  if (demand == std::end(kDemands)) return fail(Exit::not_allowed, "refusing a peer", fingerprint(key), "it wants what is not known here: " + printable(wants));
  if (std::ranges::any_of(demand->rights, [&](Right right) { return allow(key, volume, right).has_value(); })) return {};
  const std::string right(name_of(*demand->rights.begin())), name = printable(volume);
  return fail(Exit::not_allowed, "refusing a peer", fingerprint(key),
              "it may not " + std::string(demand->verb) + " the volume " + name + ", that takes the right " + right,
              "at the mirror: somfs-mirrord --allow KEY --volume " + name + " --rights " + right);
}

Status AllowList::add(const Peer& peer) {
  for (const auto& [volume, rights] : peer.grants)
    if (!volume_name_ok(volume) || rights.none())
      return fail(Exit::usage, "cannot add a peer", printable(volume), "this is no name of a volume, or no right is given");
  auto at = std::ranges::find_if(entries_, [&](const Entry& e) { return e.peer && e.peer->key == peer.key; });
  if (at == entries_.end()) {
    if (entries_.size() >= kMaxPeers) return fail(Exit::not_allowed, "cannot add a peer", fingerprint(peer.key), "there are too many");
    entries_.push_back({{}, Peer{peer.key, peer.grants, clean_comment(peer.comment)}});
    return {};
  }
  for (const auto& [volume, rights] : peer.grants) at->peer->grants[volume] |= rights;
  if (!peer.comment.empty()) at->peer->comment = clean_comment(peer.comment);
  return {};
}

bool AllowList::remove(const PublicKey& key) {
  return std::erase_if(entries_, [&](const Entry& e) { return e.peer && e.peer->key == key; }) != 0;
}

}  // namespace somfs::replicator
