// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/oracle_plan.h"

#include <algorithm>
#include <cstdlib>

#include <fmt/format.h>

namespace somfs::tools {
namespace {

constexpr std::size_t kMostFile = 16 << 10;
constexpr std::size_t kMostFiles = 48;

// SplitMix64 (Steele, Lea, Flood 2014): the nth number of a seed without walking there.
std::uint64_t mix(std::uint64_t seed, std::uint64_t n) {
  std::uint64_t z = seed * 0xD1342543DE82EF95ull + n * 0x9E3779B97F4A7C15ull;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ z >> 27) * 0x94D049BB133111EBull;
  return z ^ z >> 31;
}

}  // namespace

std::string oracle_home(unsigned process) { return "p" + std::to_string(process); }

std::string oracle_record(std::uint64_t number, std::uint64_t before) {
  return fmt::format("{:020} {:020} {:021}\n", number, before, mix(number, before));
}

std::uint64_t oracle_number(std::string_view record) {
  if (record.size() != kOracleRecord) return 0;
  std::uint64_t number = std::strtoull(std::string(record.substr(0, 20)).c_str(), nullptr, 10);
  std::uint64_t before = std::strtoull(std::string(record.substr(21, 20)).c_str(), nullptr, 10);
  return record == oracle_record(number, before) ? number : 0;
}

OraclePlan::OraclePlan(std::uint64_t seed, unsigned processes) : seed_(seed), processes_(processes), owned_(processes) {
  for (unsigned p = 0; p < processes; ++p) files_[oracle_home(p) + "/slots"] = std::string(kOracleSlots * kOracleRecord, '\0');
}

Mutation OraclePlan::next() const {
  std::uint64_t dice = mix(seed_, number_ + 1);
  Mutation m;
  m.number = number_ + 1;
  m.process = static_cast<unsigned>((dice >> 32) % processes_);
  std::string home = oracle_home(m.process);
  const auto& owned = owned_[m.process];
  std::string fresh = home + ((dice & 1) != 0 ? "/a/" : "/b/") + std::to_string(m.number);
  std::uint64_t chance = (dice >> 8) % 100;
  if (chance < 20) {
    m.what = Mutation::What::overwrite;
    m.path = home + "/slots";
    m.off = (dice >> 16) % kOracleSlots * kOracleRecord;
  } else if (owned.empty() || chance < 32) {
    m.what = owned.size() < kMostFiles ? Mutation::What::create : Mutation::What::unlink;
  } else if (chance < 44) {
    m.what = Mutation::What::rename;
  } else if (chance < 50) {
    m.what = Mutation::What::unlink;
  } else {
    m.what = Mutation::What::append;
  }
  if (m.what != Mutation::What::overwrite)
    m.path = m.what == Mutation::What::create ? fresh : owned[(dice >> 16) % owned.size()];
  if (m.what == Mutation::What::append && files_.at(m.path).size() >= kMostFile) m.what = Mutation::What::unlink;
  if (m.what == Mutation::What::rename) m.to = fresh;
  if (m.what == Mutation::What::append || m.what == Mutation::What::overwrite)
    m.bytes = oracle_record(m.number, number_);
  return m;
}

void OraclePlan::apply(const Mutation& m) {
  auto& owned = owned_[m.process];
  switch (m.what) {
    case Mutation::What::append: files_[m.path] += m.bytes; break;
    case Mutation::What::overwrite: files_[m.path].replace(m.off, m.bytes.size(), m.bytes); break;
    case Mutation::What::create:
      files_[m.path];
      owned.push_back(m.path);
      break;
    case Mutation::What::rename:
      files_[m.to] = std::move(files_[m.path]);
      files_.erase(m.path);
      *std::find(owned.begin(), owned.end(), m.path) = m.to;
      touched_[m.to] = m.number;
      break;
    case Mutation::What::unlink:
      files_.erase(m.path);
      owned.erase(std::find(owned.begin(), owned.end(), m.path));
      break;
  }
  touched_[m.path] = m.number;
  number_ = m.number;
}

std::uint64_t OraclePlan::last_touch(const std::string& path) const {
  auto it = touched_.find(path);
  return it == touched_.end() ? 0 : it->second;
}

}  // namespace somfs::tools
