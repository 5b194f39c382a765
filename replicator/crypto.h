// SPDX-License-Identifier: Apache-2.0
// The primitives of the secure channel: X25519 (RFC 7748), AES-256-GCM (NIST SP 800-38D), HMAC-SHA-256 (RFC 2104) and the HKDF of Noise.
// Behind one header, so that another library can take Crypto++'s place. Without state: any thread may call anything.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "common/result.h"

namespace somfs::replicator {

// 32 secret bytes. They are overwritten when they go, and where they are moved from; equality takes the same time whatever they are.
class Secret {
 public:
  static constexpr std::size_t kSize = 32;

  Secret() = default;
  explicit Secret(std::string_view raw);   // kSize bytes
  Secret(const Secret&) = default;
  Secret& operator=(const Secret&) = default;
  Secret(Secret&& other) noexcept : bytes_(other.bytes_) { other.wipe(); }
  Secret& operator=(Secret&& other) noexcept;
  ~Secret() { wipe(); }

  static Secret random();
  std::string_view raw() const { return {reinterpret_cast<const char*>(bytes_.data()), kSize}; }
  std::uint8_t* data() { return bytes_.data(); }
  const std::uint8_t* data() const { return bytes_.data(); }
  void wipe() noexcept;
  bool operator==(const Secret& other) const;

 private:
  std::array<std::uint8_t, kSize> bytes_{};
};

// A point of X25519, as it travels.
struct PublicKey {
  std::array<std::uint8_t, 32> bytes{};
  auto operator<=>(const PublicKey&) const = default;
  std::string_view raw() const { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }
  static PublicKey from_raw(std::string_view raw);   // 32 bytes
};

void wipe(std::string& bytes) noexcept;                               // overwrites, then empties
bool equal_bytes(std::string_view a, std::string_view b);             // of one length: in constant time
void random_bytes(std::uint8_t* to, std::size_t n);                   // of the operating system; ends the program where there are none

PublicKey public_key(const Secret& secret);
// Refuses a shared secret of zeroes: the point is of low order, its sender would know the secret without a key (Exit::not_allowed).
Result<Secret> agree(const Secret& ours, const PublicKey& theirs);

Secret hmac(std::string_view key, std::string_view bytes);
std::pair<Secret, Secret> hkdf(const Secret& chaining_key, std::string_view input);   // HKDF(chaining_key, input, 2) of Noise

inline constexpr std::size_t kAeadTag = 16;
// AES-256-GCM under the nonce of Noise: 32 zero bits, then the counter, big-endian. One (key, counter) seals once, ever.
// The ciphertext and its tag are appended.
void aead_seal(const Secret& key, std::uint64_t counter, std::string_view associated, std::string_view plaintext, std::string& out);
// False, and `out` is left empty: not sealed with this key, counter and associated data.
bool aead_open(const Secret& key, std::uint64_t counter, std::string_view associated, std::string_view sealed, std::string& out);

}  // namespace somfs::replicator
