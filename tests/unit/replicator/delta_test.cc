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

TEST(Delta, ASignatureByHalvesIsTheSame) {
  for (std::size_t size : {kTwoThreads - 1, kTwoThreads, kTwoThreads + 1, 2 * kTwoThreads + 12345}) {
    const std::string content = noise(size, 12);
    std::string halves;
    auto read = [&](char* to, std::size_t n, std::uint64_t off) -> Result<std::size_t> {
      n = std::min(n, content.size() - static_cast<std::size_t>(off));
      std::memcpy(to, content.data() + off, n);
      return n;
    };
    auto made = make_signature(signature_shape(size), size, read, [&](std::string_view p) -> Status {
      halves.append(p);
      return {};
    });
    ASSERT_TRUE(made);
    EXPECT_TRUE(halves == signature_of(content)) << size;
  }
}

// Made as two parts, cut anywhere.
std::optional<std::string> through_parts(std::string_view basis, std::string_view content, std::size_t cut, std::size_t* wire) {
  Signature sig;
  EXPECT_TRUE(sig.feed(signature_of(basis)));
  EXPECT_TRUE(sig.finish());
  std::string delta, out;
  auto into = [](std::string& s) { return [&s](std::string_view p) -> Status { s.append(p); return {}; }; };
  auto made = make_delta(sig, from(content.substr(0, cut)), from(content.substr(cut)), into(delta));
  EXPECT_TRUE(made) << made.error().line();
  if (!made || !*made) {
    EXPECT_TRUE(delta.empty());
    return std::nullopt;
  }
  *wire = delta.size();
  Patch patch([&](char* to, std::size_t n, std::uint64_t off) -> Result<std::size_t> {
    n = off < basis.size() ? std::min<std::size_t>(n, basis.size() - off) : 0;
    std::memcpy(to, basis.data() + off, n);
    return n;
  });
  EXPECT_TRUE(patch.feed(delta, into(out)));
  EXPECT_TRUE(patch.finish(into(out)));
  return out;
}

TEST(Delta, TwoPartsFitTogether) {
  const std::string basis = noise(3 << 20, 20);
  const std::string content = "in front" + basis.substr(0, 1 << 20) + noise(5000, 21) + basis.substr(1 << 20);
  for (std::size_t cut : {std::size_t{200000}, content.size() / 2, content.size() - 1, content.size()}) {
    std::size_t wire = 0;
    auto made = through_parts(basis, content, cut, &wire);
    ASSERT_TRUE(made) << cut;
    EXPECT_TRUE(*made == content) << cut;
    EXPECT_LT(wire, 40000u) << cut;
  }
}

TEST(Delta, ASecondPartThatMatchesNothingIsBounded) {
  const std::string basis = noise(2 << 20, 30);
  const std::string content = basis + noise(kGiveUpAfter + (8u << 20), 31);
  std::size_t wire = 0;
  auto made = through_parts(basis, content, basis.size(), &wire);
  ASSERT_TRUE(made);
  EXPECT_TRUE(*made == content);
  // And where the first part decides against it, the second ends.
  EXPECT_EQ(through_parts(basis, noise(2 << 20, 32) + content, 2 << 20, &wire), std::nullopt);
}

TEST(Delta, AFailureOfEitherPartIsTheWhole) {
  const std::string basis = noise(1 << 20, 40);
  Signature sig;
  ASSERT_TRUE(sig.feed(signature_of(basis)) && sig.finish());
  const PieceSource broken = [](char*, std::size_t) -> Result<std::size_t> { return fail(Exit::temporary, "torn"); };
  auto drop = [](std::string_view) -> Status { return {}; };
  for (bool first : {true, false}) {
    auto made = first ? make_delta(sig, broken, from(basis), drop) : make_delta(sig, from(basis), broken, drop);
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().what, "torn");
  }
  auto refuse = [](std::string_view) -> Status { return fail(Exit::link_down, "gone"); };
  auto made = make_delta(sig, from(basis), from(basis), refuse);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().what, "gone");
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
