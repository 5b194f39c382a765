// SPDX-License-Identifier: Apache-2.0
#include "common/log.h"

#include <memory>

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace somfs::log {
namespace {

std::shared_ptr<spdlog::logger>& logger() {
  static std::shared_ptr<spdlog::logger> l = [] {
    auto made = std::make_shared<spdlog::logger>("somfs", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_level(spdlog::level::warn);
    return made;
  }();
  return l;
}

spdlog::level::level_enum to_spd(Level l) {
  switch (l) {
    case Level::debug: return spdlog::level::debug;
    case Level::info: return spdlog::level::info;
    case Level::warning: return spdlog::level::warn;
    case Level::error: break;
  }
  return spdlog::level::err;
}

}  // namespace

void open(const std::string& path, Level least) {
  if (!path.empty())
    logger() = std::make_shared<spdlog::logger>("somfs", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path));
  logger()->set_level(to_spd(least));
  logger()->flush_on(spdlog::level::warn);
  logger()->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %v");
}

void write(Level level, const std::string& line) { logger()->log(to_spd(level), line); }

}  // namespace somfs::log
