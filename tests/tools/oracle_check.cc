// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>

#include "common/fd.h"
#include "common/printable.h"
#include "tests/tools/oracle.h"
#include "tests/tools/oracle_plan.h"
#include "tests/tools/tree_walk.h"

namespace somfs::tools {
namespace {

constexpr std::size_t kMostFile = 1 << 20;
// After the last mutation that leaves its number in the tree there may be this many that leave none (removals, or creations that
// a removal undid).
constexpr std::uint64_t kUnseen = 256;

using Files = std::map<std::string, std::string>;

// The greatest number that the files show, in names and in records.
std::uint64_t greatest(const Files& files) {
  std::uint64_t most = 0;
  for (const auto& [path, bytes] : files) {
    most = std::max<std::uint64_t>(most, std::strtoull(path.c_str() + path.rfind('/') + 1, nullptr, 10));
    for (std::size_t i = 0; i + kOracleRecord <= bytes.size(); i += kOracleRecord)
      most = std::max(most, oracle_number(std::string_view(bytes).substr(i, kOracleRecord)));
  }
  return most;
}

Result<Files> read_home(int tree, const std::string& home, const std::vector<std::string>& places) {
  Files files;
  for (const std::string& place : places) {
    Fd dir(openat(tree, (home + place).c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!dir) return fail_errno("cannot open", home + place);
    SOMFS_TRY_ASSIGN(std::vector<std::string> names, names_in(dir.get()));
    for (const std::string& name : names) {
      if (place.empty() && (name == "a" || name == "b" || name == "chat")) continue;
      SOMFS_TRY_ASSIGN(files[home + place + "/" + name], read_file(dir.get(), name, kMostFile));
    }
  }
  return files;
}

std::string describe(const OraclePlan& plan, const Files& seen, const std::string& path) {
  auto is = seen.find(path);
  auto should = plan.files().find(path);
  std::string name = printable(path);
  if (is == seen.end())
    return fmt::format("{} is missing; mutation {} was the last that concerned it", name, plan.last_touch(path));
  if (should == plan.files().end()) return fmt::format("{} should not be there", name);
  const std::string& a = should->second;
  const std::string& b = is->second;
  for (std::size_t i = 0; i < std::max(a.size(), b.size()); i += kOracleRecord) {
    auto want = i < a.size() ? std::string_view(a).substr(i, kOracleRecord) : std::string_view();
    auto have = i < b.size() ? std::string_view(b).substr(i, kOracleRecord) : std::string_view();
    if (want != have)
      return fmt::format("{} at byte {} shows mutation {} where it should show {}", name, i, oracle_number(have),
                         oracle_number(want));
  }
  return name;
}

OracleVerdict check_numbered(const Files& seen, std::uint64_t seed, unsigned processes) {
  OracleVerdict verdict;
  verdict.number = greatest(seen);
  OraclePlan plan(seed, processes);
  while (plan.number() < verdict.number) plan.apply(plan.next());
  // The paths in which the plan's files and the tree's differ; kept up to date as the plan goes on.
  std::set<std::string> differ;
  auto compare = [&](const std::string& path) {
    auto a = plan.files().find(path);
    auto b = seen.find(path);
    bool same = (a == plan.files().end()) == (b == seen.end()) && (b == seen.end() || a->second == b->second);
    if (same)
      differ.erase(path);
    else
      differ.insert(path);
  };
  for (const auto& [path, bytes] : plan.files()) compare(path);
  for (const auto& [path, bytes] : seen) compare(path);
  if (!differ.empty())
    verdict.violation = fmt::format("mutation {} is there, but {}", verdict.number, describe(plan, seen, *differ.begin()));
  for (std::uint64_t i = 0; i < kUnseen && !differ.empty(); ++i) {
    Mutation m = plan.next();
    plan.apply(m);
    compare(m.path);
    if (!m.to.empty()) compare(m.to);
  }
  if (!differ.empty()) return verdict;
  return {true, plan.number(), {}};
}

// Counter i goes to the ring, then to x, then to y.
std::string chatter_violation(const Files& chat, const std::string& home) {
  auto bytes = [&](const char* name) {
    auto it = chat.find(home + "/chat/" + name);
    return it == chat.end() ? std::string() : it->second;
  };
  std::string ring = bytes("ring");
  auto at = [&](std::uint64_t i) {
    std::size_t off = i % kOracleSlots * kOracleRecord;
    return off < ring.size() ? oracle_number(std::string_view(ring).substr(off, kOracleRecord)) : 0;
  };
  std::uint64_t last = 0;
  for (std::uint64_t slot = 0; slot < kOracleSlots; ++slot) last = std::max(last, at(slot));
  for (std::uint64_t i = last; i > 0 && i + kOracleSlots > last; --i)
    if (at(i) != i) return fmt::format("{}/chat/ring shows {} but not {}", home, last, i);
  std::uint64_t x = oracle_number(bytes("x"));
  std::uint64_t y = oracle_number(bytes("y"));
  if (x > last || y > x || last > y + 1) return fmt::format("{}/chat: ring at {}, x at {}, y at {}", home, last, x, y);
  return {};
}

}  // namespace

Result<OracleVerdict> oracle_check(const std::string& dir) {
  Fd tree(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!tree) return fail_errno("cannot open", printable(dir));
  SOMFS_TRY_ASSIGN(std::string head, read_file(tree.get(), "oracle", 100));
  std::istringstream words(head);
  std::uint64_t seed = 0;
  unsigned processes = 0;
  if (!(words >> seed >> processes) || processes == 0 || processes > 64)
    return fail(Exit::usage, "not a tree of the oracle", printable(dir));
  Files numbered;
  std::string chatter;
  for (unsigned p = 0; p < processes; ++p) {
    SOMFS_TRY_ASSIGN(Files files, read_home(tree.get(), oracle_home(p), {"", "/a", "/b"}));
    numbered.merge(files);
    SOMFS_TRY_ASSIGN(Files chat, read_home(tree.get(), oracle_home(p), {"/chat"}));
    if (chatter.empty()) chatter = chatter_violation(chat, oracle_home(p));
  }
  OracleVerdict verdict = check_numbered(numbered, seed, processes);
  if (verdict.one_instant && !chatter.empty()) verdict = {false, verdict.number, chatter};
  return verdict;
}

}  // namespace somfs::tools
