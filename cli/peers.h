// SPDX-License-Identifier: Apache-2.0
// This host's key and the mirrors it trusts, for targets on the network. They lie in $SOMFS_CONFIG_DIR, else for root in /etc/somfs,
// else in $XDG_CONFIG_HOME/somfs or ~/.config/somfs:
//   key       the private key (docs/formats/channel.md, "Keys")
//   mirrors   one line for each mirror: HOST:PORT and its public key
#pragma once

#include <string>

#include "common/result.h"
#include "replicator/crypto.h"
#include "replicator/dial.h"

namespace somfs::cli {

std::string keys_directory();

// Made once; an existing one is left alone and is Exit::usage.
Result<replicator::PublicKey> make_own_key();
// Exit::not_allowed where there is none.
Result<replicator::Secret> own_key();
Result<replicator::PublicKey> key_of_mirror(const replicator::Address& mirror);
Status remember_mirror(const replicator::Address& mirror, const replicator::PublicKey& key);

}  // namespace somfs::cli
