// SPDX-License-Identifier: Apache-2.0
#include "replicator/keys.h"

#include "replicator/text_codes.h"
#include "replicator/wire.h"

namespace somfs::replicator {
namespace {

constexpr std::string_view kPrivate = "somfs-private-1:", kPublic = "somfs-public-1:";
constexpr std::size_t kFingerprint = 20, kGroup = 4;

}  // namespace

KeyPair KeyPair::generate() {
  KeyPair pair;
  pair.secret = Secret::random();
  pair.shared = public_key(pair.secret);
  return pair;
}

std::string private_text(const Secret& key) { return coded_text(kPrivate, key.raw()); }
std::string public_text(const PublicKey& key) { return coded_text(kPublic, key.raw()); }

Result<Secret> parse_private(std::string_view text) {
  std::string bytes;
  if (text.starts_with(kPublic))
    return fail(Exit::configuration, "cannot use a key", {}, "it is a public key, and a private one is needed");
  if (!read_coded_text(kPrivate, text, bytes)) return fail(Exit::configuration, "cannot use a key", {}, "it is no private key, or damaged");
  Secret key(bytes);
  wipe(bytes);
  return key;
}

Result<PublicKey> parse_public(std::string_view text) {
  std::string bytes;
  if (text.starts_with(kPrivate))
    return fail(Exit::configuration, "cannot use a key", {}, "it is a private key: it never leaves its host",
                "make a new one if it was shown to anybody");
  if (!read_coded_text(kPublic, text, bytes)) return fail(Exit::configuration, "cannot use a key", {}, "it is no public key, or mistyped");
  return PublicKey::from_raw(bytes);
}

std::string fingerprint(const PublicKey& key) {
  const std::string letters = base32(sha256("somfs fingerprint 1" + std::string(key.raw())), kFingerprint);
  std::string out;
  for (std::size_t i = 0; i < letters.size(); i += kGroup) {
    if (i != 0) out += '-';
    out += letters.substr(i, kGroup);
  }
  return out;
}

}  // namespace somfs::replicator
