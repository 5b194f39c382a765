// SPDX-License-Identifier: Apache-2.0
#include "cli/peers.h"
#include "cli/target.h"
#include "cli/verb.h"
#include "common/printable.h"
#include "replicator/keys.h"
#include "replicator/wire.h"

namespace somfs::cli {
namespace {

constexpr double kSeconds = 20;

Result<Exit> keygen(bool show, Terminal& t) {
  replicator::PublicKey key;
  if (show) {
    SOMFS_TRY_ASSIGN(const replicator::Secret own, own_key());
    key = replicator::public_key(own);
  } else {
    SOMFS_TRY_ASSIGN(key, make_own_key());
  }
  const std::string text = replicator::public_text(key), print = replicator::fingerprint(key);
  t.result({{"schema", 1}, {"public_key", text}, {"fingerprint", print}}, text + "\nfingerprint " + print + "\n");
  return Exit::done;
}

// By a code that the mirror printed: it then knows this host's key, and this host the mirror's.
Result<replicator::PublicKey> pair_by_code(const replicator::Address& address, const std::string& text) {
  SOMFS_TRY_ASSIGN(replicator::PairingCode code, replicator::PairingCode::parse(text));
  if (auto own = own_key(); !own && own.error().exit == Exit::not_allowed) SOMFS_TRY(make_own_key());
  SOMFS_TRY_ASSIGN(replicator::Secret own, own_key());
  const auto patience = replicator::Patience::for_seconds(kSeconds);
  SOMFS_TRY_ASSIGN(Fd socket, replicator::connect_to(address, patience));
  SOMFS_TRY_ASSIGN(auto channel, replicator::pair_channel(socket.get(), std::move(own), std::move(code), patience));
  const replicator::PublicKey mirror = channel->peer;
  auto transport = replicator::make_sealed_stream(socket.release(), std::move(channel));
  // Its first frame says that the code was accepted and this host's key written down.
  auto answer = transport->receive();
  if (!answer && answer.error().exit == Exit::link_down && answer.error().sys == 0)
    return fail(Exit::not_allowed, "the mirror refuses the code", {}, "it is used up, too old, or not this mirror's", "ask for another one");
  if (!answer) return pass_on(answer.error());
  if (answer->type != replicator::MessageType::bye) return fail(Exit::temporary, "the mirror answers out of turn");
  return mirror;
}

Result<Exit> pair(const std::string& target_text, const std::string& code, const std::string& key, Terminal& t) {
  SOMFS_TRY_ASSIGN(const Target target, parse_target(target_text));
  if (target.kind != Target::Kind::network)
    return fail(Exit::usage, "cannot pair with", printable(target_text), "only mirrors at somfs://HOST:PORT/VOLUME are paired");
  if (code.empty() == key.empty()) return fail(Exit::usage, "pairing takes the mirror's code, or its public key with --key");
  replicator::PublicKey mirror;
  if (key.empty()) {
    SOMFS_TRY_ASSIGN(mirror, pair_by_code(target.address, code));
  } else {
    SOMFS_TRY_ASSIGN(mirror, replicator::parse_public(key));
    if (auto own = own_key(); !own && own.error().exit == Exit::not_allowed) SOMFS_TRY(make_own_key());
  }
  SOMFS_TRY(remember_mirror(target.address, mirror));
  SOMFS_TRY_ASSIGN(const replicator::Secret own, own_key());
  const replicator::PublicKey ours = replicator::public_key(own);
  std::string text = "paired with " + target.address.text() + ", fingerprint " + replicator::fingerprint(mirror) + "\n";
  if (!key.empty())
    text += "the mirror has to be told this host's key: somfs-mirrord --store DIR --allow " + replicator::public_text(ours) + " --volume " + target.volume + "\n";
  t.result({{"schema", 1}, {"mirror", target.address.text()}, {"mirror_key", replicator::public_text(mirror)},
            {"mirror_fingerprint", replicator::fingerprint(mirror)}, {"public_key", replicator::public_text(ours)}}, text);
  return Exit::done;
}

}  // namespace

void add_pair(Command& app, Run& run) {
  auto show = std::make_shared<bool>(false);
  Command k = app.add_subcommand("keygen", "Make this host's key, by which mirrors on the network know it");
  k.add_flag("--show", *show, "Print the public half of the key there is");
  k.callback([show, &run] { run = [show](Terminal& t) { return keygen(*show, t); }; });

  struct Options {
    std::string target, code, key;
  };
  auto o = std::make_shared<Options>();
  Command p = app.add_subcommand("pair", "Make this host and a mirror on the network known to each other, once");
  p.add_option("TARGET", o->target, "somfs://HOST:PORT/VOLUME").required();
  p.add_option("CODE", o->code, "What somfs-mirrord --invite printed at the mirror");
  p.add_option("--key", o->key, "The mirror's public key instead, carried here by a person; the mirror is then told ours by --allow");
  p.footer("At the mirror: somfs-mirrord --store DIR --invite VOLUME");
  p.callback([o, &run] { run = [o](Terminal& t) { return pair(o->target, o->code, o->key, t); }; });
}

}  // namespace somfs::cli
