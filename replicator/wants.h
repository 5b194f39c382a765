// SPDX-License-Identifier: Apache-2.0
// One more word of a hello, beside those of wire.h: whether a relation could be begun. Nothing follows it, and it makes nobody a source that replicates.
#pragma once

namespace somfs::replicator {

inline constexpr const char* kProbe = "probe";

}  // namespace somfs::replicator
