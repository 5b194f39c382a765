// SPDX-License-Identifier: Apache-2.0
// What a person sees: sizes, times, the progress bar. Nothing here prints when standard error is not a terminal, or with --quiet.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "common/result.h"

namespace somfs::cli {

std::string human_bytes(std::uint64_t n);           // "1.4 MiB"
std::string human_seconds(double s);                // "0.4 s", "3 min 12 s"
std::string counted(std::uint64_t n, const char* one, const char* more = nullptr);   // "1 group", "3 groups"; `more` where it is not with an s
Result<std::uint64_t> parse_bytes(const std::string& text);      // "64MiB", "10M", "5000"; powers of 1024
Result<double> parse_seconds(const std::string& text);           // "500ms", "30", "24h", "7d"

// Redraws one line on standard error five times a second until it is destroyed; then erases it.
class ProgressBar {
 public:
  ProgressBar(bool wanted, std::function<std::string(unsigned columns)> draw);
  ~ProgressBar();
  static std::string bar(double share, unsigned width);  // share < 0: unknown

 private:
  std::function<std::string(unsigned)> draw_;
  std::jthread thread_;
};

}  // namespace somfs::cli
