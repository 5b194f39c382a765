// SPDX-License-Identifier: Apache-2.0
// How 32 bytes stand in a line of text: a prefix that says what they are, base64 (RFC 4648, section 4) of the bytes and of a checksum over
// prefix and bytes. 48 characters of base64, so never padding. Read strictly: one text for one value.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace somfs::replicator {

std::string coded_text(std::string_view prefix, std::string_view bytes32);
// False: not this kind, not whole, or mistyped. `bytes32` may hold a secret: who calls wipes it.
bool read_coded_text(std::string_view prefix, std::string_view text, std::string& bytes32);

std::string base32(std::string_view bytes, std::size_t characters);   // RFC 4648, section 6; cut, never padded
std::string hex(std::string_view bytes);
std::optional<std::string> from_hex(std::string_view text);           // lower case

}  // namespace somfs::replicator
