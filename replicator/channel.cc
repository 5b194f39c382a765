// SPDX-License-Identifier: Apache-2.0
#include "replicator/channel.h"

#include <algorithm>

#include "common/bytes.h"

namespace somfs::replicator {
namespace {

constexpr std::string_view kName = "somfs-channel", kVersion = "1";
constexpr std::pair<Banner::Word, std::string_view> kWords[] = {
    {Banner::Word::pair, "pair"}, {Banner::Word::link, "link"}, {Banner::Word::mirror, "mirror"}};
constexpr std::size_t kMaxFeatures = 16;

tl::unexpected<Error> stranger(std::string why) { return fail(Exit::peer_version, "cannot talk to the other side", {}, std::move(why)); }

bool feature_ok(std::string_view word) {
  return !word.empty() && std::ranges::all_of(word, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

HandshakeSetup setup(const Pattern& pattern, Role role, Secret own, std::string prologue) {
  HandshakeSetup s;
  s.pattern = pattern;
  s.role = role;
  s.static_key = std::move(own);
  s.prologue = std::move(prologue);
  return s;
}

}  // namespace

std::string Banner::line() const {
  std::string out(kName);
  out.append(" ").append(kVersion).append(" ").append(std::ranges::find(kWords, word, [](const auto& row) { return row.first; })->second);
  for (const std::string& feature : features) out.append(" ").append(feature);
  return out + '\n';
}

std::set<std::string> Banner::own() { return {name_of(Codec::snappy), name_of(Codec::lz4), name_of(Codec::zstd)}; }

Codec readable(const std::set<std::string>& features, Codec wanted) {
  if (wanted == Codec::stored) return wanted;
  for (Codec codec : {wanted, Codec::snappy, Codec::lz4, Codec::zstd})
    if (features.contains(name_of(codec))) return codec;
  return Codec::stored;
}

Result<Banner> Banner::parse(std::string_view line, Role whose) {
  if (line.size() > kMaxLine || !line.ends_with('\n')) return stranger("it does not greet as somfs does");
  line.remove_suffix(1);
  auto word = [&] {
    const std::size_t end = std::min(line.find(' '), line.size());
    std::string_view piece = line.substr(0, end);
    line.remove_prefix(std::min(end + 1, line.size()));
    return piece;
  };
  if (word() != kName) return stranger("it does not greet as somfs does");
  const std::string_view version = word();
  if (version.empty() || !std::ranges::all_of(version, [](char c) { return c >= '0' && c <= '9'; }))
    return stranger("it does not greet as somfs does");
  if (version != kVersion) return stranger("its channel has version " + std::string(version) + ", ours " + std::string(kVersion));
  const auto* row = std::ranges::find(kWords, word(), [](const auto& r) { return r.second; });
  Banner banner;
  banner.features.clear();
  if (row == std::end(kWords) || (row->first == Word::mirror) != (whose == Role::responder))
    return stranger("it does not say what it wants");
  banner.word = row->first;
  while (!line.empty()) {
    const std::string feature(word());
    if (!feature_ok(feature) || banner.features.size() == kMaxFeatures) return stranger("its list of features is malformed");
    banner.features.insert(feature);
  }
  return banner;
}

std::string handshake_frame(std::string_view message) {
  std::string out;
  ByteWriter w(out);
  w.u16(static_cast<std::uint16_t>(message.size()));
  w.raw(message);
  return out;
}

Result<std::size_t> handshake_length(std::string_view two_bytes) {
  ByteReader r(two_bytes);
  const std::size_t n = r.u16();
  if (!r.at_end() || n > kMaxHandshake) return fail(Exit::not_allowed, "refusing the other side's handshake", {}, "a message is too long");
  return n;
}

Channel::Channel(Session session, SealLimits limits)
    : out(session.send.key(), session.hash, limits),
      in(session.receive.key(), session.hash, limits),
      peer(session.remote_static),
      hash(session.hash) {}

Result<Handshake> Handshake::link(Secret own, const PublicKey& mirror, std::string prologue) {
  HandshakeSetup s = setup(kIK, Role::initiator, std::move(own), std::move(prologue));
  s.remote_static = mirror;
  SOMFS_TRY_ASSIGN(HandshakeState state, HandshakeState::start(std::move(s)));
  return Handshake(std::move(state));
}

Result<Handshake> Handshake::pair(Secret own, PairingCode code, std::string prologue) {
  HandshakeSetup s = setup(kXX, Role::initiator, std::move(own), std::move(prologue));
  s.admit = [code](const PublicKey& mirror) { return code.check_mirror(mirror); };
  SOMFS_TRY_ASSIGN(HandshakeState state, HandshakeState::start(std::move(s)));
  Handshake handshake(std::move(state));
  handshake.code_ = std::move(code);
  return handshake;
}

Result<Handshake> Handshake::answer_link(Secret own, std::string prologue, std::function<Status(const PublicKey&)> admit) {
  HandshakeSetup s = setup(kIK, Role::responder, std::move(own), std::move(prologue));
  if (!admit) return fail(Exit::not_allowed, "refusing the other side", {}, "nobody says who may come");
  s.admit = std::move(admit);
  SOMFS_TRY_ASSIGN(HandshakeState state, HandshakeState::start(std::move(s)));
  return Handshake(std::move(state));
}

Result<Handshake> Handshake::answer_pair(Secret own, std::string prologue,
                                         std::function<Status(const PublicKey&, std::string_view)> redeem) {
  if (!redeem) return fail(Exit::not_allowed, "refusing the other side", {}, "nobody says who may come");
  SOMFS_TRY_ASSIGN(HandshakeState state, HandshakeState::start(setup(kXX, Role::responder, std::move(own), std::move(prologue))));
  Handshake handshake(std::move(state));
  handshake.redeem_ = std::move(redeem);
  return handshake;
}

Result<std::string> Handshake::next_message() {
  const bool tell = code_ && state_.remote_static();
  return state_.next_message(tell ? code_->token() : std::string_view());
}

Status Handshake::take_message(std::string_view message) {
  SOMFS_TRY_ASSIGN(std::string payload, state_.take_message(message));
  Status judged;
  if (redeem_ && state_.done()) judged = redeem_(*state_.remote_static(), payload);
  else if (!payload.empty())
    judged = fail(Exit::not_allowed, "refusing the other side's handshake", {}, "it says something before its turn");
  wipe(payload);
  if (!judged) state_.give_up();
  return judged;
}

Result<Session> Handshake::session() {
  code_.reset();
  return state_.finish();
}

Result<std::unique_ptr<Channel>> Handshake::finish() {
  SOMFS_TRY_ASSIGN(Session over, session());
  return std::make_unique<Channel>(std::move(over));
}

}  // namespace somfs::replicator
