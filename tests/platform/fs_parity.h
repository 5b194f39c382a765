// SPDX-License-Identifier: Apache-2.0
// Random POSIX operations from a seed, carried out beneath any directory: the same seed makes the same calls with the same
// names, so two directories can be compared call by call and afterwards entry by entry.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace somfs::fs::test {

// One call and what came of it: what the application sees, without inode numbers and clocks.
struct Outcome {
  std::string call;
  std::string result;
  bool operator==(const Outcome&) const = default;
};

struct ParityOptions {
  unsigned seed = 1;
  unsigned calls = 400;
  bool other_users = true;  // needs root: every call is made by root or by one of two users
  bool read_write = true;   // some files are opened for reading and writing; else only for one of them
};

// Runs beneath `root`, which exists and is empty.
std::vector<Outcome> run_random_calls(const std::string& root, const ParityOptions& options);

// The whole tree, one line per entry: kind, mode, owner, links, size, target, extended attributes, data and the times that were
// set.
std::vector<std::string> describe_tree(const std::string& root);

}  // namespace somfs::fs::test
