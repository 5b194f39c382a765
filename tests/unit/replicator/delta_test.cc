// SPDX-License-Identifier: Apache-2.0
#include "replicator/delta.h"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <random>

namespace somfs::replicator {
namespace {

std::string noise(std::size_t n, unsigned seed) {
  std::mt19937_64 r(seed);
  std::string s(n, '\0');
  for (char& c : s) c = static_cast<char>(r());
  return s;
}

PieceSource from(std::string_view bytes) {
  return [bytes](char* to, std::size_t n) mutable -> Result<std::size_t> {
    n = std::min(n, bytes.size());
    std::memcpy(to, bytes.data(), n);
    bytes.remove_prefix(n);
    return n;
  };
}

std::string signature_of(std::string_view basis) {
  std::string out;
  auto s = make_signature(signature_shape(basis.size()), from(basis), [&](std::string_view p) -> Status {
    out.append(p);
    return {};
  });
  EXPECT_TRUE(s);
  return out;
}

// The content after a delta and a patch; empty optional: given up.
std::optional<std::string> through(std::string_view basis, std::string_view content, std::size_t* wire = nullptr) {
  Signature sig;
  std::string bytes = signature_of(basis);
  for (std::size_t at = 0; at < bytes.size(); at += 1000) EXPECT_TRUE(sig.feed(std::string_view(bytes).substr(at, 1000)));
  EXPECT_TRUE(sig.finish());
  std::string delta;
  auto made = make_delta(sig, from(content), [&](std::string_view p) -> Status {
    delta.append(p);
    return {};
  });
  EXPECT_TRUE(made) << made.error().line();
  if (!made || !*made) {
    EXPECT_TRUE(delta.empty());
    return std::nullopt;
  }
  if (wire != nullptr) *wire = delta.size();
  std::string out;
  auto sink = [&](std::string_view p) -> Status {
    out.append(p);
    return {};
  };
  Patch patch([&](char* to, std::size_t n, std::uint64_t off) -> Result<std::size_t> {
    if (off > basis.size()) return 0;
    n = std::min(n, basis.size() - off);
    std::memcpy(to, basis.data() + off, n);
    return n;
  });
  for (std::size_t at = 0; at < delta.size(); at += 777) EXPECT_TRUE(patch.feed(std::string_view(delta).substr(at, 777), sink));
  EXPECT_TRUE(patch.finish(sink));
  return out;
}

TEST(Delta, AnInsertionInFrontCostsLittle) {
  std::string basis = noise(3 << 20, 1), content = noise(1000, 2) + basis;
  std::size_t wire = 0;
  EXPECT_EQ(through(basis, content, &wire), content);
  EXPECT_LT(wire, 8000u);
}

TEST(Delta, ContentsOfManyShapes) {
  std::string basis = noise(300000, 3);
  for (const std::string& content :
       {basis, basis.substr(0, 1), basis.substr(1000, 200000), basis + basis, std::string(500000, '\0') + basis, noise(70000, 4) + basis.substr(5)}) {
    auto out = through(basis, content);
    if (out) EXPECT_TRUE(*out == content);
    else EXPECT_EQ(content.size(), 1u);
  }
  std::string zeros(1 << 20, '\0');
  EXPECT_TRUE(through(zeros, zeros + "x") == zeros + "x");
}

TEST(Delta, GivesUpWhenNothingMatches) { EXPECT_EQ(through(noise(100000, 5), noise(kGiveUpAfter + 100000, 6)), std::nullopt); }

TEST(Delta, ALateMatchWithinTheLimitStillCounts) {
  std::string basis = noise(kGiveUpAfter, 7), content = noise(3 << 20, 8) + basis;
  EXPECT_TRUE(through(basis, content) == content);
}

TEST(Delta, BlocksGrowSoThatASignatureStaysBounded) {
  EXPECT_EQ(delta_block(0), 2048u);
  EXPECT_EQ(delta_block(1u << 20), 2048u);
  // A signature and one block of literals cost about the least there: for 200 MB less than 200 KB.
  EXPECT_LT((200'000'000 / delta_block(200'000'000) + 1) * 20 + delta_block(200'000'000), 200'000u);
  for (std::uint64_t size = 1; size < (1ull << 45); size *= 2) EXPECT_LE(size / delta_block(size), kMaxBlocks);
}

TEST(Delta, HostileSignaturesAreRefused) {
  std::string good = signature_of(noise(100000, 9));
  auto accepts = [](const std::string& bytes) {
    Signature s;
    return s.feed(bytes).has_value() && s.finish().has_value();
  };
  EXPECT_TRUE(accepts(good));
  EXPECT_FALSE(accepts(""));
  EXPECT_FALSE(accepts(good.substr(0, good.size() - 1)));
  std::string zero_block = good;
  zero_block.replace(4, 4, std::string(4, '\0'));
  EXPECT_FALSE(accepts(zero_block));
  std::string magic = good;
  magic[3] = 'x';
  EXPECT_FALSE(accepts(magic));
  std::string strong = good;
  strong[11] = 99;
  EXPECT_FALSE(accepts(strong));
  std::string chain = good.substr(0, 12);
  for (unsigned i = 0; i < 1000; ++i) chain += "same" + noise(16, i);
  EXPECT_FALSE(accepts(chain));
  Signature endless;
  Status s;
  for (int i = 0; i < 100 && s; ++i) s = endless.feed(std::string(1 << 20, 'x'));
  EXPECT_FALSE(s);
}

TEST(Delta, ABrokenDeltaIsAnError) {
  auto sink = [](std::string_view) -> Status { return {}; };
  auto basis = [](char*, std::size_t, std::uint64_t) -> Result<std::size_t> { return 0; };
  Patch nonsense(basis);
  EXPECT_FALSE(nonsense.feed("this is not a delta", sink) && nonsense.finish(sink));
  Patch empty(basis);
  EXPECT_FALSE(empty.finish(sink));
  Patch reaches_beyond(basis);
  std::string copy("rs\x02\x36\x45\x00\x10\x00", 8);   // copy 16 bytes at 0 of a basis that has none
  EXPECT_FALSE(reaches_beyond.feed(copy, sink) && reaches_beyond.finish(sink));
}

}  // namespace
}  // namespace somfs::replicator
