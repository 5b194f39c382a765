// SPDX-License-Identifier: Apache-2.0
#include "replicator/crypto.h"

#include <cryptopp/aes.h>
#include <cryptopp/gcm.h>
#include <cryptopp/hmac.h>
#include <cryptopp/misc.h>
#include <cryptopp/osrng.h>
#include <cryptopp/secblock.h>
#include <cryptopp/sha.h>
#include <cryptopp/xed25519.h>

#include <algorithm>
#include <cstdlib>

namespace somfs::replicator {
namespace {

const CryptoPP::byte* in(std::string_view bytes) { return reinterpret_cast<const CryptoPP::byte*>(bytes.data()); }

std::array<CryptoPP::byte, 12> nonce_of(std::uint64_t counter) {
  std::array<CryptoPP::byte, 12> nonce{};
  for (std::size_t i = 0; i < 8; ++i) nonce[11 - i] = static_cast<CryptoPP::byte>(counter >> (8 * i));
  return nonce;
}

}  // namespace

Secret::Secret(std::string_view raw) { std::copy_n(raw.begin(), std::min(raw.size(), kSize), bytes_.begin()); }

Secret& Secret::operator=(Secret&& other) noexcept {
  if (this != &other) {
    bytes_ = other.bytes_;
    other.wipe();
  }
  return *this;
}

Secret Secret::random() {
  Secret s;
  random_bytes(s.data(), kSize);
  return s;
}

void Secret::wipe() noexcept { CryptoPP::SecureWipeArray(bytes_.data(), bytes_.size()); }

bool Secret::operator==(const Secret& other) const { return equal_bytes(raw(), other.raw()); }

PublicKey PublicKey::from_raw(std::string_view raw) {
  PublicKey key;
  std::copy_n(raw.begin(), std::min(raw.size(), key.bytes.size()), key.bytes.begin());
  return key;
}

void wipe(std::string& bytes) noexcept {
  CryptoPP::SecureWipeArray(reinterpret_cast<CryptoPP::byte*>(bytes.data()), bytes.size());
  bytes.clear();
}

bool equal_bytes(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CryptoPP::VerifyBufsEqual(in(a), in(b), a.size());
}

void random_bytes(std::uint8_t* to, std::size_t n) {
  try {
    CryptoPP::OS_GenerateRandomBlock(false, to, n);
  } catch (const CryptoPP::Exception&) {
    std::abort();   // nothing that needs a secret may go on without one
  }
}

PublicKey public_key(const Secret& secret) {
  PublicKey key;
  CryptoPP::x25519().GeneratePublicKey(CryptoPP::NullRNG(), secret.data(), key.bytes.data());
  return key;
}

Result<Secret> agree(const Secret& ours, const PublicKey& theirs) {
  Secret shared;
  const bool done = CryptoPP::x25519().Agree(shared.data(), ours.data(), theirs.bytes.data(), false);
  if (!done || shared == Secret()) return fail(Exit::not_allowed, "refusing the other side", {}, "its key is none that can keep a secret");
  return shared;
}

Secret hmac(std::string_view key, std::string_view bytes) {
  Secret out;
  CryptoPP::HMAC<CryptoPP::SHA256>(in(key), key.size()).CalculateDigest(out.data(), in(bytes), bytes.size());
  return out;
}

std::pair<Secret, Secret> hkdf(const Secret& chaining_key, std::string_view input) {
  const Secret temporary = hmac(chaining_key.raw(), input);
  Secret first = hmac(temporary.raw(), "\x01");
  std::string block(first.raw());
  block += '\x02';
  Secret second = hmac(temporary.raw(), block);
  wipe(block);
  return {std::move(first), std::move(second)};
}

void aead_seal(const Secret& key, std::uint64_t counter, std::string_view associated, std::string_view plaintext, std::string& out) {
  const auto nonce = nonce_of(counter);
  const std::size_t at = out.size();
  out.resize(at + plaintext.size() + kAeadTag);
  auto* to = reinterpret_cast<CryptoPP::byte*>(out.data()) + at;
  CryptoPP::GCM<CryptoPP::AES>::Encryption gcm;
  gcm.SetKeyWithIV(key.data(), Secret::kSize, nonce.data(), nonce.size());
  gcm.EncryptAndAuthenticate(to, to + plaintext.size(), kAeadTag, nonce.data(), static_cast<int>(nonce.size()), in(associated),
                             associated.size(), in(plaintext), plaintext.size());
}

bool aead_open(const Secret& key, std::uint64_t counter, std::string_view associated, std::string_view sealed, std::string& out) {
  out.clear();
  if (sealed.size() < kAeadTag) return false;
  const auto nonce = nonce_of(counter);
  const std::size_t n = sealed.size() - kAeadTag;
  out.resize(n);
  CryptoPP::GCM<CryptoPP::AES>::Decryption gcm;
  gcm.SetKeyWithIV(key.data(), Secret::kSize, nonce.data(), nonce.size());
  const bool genuine = gcm.DecryptAndVerify(reinterpret_cast<CryptoPP::byte*>(out.data()), in(sealed) + n, kAeadTag, nonce.data(),
                                            static_cast<int>(nonce.size()), in(associated), associated.size(), in(sealed), n);
  if (!genuine) wipe(out);
  return genuine;
}

}  // namespace somfs::replicator
