// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <set>

#include "common/fd.h"
#include "common/log.h"
#include "common/printable.h"
#include "common/uuid.h"
#include "snapshot/child.h"
#include "snapshot/writers.h"

namespace somfs::snapshot {
namespace {

using Answer = WriterReport::Answer;
constexpr std::size_t kMostDatabases = 256;  // a process each
constexpr std::int64_t kMargin = 100'000'000;  // before the deadline

std::string said_or(const std::string& said, const char* otherwise) { return said.empty() ? otherwise : said; }

// https://www.sqlite.org/fileformat.html, "The Database Header". Closing a file drops the POSIX locks that this process has on
// it, which is why locks are never taken in this process.
bool read_header(const std::string& path, std::array<char, 20>* head) {
  constexpr std::string_view kMagic("SQLite format 3\0", 16);
  struct stat st;
  if (::stat(path.c_str(), &st) != 0 || !S_ISREG(st.st_mode)) return false;  // opening a device could do something
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return false;
  std::size_t got = 0;
  if (pread_all(fd.get(), head->data(), head->size(), 0, &got) != 0) return false;
  return std::string_view(head->data(), std::min<std::size_t>(got, kMagic.size())) == kMagic;
}

bool is_database(const std::string& path) {
  std::array<char, 20> head{};
  return read_header(path, &head);
}

// A database in WAL mode (bytes 18 and 19 are 2) without its -wal and -shm: closed, nothing is under way in it. To open it would make
// and remove the two, so that whoever compares a snapshot with the one before would find a change that nobody made.
bool is_closed(const std::string& path) {
  std::array<char, 20> head{};
  if (!read_header(path, &head) || head[18] != 2 || head[19] != 2) return false;
  std::error_code ec;
  const std::string real = std::filesystem::canonical(path, ec).string();
  return !ec && ::access((real + "-wal").c_str(), F_OK) != 0 && ::access((real + "-shm").c_str(), F_OK) != 0;
}

// https://www.sqlite.org/uri.html. mode=rw: a database that has gone is not made anew.
std::string uri(const std::string& path) {
  std::string out = "file:";
  for (char c : path) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '/' || c == '.' || c == '_' || c == '-') {
      out += c;
      continue;
    }
    char hex[4];
    std::snprintf(hex, sizeof hex, "%%%02x", static_cast<unsigned char>(c));
    out += hex;
  }
  return out + "?mode=rw";
}

class SqliteWriter final : public Writer {
 public:
  SqliteWriter(SqliteConfig config, const Clock& clock) : config_(std::move(config)), clock_(clock) {}
  std::string name() const override { return config_.name; }

  WriterReport prepare(std::int64_t deadline) override {
    held_.clear();
    WriterReport report;
    report.name = config_.name;
    std::vector<std::string> files;
    if (collect(&files, &report)) {
      report.answer = Answer::ready;
      // One after the other in one order, as applications that use several databases are well advised to do too.
      for (std::size_t i = 0; i < files.size() && report.answer == Answer::ready; ++i) hold(files[i], deadline, &report);
    }
    if (report.answer != Answer::ready) held_.clear();
    return report;
  }

  void release(bool, std::int64_t deadline) noexcept override {
    for (Child& c : held_) c.send("ROLLBACK;\n.exit\n", deadline);
    for (Child& c : held_) c.wait(deadline);
    held_.clear();  // kills what is left; the kernel drops its locks
  }

 private:
  bool collect(std::vector<std::string>* files, WriterReport* report) const {
    std::set<std::string> found;
    for (const std::string& pattern : config_.databases) {
      if (pattern.find_first_of("*?[") == std::string::npos) {
        found.insert(pattern);
        continue;
      }
      glob_t g{};
      if (::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &g) == 0)
        for (std::size_t i = 0; i < g.gl_pathc; ++i)
          if (is_database(g.gl_pathv[i])) found.insert(g.gl_pathv[i]);
      ::globfree(&g);
    }
    if (config_.find_open)
      for (std::string& path : open_sqlite_databases(config_.volume)) found.insert(std::move(path));
    for (const std::string& path : found)
      if (auto within = lies_within(config_.volume, path); !within) {
        report->answer = within.error().exit == Exit::veto ? Answer::veto : Answer::failed;
        report->reason = within.error().line();
        return false;
      }
    if (found.size() > kMostDatabases) {
      report->answer = Answer::veto;
      report->reason = "more than " + std::to_string(kMostDatabases) + " databases";
      return false;
    }
    files->assign(found.begin(), found.end());
    return true;
  }

  void hold(const std::string& path, std::int64_t deadline, WriterReport* report) {
    if (is_closed(path)) return;
    auto bad = [&](Answer a, const std::string& why) {
      report->answer = a;
      report->reason = printable(path) + ": " + why;
    };
    Child::Options o;
    o.argv = {config_.sqlite3, "-batch", "-init", "/dev/null", uri(path)};
    o.env = {"HOME=/nonexistent", "LC_ALL=C"};
    auto child = Child::start(o, clock_);
    if (!child) return bad(Answer::failed, child.error().line());
    // What has been committed goes from the WAL to the database as far as readers allow; then the write lock waits for the
    // transaction that is open now. SQLite's own waiting slows down to ten attempts a second, which an application that begins the next
    // transaction at once may outrun for ever: so it is asked again every millisecond.
    const std::string end = "end-" + Uuid::random().text();
    std::string todo = ".timeout 1\nPRAGMA wal_checkpoint(PASSIVE);\n";
    const char* late = "sqlite3 did not answer in time";
    for (;;) {
      child->send(todo + "BEGIN IMMEDIATE;\nSELECT '" + end + "';\n", deadline);
      for (std::string line; line != end;) {
        const Child::Got got = child->line(&line, deadline);
        if (got == Child::Got::late) return bad(Answer::timeout, late);
        if (got == Child::Got::end) return bad(Answer::failed, said_or(child->first_error(), "sqlite3 ended"));
      }
      // Every message about this attempt was written before the line that ends it.
      const std::string why = child->first_error();
      if (why.empty()) break;
      if (why.find("locked") == std::string::npos) return bad(Answer::failed, why);
      late = "a transaction did not end in time";   // whatever becomes of the attempts that follow
      if (clock_.mono_ns() >= deadline - kMargin) return bad(Answer::timeout, late);
      child->forget_errors();
      todo.clear();
    }
    held_.push_back(std::move(*child));
  }

  const SqliteConfig config_;
  const Clock& clock_;
  std::vector<Child> held_;
};

}  // namespace

std::vector<std::string> open_sqlite_databases(const std::string& volume) {
  namespace fs = std::filesystem;
  std::error_code ec;
  const std::string root = fs::canonical(volume, ec).string();
  std::set<std::string> seen;
  if (ec) return {};
  for (fs::directory_iterator p("/proc", ec), end; !ec && p != end; p.increment(ec)) {
    const std::string pid = p->path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    std::error_code gone;
    for (fs::directory_iterator f(p->path() / "fd", gone), last; !gone && f != last; f.increment(gone)) {
      std::error_code unreadable;
      std::string path = fs::read_symlink(f->path(), unreadable).string();
      if (!unreadable && path.compare(0, root.size() + 1, root + "/") == 0) seen.insert(std::move(path));
    }
  }
  std::vector<std::string> out;
  for (const std::string& path : seen)
    if (is_database(path)) out.push_back(path);
  return out;
}

std::shared_ptr<Writer> make_sqlite_writer(SqliteConfig config, const Clock& clock) {
  return std::make_shared<SqliteWriter>(std::move(config), clock);
}

}  // namespace somfs::snapshot
