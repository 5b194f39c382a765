// SPDX-License-Identifier: Apache-2.0
// One small workload on one directory: somfs-bench-micro WORKLOAD DIR SCALE prints the seconds that the measured part took.
// What a workload needs is made first, synced and not measured; reads are measured on their second pass, warm.
#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr std::size_t page = 4096, mega = 1u << 20;

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "somfs-bench-micro: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(75);
}

int check(int result, const char* what) {
  if (result < 0) die(what);
  return result;
}

class File {
 public:
  File(const std::string& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC, 0644)) { check(fd_, path.c_str()); }
  ~File() { close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void write_at(const std::vector<char>& bytes, std::size_t at) const {
    if (pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at)) != static_cast<ssize_t>(bytes.size())) die("write");
  }
  void read_at(std::vector<char>& bytes, std::size_t at) const {
    if (pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at)) < 0) die("read");
  }
  void sync() const { check(fsync(fd_), "fsync"); }

 private:
  int fd_;
};

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The same bytes and places in every run, so that peers do the same work.
std::vector<char> noise(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<char> bytes(size);
  for (std::size_t i = 0; i + 8 <= size; i += 8) {
    const std::uint64_t word = random();
    std::memcpy(&bytes[i], &word, 8);
  }
  return bytes;
}

std::size_t scaled(double scale, std::size_t full) { return std::max<std::size_t>(1, static_cast<std::size_t>(scale * static_cast<double>(full))); }

void fill(const std::string& path, std::size_t megabytes) {
  const File file(path, O_WRONLY | O_CREAT | O_TRUNC);
  const auto block = noise(mega, 1);
  for (std::size_t i = 0; i < megabytes; ++i) file.write_at(block, i * mega);
  file.sync();
}

std::string numbered(const std::string& dir, const char* prefix, std::size_t i) { return dir + "/" + prefix + std::to_string(i); }

void many_files(const std::string& dir, std::size_t count) {
  const auto bytes = noise(page, 2);
  for (std::size_t i = 0; i < count; ++i) File(numbered(dir, "f", i), O_WRONLY | O_CREAT | O_TRUNC).write_at(bytes, 0);
}

double seq_write(const std::string& dir, double scale) {
  const auto block = noise(mega, 3);
  const std::size_t count = scaled(scale, 256);
  const Stopwatch watch;
  const File file(dir + "/seq", O_WRONLY | O_CREAT | O_TRUNC);
  for (std::size_t i = 0; i < count; ++i) file.write_at(block, i * mega);
  file.sync();
  return watch.seconds();
}

double random_write(const std::string& dir, std::size_t count, std::size_t megabytes, bool sync_each) {
  fill(dir + "/random", megabytes);
  const auto bytes = noise(page, 4);
  std::mt19937_64 random(5);
  const File file(dir + "/random", O_WRONLY);
  const Stopwatch watch;
  for (std::size_t i = 0; i < count; ++i) {
    file.write_at(bytes, random() % (megabytes * mega / page) * page);
    if (sync_each) file.sync();
  }
  return watch.seconds();
}

double read_warm(const std::string& dir, double scale, bool in_order) {
  const std::size_t megabytes = scaled(scale, 256);
  fill(dir + "/read", megabytes);
  std::vector<char> block(mega), bytes(page);
  const File file(dir + "/read", O_RDONLY);
  for (std::size_t i = 0; i < megabytes; ++i) file.read_at(block, i * mega);
  std::mt19937_64 random(6);
  const Stopwatch watch;
  if (in_order) {
    for (std::size_t i = 0; i < megabytes; ++i) file.read_at(block, i * mega);
  } else {
    for (std::size_t i = scaled(scale, 100000); i > 0; --i) file.read_at(bytes, random() % (megabytes * mega / page) * page);
  }
  return watch.seconds();
}

double open_read_close(const std::string& dir, double scale) {
  const std::size_t count = scaled(scale, 10000);
  many_files(dir, count);
  std::vector<char> bytes(page);
  const auto pass = [&] {
    for (std::size_t i = 0; i < count; ++i) File(numbered(dir, "f", i), O_RDONLY).read_at(bytes, 0);
  };
  pass();
  const Stopwatch watch;
  pass();
  return watch.seconds();
}

double rename_files(const std::string& dir, double scale) {
  const std::size_t count = scaled(scale, 10000);
  many_files(dir, count);
  const Stopwatch watch;
  for (std::size_t i = 0; i < count; ++i) check(rename(numbered(dir, "f", i).c_str(), numbered(dir, "g", i).c_str()), "rename");
  return watch.seconds();
}

double sqlite_inserts(const std::string& dir, double scale) {
  sqlite3* db = nullptr;
  const auto run = [&](const char* sql) {
    if (sqlite3_exec(db, sql, nullptr, nullptr, nullptr) != SQLITE_OK) {
      std::fprintf(stderr, "somfs-bench-micro: sqlite: %s\n", sqlite3_errmsg(db));
      std::exit(75);
    }
  };
  if (sqlite3_open((dir + "/bench.db").c_str(), &db) != SQLITE_OK) die("sqlite");
  run("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)");
  const std::size_t count = scaled(scale, 10000);
  const Stopwatch watch;
  for (std::size_t i = 0; i < count; ++i) run("INSERT INTO t (v) VALUES (hex(randomblob(100)))");
  const double seconds = watch.seconds();
  sqlite3_close(db);
  return seconds;
}

const std::map<std::string, std::function<double(const std::string&, double)>> workloads = {
    {"seq-write", seq_write},
    {"random-write", [](const std::string& dir, double scale) { return random_write(dir, scaled(scale, 50000), scaled(scale, 128), false); }},
    {"random-write-fsync", [](const std::string& dir, double scale) { return random_write(dir, scaled(scale, 2000), scaled(scale, 64), true); }},
    {"seq-read", [](const std::string& dir, double scale) { return read_warm(dir, scale, true); }},
    {"random-read", [](const std::string& dir, double scale) { return read_warm(dir, scale, false); }},
    {"open-read-close", open_read_close},
    {"rename", rename_files},
    {"sqlite", sqlite_inserts},
};

}  // namespace

int main(int argc, char** argv) {
  const auto workload = argc == 4 ? workloads.find(argv[1]) : workloads.end();
  if (workload == workloads.end()) {
    std::fputs("usage: somfs-bench-micro WORKLOAD DIR SCALE; workloads:", stderr);
    for (const auto& [name, run] : workloads) std::fprintf(stderr, " %s", name.c_str());
    std::fputs("\n", stderr);
    return 1;
  }
  std::printf("%.6f\n", workload->second(argv[2], std::atof(argv[3])));
}
