// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cctype>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "common/printable.h"

namespace somfs::cli {

std::string human_bytes(std::uint64_t n) {
  static const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double v = static_cast<double>(n);
  int u = 0;
  while (v >= 1024 && u < 5) {
    v /= 1024;
    ++u;
  }
  char b[32];
  std::snprintf(b, sizeof b, u == 0 ? "%.0f %s" : v < 10 ? "%.2f %s" : v < 100 ? "%.1f %s" : "%.0f %s", v, units[u]);
  return b;
}

std::string human_seconds(double s) {
  char b[48];
  if (s < 0.001) std::snprintf(b, sizeof b, "%.0f µs", s * 1e6);
  else if (s < 1) std::snprintf(b, sizeof b, "%.1f ms", s * 1e3);
  else if (s < 60) std::snprintf(b, sizeof b, "%.1f s", s);
  else if (s < 3600) std::snprintf(b, sizeof b, "%.0f min %.0f s", std::floor(s / 60), std::fmod(s, 60));
  else if (s < 172800) std::snprintf(b, sizeof b, "%.0f h %.0f min", std::floor(s / 3600), std::fmod(s, 3600) / 60);
  else std::snprintf(b, sizeof b, "%.1f days", s / 86400);
  return b;
}

std::string counted(std::uint64_t n, const char* one, const char* more) {
  return std::to_string(n) + " " + (n == 1 ? one : more != nullptr ? std::string(more) : std::string(one) + "s");
}

Result<std::uint64_t> parse_bytes(const std::string& text) {
  char* end = nullptr;
  double v = std::strtod(text.c_str(), &end);
  std::string unit(end);
  if (end == text.c_str() || !(v >= 0)) return fail(Exit::usage, "not a size", printable(text), {}, "write 5000, 64K, 10MiB or 2G");
  double factor = 1;
  if (!unit.empty()) {
    std::size_t at = std::string("KMGTP").find(static_cast<char>(std::toupper(static_cast<unsigned char>(unit[0]))));
    std::string rest = unit.substr(1);
    bool plain = unit == "B" || unit == "b";
    if (!plain && (at == std::string::npos || (!rest.empty() && rest != "B" && rest != "iB")))
      return fail(Exit::usage, "not a size", printable(text), {}, "write 5000, 64K, 10MiB or 2G");
    if (!plain) factor = std::pow(1024.0, static_cast<double>(at + 1));
  }
  if (v * factor > 9e18) return fail(Exit::usage, "not a size", printable(text), "too large");
  return static_cast<std::uint64_t>(v * factor);
}

Result<double> parse_seconds(const std::string& text) {
  char* end = nullptr;
  double v = std::strtod(text.c_str(), &end);
  std::string unit(end);
  double factor = unit.empty() || unit == "s" ? 1 : unit == "ms" ? 0.001 : unit == "m" || unit == "min" ? 60 : unit == "h" ? 3600
                : unit == "d" ? 86400 : -1;
  if (end == text.c_str() || !(v >= 0) || factor < 0) return fail(Exit::usage, "not a time", printable(text), {}, "write 500ms, 30s, 10m, 24h or 7d");
  constexpr double century = 100 * 365.25 * 86400;   // nanoseconds of it still fit 64 bits, added to the time of day
  if (v * factor > century) return fail(Exit::usage, "not a time", printable(text), "too large");
  return v * factor;
}

ProgressBar::ProgressBar(bool wanted, std::function<std::string(unsigned)> draw) : draw_(std::move(draw)) {
  if (!wanted || ::isatty(STDERR_FILENO) == 0) return;
  thread_ = std::jthread([this](const std::stop_token& stop) {
    std::mutex m;
    std::condition_variable_any wake;
    std::unique_lock<std::mutex> lock(m);
    while (!stop.stop_requested()) {
      winsize w{};
      unsigned columns = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
      std::fprintf(stderr, "\r\033[K%s", draw_(columns - 1).c_str());
      std::fflush(stderr);
      wake.wait_for(lock, stop, std::chrono::milliseconds(200), [] { return false; });
    }
    std::fprintf(stderr, "\r\033[K");
    std::fflush(stderr);
  });
}

ProgressBar::~ProgressBar() = default;

std::string ProgressBar::bar(double share, unsigned width) {
  if (share < 0 || width < 4) return "";
  if (share > 1) share = 1;
  auto full = static_cast<unsigned>(share * width);
  return "[" + std::string(full, '#') + std::string(width - full, '.') + "]";
}

}  // namespace somfs::cli
