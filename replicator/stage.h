// SPDX-License-Identifier: Apache-2.0
// The named steps a group passes on its way to the mirror, and who owns each: the source's side, then the mirror's, then apply, which
// happens after the acknowledgement. (ACP-2; `transfer` is the time the group takes to arrive, which ACP-6 counts for the backup.)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace somfs::replicator {

enum class Stage : std::uint8_t { group, compress, encrypt, send, transfer, decrypt, decompress, write, acknowledge, apply };
inline constexpr std::size_t kStages = 10;
inline constexpr std::size_t kFirstOfBackup = static_cast<std::size_t>(Stage::transfer);

using StageBytes = std::array<std::uint64_t, kStages>;   // what of one group went into each; 0 where nothing did
using StageTimes = std::array<double, kStages>;   // seconds that one group took, 0 where nothing was done

// Which stages share a thread: equal numbers run one after another, and their times add. A lane never spans both sites.
using Lanes = std::array<std::uint8_t, kStages>;
inline constexpr Lanes kSerialLanes{0, 0, 0, 0, 1, 1, 1, 1, 1, 2};
inline constexpr Lanes kFineLanes{0, 0, 1, 1, 2, 2, 2, 3, 3, 4};

inline const char* name_of(Stage stage) {
  constexpr std::array<const char*, kStages> names{"group",   "compress",   "encrypt", "send",        "transfer",
                                                   "decrypt", "decompress", "write",   "acknowledge", "apply"};
  return names[static_cast<std::size_t>(stage)];
}

}  // namespace somfs::replicator
