// SPDX-License-Identifier: Apache-2.0
// Real databases with a writer that never stops: while the writer holds them, the files alone are a consistent database.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <atomic>
#include <new>

#include "snapshot/writers.h"
#include "tests/platform/scratch.h"

namespace somfs::snapshot {
namespace {

using platform::slurp;
using platform::spit;
using Answer = WriterReport::Answer;

class Database {
 public:
  explicit Database(const std::string& path) {
    EXPECT_EQ(sqlite3_open(path.c_str(), &db_), SQLITE_OK);
    sqlite3_busy_timeout(db_, 20'000);
  }
  ~Database() { sqlite3_close(db_); }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  int run(const std::string& sql) { return sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr); }
  std::string one(const std::string& sql) {
    std::string out;
    sqlite3_exec(db_, sql.c_str(), [](void* o, int, char** v, char**) {
      *static_cast<std::string*>(o) = v[0] != nullptr ? v[0] : "";
      return 0;
    }, &out, nullptr);
    return out;
  }

 private:
  sqlite3* db_ = nullptr;
};

class Sqlite : public ::testing::TestWithParam<const char*> {
 protected:
  Sqlite() {
    std::filesystem::create_directories(scratch / "vol");
    file = scratch / "vol/money? 100%.db";
    Database db(file);
    db.run(std::string("PRAGMA journal_mode=") + mode());
    db.run("CREATE TABLE account(id INTEGER PRIMARY KEY, amount INTEGER, pad BLOB)");
    db.run("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100) "
           "INSERT INTO account SELECT i, 100, randomblob(2000) FROM n");
  }
  static const char* mode() {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    return info->value_param() != nullptr && std::string(info->value_param()).find("wal") != std::string::npos ? "wal" : "delete";
  }
  SqliteConfig config() const { return {.volume = scratch / "vol", .databases = {scratch / "vol/*.db"}}; }
  std::int64_t in_ms(int ms) const { return clock.mono_ns() + ms * 1'000'000ll; }
  // What a writer that cannot be ready says at its deadline: with a longer one as long as the machine was too slow for `seen` until then.
  template <typename F>
  WriterReport late(Writer& writer, F seen) const {
    for (int ms = 400;; ms *= 3) {
      WriterReport r = writer.prepare(in_ms(ms));
      EXPECT_EQ(r.answer, Answer::timeout) << r.reason;
      if (seen(r) || ms > 20'000) return r;
    }
  }
  static bool answered(const WriterReport& r) { return r.reason.find("sqlite3 did not answer") == std::string::npos; }

  // Every account of the database that these bytes are, which must be whole.
  std::string contents(const std::string& main, const std::string& wal) const {
    const std::string copy = scratch / "copy.db";
    spit(copy, main);
    spit(copy + "-wal", wal);
    std::string out;
    {
      Database db(copy);
      EXPECT_EQ(db.one("PRAGMA integrity_check"), "ok");
      EXPECT_EQ(db.one("SELECT sum(amount) FROM account"), "10000");
      out = db.one("SELECT group_concat(id || ' ' || amount || ' ' || hex(pad)) FROM account");
    }
    for (const char* end : {"", "-wal", "-shm"}) std::filesystem::remove(copy + end);
    return out;
  }

  SystemClock clock;
  platform::Scratch scratch;
  std::string file;
};

// An application in a process of its own: POSIX locks, which SQLite uses, belong to processes, and whoever closes a file drops them.
class Application {
 public:
  struct Shared {
    std::atomic<bool> stop{false};
    std::atomic<int> done{0}, errors{0};
  };
  template <typename F>
  explicit Application(F body)
      : shared(new (::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Shared) {
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    body(*shared);
    ::_exit(0);
  }
  ~Application() {
    finish();
    ::munmap(shared, sizeof(Shared));
  }
  Application(const Application&) = delete;
  Application& operator=(const Application&) = delete;
  void finish() {
    if (pid_ <= 0) return;
    shared->stop = true;
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  Shared* const shared;

 private:
  pid_t pid_;
};

// Moves money; in a transaction half-way the sum is wrong.
auto mover(const std::string& file) {
  return [file](Application::Shared& shared) {
    Database db(file);
    for (unsigned i = 1; !shared.stop; ++i) {
      const std::string from = std::to_string(i * 7 % 100 + 1), to = std::to_string(i * 13 % 100 + 1);
      if (db.run("BEGIN IMMEDIATE; UPDATE account SET amount = amount - 1, pad = randomblob(2000) WHERE id = " + from +
                 "; UPDATE account SET amount = amount + 1, pad = randomblob(2000) WHERE id = " + to + "; COMMIT") == SQLITE_OK)
        ++shared.done;
      else
        ++shared.errors;
    }
  };
}

TEST_P(Sqlite, WhileHeldTheFilesAreOneConsistentDatabase) {
  Application app(mover(file));
  auto writer = make_sqlite_writer(config(), clock);
  for (int round = 0; round < 5; ++round) {
    const int before = app.shared->done;
    ASSERT_TRUE(platform::eventually([&] { return app.shared->done > before + 5; }));
    // It gets in between two transactions, one of a hundred or so: on a slow machine these take their time.
    WriterReport r = writer->prepare(in_ms(200'000));
    ASSERT_EQ(r.answer, Answer::ready) << r.reason;
    const std::string main = slurp(file), wal = slurp(file + "-wal");
    EXPECT_FALSE(std::filesystem::exists(file + "-journal") && !slurp(file + "-journal").empty()) << "no transaction is open";
    ::usleep(20'000);
    const std::string later = slurp(file);
    EXPECT_TRUE(slurp(file + "-wal") == wal) << "a transaction was committed";
    // The checkpoint that follows a commit is not under the write lock: it may still carry pages of the WAL into the database, which
    // changes its bytes and nothing that it says.
    EXPECT_TRUE(std::string(mode()) == "wal" || later == main) << "the database was written";
    writer->release(true, in_ms(10'000));
    const std::string said = contents(main, wal);
    EXPECT_FALSE(said.empty());
    EXPECT_TRUE(contents(later, wal) == said) << "the files say something else";
  }
  EXPECT_EQ(app.shared->errors, 0) << "the application only waited";
}

TEST_P(Sqlite, ATransactionThatDoesNotEndIsATimeout) {
  Application app([this](Application::Shared& shared) {
    Database db(file);
    db.run("BEGIN IMMEDIATE; UPDATE account SET amount = 1");
    shared.done = 1;
    while (!shared.stop) ::usleep(1000);
    db.run("COMMIT");
  });
  ASSERT_TRUE(platform::eventually([&] { return app.shared->done == 1; }));
  auto writer = make_sqlite_writer(config(), clock);
  WriterReport r = late(*writer, answered);
  EXPECT_NE(r.reason.find("a transaction did not end in time"), std::string::npos) << r.reason;
  app.finish();
  EXPECT_EQ(writer->prepare(in_ms(20'000)).answer, Answer::ready);
  writer->release(false, in_ms(10'000));
  writer->release(false, in_ms(10'000));
  Database db(file);
  EXPECT_EQ(db.run("BEGIN IMMEDIATE; COMMIT"), SQLITE_OK);
}

TEST_P(Sqlite, FindsWhatIsOpen) {
  Database db(file);
  db.one("SELECT count(*) FROM account");
  spit(scratch / "vol/plain", "SQLite it is not");
  std::ifstream other(scratch / "vol/plain");
  EXPECT_EQ(open_sqlite_databases(scratch / "vol"), std::vector<std::string>{file});
  SqliteConfig c = config();
  c.databases.clear();
  c.find_open = true;
  auto writer = make_sqlite_writer(c, clock);
  ASSERT_EQ(writer->prepare(in_ms(20'000)).answer, Answer::ready);
  sqlite3* second = nullptr;
  sqlite3_open(file.c_str(), &second);
  EXPECT_EQ(sqlite3_exec(second, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_BUSY);
  sqlite3_close(second);
  writer->release(true, in_ms(10'000));
}

TEST_P(Sqlite, AClosedDatabaseIsLeftAsItIs) {
  auto stamp = [&](const std::string& path) {
    struct stat st{};
    EXPECT_EQ(::stat(path.c_str(), &st), 0);
    return std::pair(st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
  };
  const timespec long_ago[2] = {{1'000'000'000, 1}, {1'000'000'000, 1}};
  const std::string dir = scratch / "vol";
  ASSERT_EQ(::utimensat(AT_FDCWD, file.c_str(), long_ago, 0), 0);
  ASSERT_EQ(::utimensat(AT_FDCWD, dir.c_str(), long_ago, 0), 0);
  const auto before = std::pair(stamp(file), stamp(dir));
  auto writer = make_sqlite_writer(config(), clock);
  ASSERT_EQ(writer->prepare(in_ms(20'000)).answer, Answer::ready);
  EXPECT_EQ(std::pair(stamp(file), stamp(dir)), before) << "while it is prepared";
  writer->release(true, in_ms(10'000));
  EXPECT_EQ(std::pair(stamp(file), stamp(dir)), before) << "afterwards";
}

INSTANTIATE_TEST_SUITE_P(Journal, Sqlite, ::testing::Values("wal", "delete"));

TEST_F(Sqlite, AMissingDatabaseFailsAndIsNotMade) {
  SqliteConfig c = config();
  c.databases = {scratch / "vol/none.db"};
  WriterReport r = make_sqlite_writer(c, clock)->prepare(in_ms(10'000));
  EXPECT_EQ(r.answer, Answer::failed);
  EXPECT_FALSE(std::filesystem::exists(scratch / "vol/none.db"));
}

TEST_F(Sqlite, OneOutsideTheVolumeIsAVeto) {
  std::filesystem::rename(file, scratch / "outside.db");
  std::filesystem::create_symlink(scratch / "outside.db", file);
  WriterReport r = make_sqlite_writer(config(), clock)->prepare(in_ms(10'000));
  EXPECT_EQ(r.answer, Answer::veto);
  EXPECT_NE(r.reason.find("outside the volume"), std::string::npos) << r.reason;
}

TEST_F(Sqlite, WhatIsNoDatabaseFails) {
  SqliteConfig c = config();
  spit(scratch / "vol/text", std::string(5000, 'x'));
  c.databases = {scratch / "vol/text"};
  WriterReport r = make_sqlite_writer(c, clock)->prepare(in_ms(10'000));
  EXPECT_EQ(r.answer, Answer::failed);
  EXPECT_NE(r.reason.find("not a database"), std::string::npos) << r.reason;
}

TEST_F(Sqlite, AHungOneIsKilled) {
  SqliteConfig c = config();
  c.sqlite3 = scratch / "hung";
  spit(c.sqlite3, "#!/bin/sh\necho $$ > " + (scratch / "pid") + "\nexec sleep 1000\n", 0755);
  WriterReport r = late(*make_sqlite_writer(c, clock), [&](const WriterReport&) { return slurp(scratch / "pid").ends_with('\n'); });
  EXPECT_NE(r.reason.find("sqlite3 did not answer"), std::string::npos) << r.reason;
  const std::string process = "/proc/" + std::to_string(std::stoi(slurp(scratch / "pid")));
  EXPECT_TRUE(platform::eventually([&] { return !std::filesystem::exists(process); }));
}

TEST_F(Sqlite, ATransactionIsToldOfThoughTheLastAttemptIsNotAnswered) {
  SqliteConfig c = config();
  c.sqlite3 = scratch / "slow";
  spit(c.sqlite3, "#!/bin/sh\nwhile read -r line; do\n  case $line in *end-*)\n    echo 'database is locked' >&2\n    line=${line#*\\'}; echo \"${line%\\'*}\"\n"
       "    exec sleep 1000;;\n  esac\ndone\n", 0755);
  WriterReport r = late(*make_sqlite_writer(c, clock), answered);
  EXPECT_NE(r.reason.find("a transaction did not end in time"), std::string::npos) << r.reason;
}

}  // namespace
}  // namespace somfs::snapshot
