// SPDX-License-Identifier: Apache-2.0
// The log: spdlog behind one header. Names from the file system go through printable() first.
#pragma once

#include <string>

#include <fmt/format.h>

namespace somfs::log {

enum class Level { debug, info, warning, error };

// Before the first line: to standard error (foreground), to a file, or to syslog/journald's standard error. Empty path: standard error.
void open(const std::string& path, Level least);
void write(Level level, const std::string& line);

template <typename... A>
void debug(fmt::format_string<A...> f, A&&... a) { write(Level::debug, fmt::format(f, std::forward<A>(a)...)); }
template <typename... A>
void info(fmt::format_string<A...> f, A&&... a) { write(Level::info, fmt::format(f, std::forward<A>(a)...)); }
template <typename... A>
void warning(fmt::format_string<A...> f, A&&... a) { write(Level::warning, fmt::format(f, std::forward<A>(a)...)); }
template <typename... A>
void error(fmt::format_string<A...> f, A&&... a) { write(Level::error, fmt::format(f, std::forward<A>(a)...)); }

}  // namespace somfs::log
