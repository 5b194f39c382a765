// SPDX-License-Identifier: Apache-2.0
// The plan of the ordered-writer oracle: mutation n is a pure function of seed, number of processes and n, so what a tree must
// look like after exactly n mutations can be computed. Each mutation is one system call.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace somfs::tools {

inline constexpr std::size_t kOracleRecord = 64;
inline constexpr std::size_t kOracleSlots = 64;

struct Mutation {
  enum class What { append, overwrite, create, rename, unlink };
  What what = What::append;
  std::uint64_t number = 0;
  unsigned process = 0;   // whose turn it is
  std::string path;       // relative to the tree
  std::string to;         // rename
  std::uint64_t off = 0;  // overwrite
  std::string bytes;      // append, overwrite: one record, stamped with the number and the one before
};

// The files that the mutations have made so far, and what comes next.
class OraclePlan {
 public:
  OraclePlan(std::uint64_t seed, unsigned processes);

  // The files before mutation 1: made by the writer as preparation.
  const std::map<std::string, std::string>& files() const { return files_; }
  std::uint64_t number() const { return number_; }  // mutations applied
  Mutation next() const;                             // the one that follows
  void apply(const Mutation& mutation);
  // The last mutation that concerned the path, 0 if none: to explain a difference.
  std::uint64_t last_touch(const std::string& path) const;

 private:
  std::uint64_t seed_;
  unsigned processes_;
  std::uint64_t number_ = 0;
  std::map<std::string, std::string> files_;
  std::vector<std::vector<std::string>> owned_;  // per process: files that may be renamed and removed
  std::map<std::string, std::uint64_t> touched_;
};

// Of process p: "p3" and its directories "p3/a", "p3/b" (numbered mutations) and "p3/chat" (chatter).
std::string oracle_home(unsigned process);
std::string oracle_record(std::uint64_t number, std::uint64_t before);
// The number in a record; 0 when these are not 64 bytes of a record.
std::uint64_t oracle_number(std::string_view record);

}  // namespace somfs::tools
