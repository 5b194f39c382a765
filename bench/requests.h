// SPDX-License-Identifier: Apache-2.0
// What the writer writes and where: the same requests in every run of the same settings. One thread.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>

namespace somfs::bench {

class Requests {
 public:
  // Pages of which the part `compressible` is text (random words of a small vocabulary) and the rest noise. `file` holds a whole number of requests.
  Requests(std::size_t request, std::uint64_t file, bool random, double compressible) : request_(request), count_(file / request), random_(random) {
    constexpr std::size_t kPage = 4096;
    constexpr unsigned kWords = 1000;
    std::mt19937_64 noise(1);
    std::string words[kWords];
    for (std::string& word : words) {
      for (unsigned n = 2 + noise() % 9; n > 0; --n) word += static_cast<char>('a' + noise() % 26);
      word += ' ';
    }
    std::string pool;
    while (pool.size() < kPool + request) {
      std::string page;
      while (static_cast<double>(page.size()) < compressible * kPage) page += words[noise() % kWords];
      page.resize(static_cast<std::size_t>(compressible * kPage));
      while (page.size() < kPage) page += static_cast<char>(noise());
      pool += page;
    }
    // O_DIRECT wants its memory aligned.
    memory_.resize(pool.size() + kPage);
    const std::size_t aside = kPage - reinterpret_cast<std::uintptr_t>(memory_.data()) % kPage;
    memory_.replace(aside, pool.size(), pool);
    pool_ = std::string_view(memory_).substr(aside, pool.size());
  }
  Requests(const Requests&) = delete;
  Requests& operator=(const Requests&) = delete;

  struct One {
    std::uint64_t off;
    std::string_view bytes;
  };
  One next() {
    const std::uint64_t at = random_ ? places_() % count_ : made_ % count_;
    const std::size_t from = made_++ * request_ % kPool / kStep * kStep;
    return {at * request_, pool_.substr(from, request_)};
  }

 private:
  static constexpr std::size_t kPool = 8u << 20, kStep = 512;
  const std::size_t request_;
  const std::uint64_t count_;
  const bool random_;
  std::uint64_t made_ = 0;
  std::mt19937_64 places_{2};
  std::string memory_;
  std::string_view pool_;
};

}  // namespace somfs::bench
