// SPDX-License-Identifier: Apache-2.0
#include "replicator/pairing.h"

#include <algorithm>
#include <charconv>

#include "common/printable.h"
#include "replicator/keys.h"
#include "replicator/text_codes.h"
#include "replicator/wire.h"

namespace somfs::replicator {
namespace {

constexpr std::string_view kCode = "somfs-pair-1:";
constexpr std::size_t kHex = 64;

std::string hash_of_token(std::string_view token) {
  std::string all = "somfs token 1";
  all.reserve(64);
  all += token;
  std::string hash = sha256(all);
  wipe(all);
  return hash;
}

std::string hash_of_mirror(const PublicKey& key) {
  return sha256("somfs mirror 1" + std::string(key.raw())).substr(0, Secret::kSize - PairingCode::kToken);
}

// HASH until=SECONDS GRANT... [# comment]
bool parse_line(std::string_view line, Invitation& out) {
  const std::size_t comment = line.find('#');
  if (comment != std::string_view::npos) {
    out.comment = clean_comment(line.substr(comment + 1));
    line = line.substr(0, comment);
  }
  const auto hash = from_hex(line.substr(0, kHex));
  if (!hash || line.size() < kHex) return false;
  out.token_hash = *hash;
  line.remove_prefix(kHex);
  constexpr std::string_view kUntil = " until=";
  if (!line.starts_with(kUntil)) return false;
  line.remove_prefix(kUntil.size());
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), out.until_s);
  if (error != std::errc() || out.until_s < 0) return false;
  line.remove_prefix(static_cast<std::size_t>(end - line.data()));
  return line.starts_with(' ') && parse_grants(line, out.grants) && !out.grants.empty();
}

}  // namespace

PairingCode PairingCode::make(const PublicKey& mirror) {
  PairingCode code;
  random_bytes(code.bytes_.data(), kToken);
  const std::string id = hash_of_mirror(mirror);
  std::copy(id.begin(), id.end(), code.bytes_.data() + kToken);
  return code;
}

std::string PairingCode::text() const { return coded_text(kCode, bytes_.raw()); }

Result<PairingCode> PairingCode::parse(std::string_view text) {
  std::string bytes;
  if (!read_coded_text(kCode, text, bytes))
    return fail(Exit::usage, "cannot use a pairing code", {}, "it is none, or mistyped", "copy it as the mirror printed it");
  PairingCode code;
  code.bytes_ = Secret(bytes);
  wipe(bytes);
  return code;
}

Status PairingCode::check_mirror(const PublicKey& key) const {
  if (equal_bytes(hash_of_mirror(key), bytes_.raw().substr(kToken))) return {};
  return fail(Exit::not_allowed, "cannot pair", fingerprint(key), "another mirror answers than the one that printed the code",
              "check the address, and whether somebody is listening in between");
}

Result<Invitations> Invitations::parse(std::string_view text, const std::string& name) {
  Invitations out;
  std::size_t number = 0;
  while (!text.empty()) {
    ++number;
    const std::size_t end = std::min(text.find('\n'), text.size());
    Invitation one;
    if (text.size() > kMaxBytes || out.all_.size() >= kMost || !parse_line(text.substr(0, end), one))
      return fail(Exit::configuration, "cannot use the list of pairing codes", printable(name) + ":" + std::to_string(number),
                  "it is damaged", "remove it, and print new codes");
    out.all_.push_back(std::move(one));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

std::string Invitations::text() const {
  std::string out;
  for (const Invitation& one : all_) {
    out.append(hex(one.token_hash)).append(" until=").append(std::to_string(one.until_s)).append(" ").append(grants_text(one.grants));
    if (!one.comment.empty()) out.append(" # ").append(one.comment);
    out += '\n';
  }
  return out;
}

Result<PairingCode> Invitations::issue(const PublicKey& mirror, Grants grants, std::string comment, std::int64_t now_s,
                                       std::int64_t until_s) {
  for (const auto& [volume, rights] : grants)
    if (!volume_name_ok(volume) || rights.none())
      return fail(Exit::usage, "cannot make a pairing code", printable(volume), "this is no name of a volume, or no right is given");
  if (grants.empty() || until_s <= now_s) return fail(Exit::usage, "cannot make a pairing code", {}, "it would grant nothing");
  std::erase_if(all_, [&](const Invitation& one) { return one.until_s <= now_s; });
  if (all_.size() >= kMost) return fail(Exit::not_allowed, "cannot make a pairing code", {}, "too many are waiting to be used");
  PairingCode code = PairingCode::make(mirror);
  all_.push_back({hash_of_token(code.token()), until_s, std::move(grants), clean_comment(comment)});
  return code;
}

Result<Invitation> Invitations::redeem(std::string_view token, std::int64_t now_s) {
  const std::string hash = hash_of_token(token);
  std::size_t found = all_.size();
  for (std::size_t i = 0; i < all_.size(); ++i)
    if (equal_bytes(all_[i].token_hash, hash)) found = i;   // no early end: how long it takes tells nothing
  if (token.size() != PairingCode::kToken || found == all_.size())
    return fail(Exit::not_allowed, "refusing to pair", {}, "the code is unknown, or was used before", "print a new one at the mirror");
  Invitation one = std::move(all_[found]);
  all_.erase(all_.begin() + static_cast<std::ptrdiff_t>(found));
  if (one.until_s <= now_s)
    return fail(Exit::not_allowed, "refusing to pair", {}, "the code came too late", "print a new one at the mirror");
  return one;
}

}  // namespace somfs::replicator
