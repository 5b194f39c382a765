// SPDX-License-Identifier: Apache-2.0
// Static keys and their texts (docs/formats/channel.md, "Keys"). A private key says in its first word that it is one, so it is never taken
// for a public one. Pure; the files of private keys are in key_file.h.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"
#include "replicator/crypto.h"

namespace somfs::replicator {

struct KeyPair {
  Secret secret;
  PublicKey shared;
  static KeyPair generate();
};

std::string private_text(const Secret& key);               // one line without its end; who calls wipes it
std::string public_text(const PublicKey& key);
Result<Secret> parse_private(std::string_view text);       // the text is never repeated in the error
Result<PublicKey> parse_public(std::string_view text);

// For two people to compare on the telephone: 100 bits of a hash, as ABCD-EFGH-IJKL-MNOP-QRST.
std::string fingerprint(const PublicKey& key);

}  // namespace somfs::replicator
