// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <ostream>

#include <boost/filesystem.hpp>

#include "cli/control.h"
#include "cli/verb_bench.h"
#include "cli/version.h"
#include "common/fd.h"
#include "common/printable.h"

extern char** environ;

namespace somfs::cli {
namespace {

namespace filesystem = boost::filesystem;

std::string own_directory() {
  boost::system::error_code ignored;
  return filesystem::read_symlink("/proc/self/exe", ignored).parent_path().string();
}

bool executable(const std::string& path) { return ::access(path.c_str(), X_OK) == 0; }

// The environment with more, which counts more than what is there.
class Environment {
 public:
  explicit Environment(const std::vector<std::pair<std::string, std::string>>& more) {
    for (char** e = environ; *e != nullptr; ++e) {
      const std::string name = std::string(*e).substr(0, std::string(*e).find('='));
      bool replaced = false;
      for (const auto& [key, value] : more) replaced = replaced || key == name;
      if (!replaced) words_.emplace_back(*e);
    }
    for (const auto& [key, value] : more) words_.push_back(key + "=" + value);
    for (std::string& w : words_) pointers_.push_back(w.data());
    pointers_.push_back(nullptr);
  }
  char** get() { return pointers_.data(); }

 private:
  std::vector<std::string> words_;
  std::vector<char*> pointers_;
};

// A file without a name for what the script reports; it is opened by that name once more, by the script.
class ReportFile {
 public:
  ReportFile() : fd_(::mkostemp(path_.data(), O_CLOEXEC)) {}
  ~ReportFile() {
    if (fd_) ::unlink(path_.c_str());
  }
  ReportFile(const ReportFile&) = delete;
  ReportFile& operator=(const ReportFile&) = delete;
  explicit operator bool() const { return static_cast<bool>(fd_); }
  const std::string& path() const { return path_; }
  std::string content() const {
    std::string all, piece(1 << 16, '\0');
    for (std::size_t got = 1; got != 0;) {
      if (pread_all(fd_.get(), piece.data(), piece.size(), all.size(), &got) != 0) break;
      all.append(piece, 0, got);
    }
    return all;
  }

 private:
  static std::string somewhere() {
    const char* tmp = std::getenv("TMPDIR");
    return std::string(tmp != nullptr && *tmp != '\0' ? tmp : "/tmp") + "/somfs-bench-XXXXXX";
  }
  std::string path_ = somewhere();
  const Fd fd_;
};

// The terminal's Ctrl-C goes to the script, which cleans up; this one waits for it.
class Deaf {
 public:
  Deaf() { before_ = ::signal(SIGINT, SIG_IGN); }
  ~Deaf() { ::signal(SIGINT, before_); }
  Deaf(const Deaf&) = delete;
  Deaf& operator=(const Deaf&) = delete;

 private:
  void (*before_)(int);
};

Result<int> spawn(const std::vector<std::string>& words, Environment& environment, bool quiet) {
  std::vector<std::string> copies = words;
  std::vector<char*> argv;
  for (std::string& w : copies) argv.push_back(w.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (quiet) posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t usual;
  sigemptyset(&usual);
  sigaddset(&usual, SIGINT);
  sigaddset(&usual, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &usual);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  pid_t pid = 0;
  const Deaf deaf;
  const int e = ::posix_spawnp(&pid, argv[0], &actions, &attributes, argv.data(), environment.get());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (e == ENOENT) return fail(Exit::configuration, "cannot run the benchmark", {}, "python3 is not installed", "apt-get install python3");
  if (e != 0) return fail_errno("cannot run the benchmark", printable(words[0]), e);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
  return WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status) == SIGINT ? static_cast<int>(Exit::interrupted) : static_cast<int>(Exit::temporary);
}

}  // namespace

Result<std::string> bench_directory() {
  const std::string own = own_directory();
  std::vector<std::string> places;
  if (const char* named = std::getenv("SOMFS_BENCH_DIR"); named != nullptr && *named != '\0') places.emplace_back(named);
  else places = {own + "/../libexec/somfs/bench", own + "/../../bench", kBenchDirectory};
  for (const std::string& place : places)
    if (executable(place + "/paper")) return filesystem::path(place).lexically_normal().string();
  return fail(Exit::configuration, "cannot find the benchmarks", printable(places.front()), "no script named paper lies there",
              "install somfs with them, or name the directory bench/ of its sources in SOMFS_BENCH_DIR");
}

Result<Exit> run_script(Bench& bench, Script script) {
  SOMFS_TRY_ASSIGN(const std::string directory, bench_directory());
  const std::string path = directory + "/" + script.name;
  if (!executable(path)) return fail(Exit::configuration, "cannot find the benchmark", printable(path));
  if (::geteuid() != 0) return fail(Exit::not_allowed, "cannot measure", {}, "loop devices, mounts and namespaces need root", "run it as root");
  ReportFile report;
  if (!report) return fail_errno("cannot make a file for the result", printable(report.path()));
  auto& e = script.environment;
  if (std::getenv("SOMFS_BIN_DIR") == nullptr) e.emplace_back("SOMFS_BIN_DIR", own_directory());
  if (bench.quick) {
    e.emplace_back("BENCH_SCALE", "0.02");
    e.emplace_back("BENCH_REPEAT", "1");
  }
  if (bench.repeat != 0) e.emplace_back("BENCH_REPEAT", std::to_string(bench.repeat));
  if (bench.json) e.emplace_back("BENCH_JSON", report.path());
  if (!bench.plots.empty()) {
    boost::system::error_code error;
    const filesystem::path plots = filesystem::absolute(bench.plots);
    filesystem::create_directories(plots, error);
    if (error) return fail(Exit::usage, "cannot make the directory for plots", printable(bench.plots), error.message());
    e.emplace_back("BENCH_PLOTS", plots.string());
  }
  bench.out.flush();
  Environment environment(e);
  std::vector<std::string> words{"python3", path};
  words.insert(words.end(), script.arguments.begin(), script.arguments.end());
  SOMFS_TRY_ASSIGN(const int code, spawn(words, environment, bench.json));
  if (code != 0 && bench.json)   // the script has said why, on standard error
    bench.out << error_json({static_cast<Exit>(code), 0, "the benchmark failed", script.name, {}, {}}).dump() << std::endl;
  if (code != 0 || !bench.json) return static_cast<Exit>(code);
  const Json told = Json::parse(report.content(), nullptr, false);
  if (!told.is_object()) return fail(Exit::temporary, "the benchmark ended without a result", printable(path));
  Json result = {{"schema", 1}, {"benchmark", script.name}};
  if (told.contains("schema")) result.update(told);
  else result["rows"] = told;
  bench.out << result.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  return Exit::done;
}

}  // namespace somfs::cli
