// SPDX-License-Identifier: Apache-2.0
// A directory of its own for a test, gone when it ends; and the few words every test of the platform tier needs.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>

namespace somfs::platform {

class Scratch {
 public:
  Scratch() {
    const char* base = ::getenv("TMPDIR");
    std::string path = std::string(base != nullptr ? base : "/tmp") + "/somfs-test-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) std::abort();
    path_ = std::filesystem::canonical(path).string();
    std::filesystem::permissions(path_, std::filesystem::perms(0755));
  }
  ~Scratch() {
    std::error_code ec;
    std::filesystem::remove_all(path_, ec);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void spit(const std::string& path, const std::string& bytes, unsigned mode = 0644) {
  std::ofstream(path, std::ios::binary) << bytes;
  std::filesystem::permissions(path, std::filesystem::perms(mode));
}

// Looks until `seen` is true, for at most half a minute: for what another process does in its own time.
template <typename F>
bool eventually(F seen) {
  for (int i = 0; i < 3000; ++i) {
    if (seen()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

[[noreturn]] inline void skip(const std::string& reason) {
  std::printf("cannot run here: %s\n", reason.c_str());
  std::exit(77);
}

}  // namespace somfs::platform
