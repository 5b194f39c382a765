// SPDX-License-Identifier: Apache-2.0
// A real PostgreSQL server on a private socket, stopped, killed and misplaced.
#include <gtest/gtest.h>
#include <pwd.h>
#include <signal.h>

#include <algorithm>
#include <future>

#include "snapshot/child.h"
#include "snapshot/writers.h"
#include "tests/platform/scratch.h"

namespace somfs::snapshot {
namespace {

using platform::eventually;
using platform::slurp;
using Answer = WriterReport::Answer;

// "/usr/lib/postgresql/15/bin/", the newest; empty: none.
std::string binaries() {
  std::vector<std::string> found;
  std::error_code ec;
  for (std::filesystem::directory_iterator i("/usr/lib/postgresql", ec), end; !ec && i != end; i.increment(ec))
    if (std::filesystem::exists(i->path() / "bin/initdb")) found.push_back((i->path() / "bin/").string());
  return found.empty() ? "" : *std::max_element(found.begin(), found.end());
}

class Postgres : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    pristine = std::make_unique<platform::Scratch>();
    const passwd* pw = ::getpwnam("postgres");
    ASSERT_EQ(::chown(pristine->path().c_str(), pw->pw_uid, pw->pw_gid), 0);
    run_as_postgres({binaries() + "initdb", "-N", "-A", "trust", "-D", *pristine / "data"});
  }
  static void TearDownTestSuite() { pristine.reset(); }
  static void run_as_postgres(const std::vector<std::string>& argv) {
    SystemClock clock;
    Child::Options o;
    o.argv = argv;
    o.user = "postgres";
    auto done = Child::start(o, clock);
    ASSERT_TRUE(done) << done.error().line();
    ASSERT_EQ(done->wait(clock.mono_ns() + 120'000'000'000), 0) << done->last_error();
  }
  void SetUp() override {
    const passwd* pw = ::getpwnam("postgres");
    for (const char* d : {"vol", "outside", "sock"}) {
      std::filesystem::create_directory(scratch / d);
      ASSERT_EQ(::chown((scratch / d).c_str(), pw->pw_uid, pw->pw_gid), 0);
    }
    // The WAL beside the data, so that pg_wal is a symbolic link.
    run_as_postgres({"/bin/sh", "-c", "cp -a \"$1\" \"$2/data\" && mv \"$2/data/pg_wal\" \"$2/wal\" && ln -s ../wal \"$2/data/pg_wal\"",
                     "sh", *pristine / "data", scratch / "vol"});
    // The shell ends the server when the test ends, however it does.
    Child::Options run;
    run.argv = {"/bin/sh", "-c", "\"$@\" 2>&1 </dev/null & pid=$!; read -r end; kill -QUIT $pid; wait $pid", "server",
                binaries() + "postgres", "-D", scratch / "vol/data", "-k", scratch / "sock", "-c", "listen_addresses=", "-c",
                "fsync=off", "-c", "log_destination=stderr", "-c", "logging_collector=off"};
    run.user = "postgres";
    run.own_session = true;
    auto started = Child::start(run, clock);
    ASSERT_TRUE(started) << started.error().line();
    server.emplace(std::move(*started));
    std::string line;
    while (line.find("ready to accept connections") == std::string::npos)
      ASSERT_EQ(server->line(&line, in_ms(60'000)), Child::Got::line) << line;
    postmaster = std::stoi(slurp(scratch / "vol/data/postmaster.pid"));
  }
  void TearDown() override {
    if (!server) return;
    ::kill(postmaster, SIGCONT);
    server->close_input();
    EXPECT_TRUE(server->wait(in_ms(60'000)));
  }
  PostgresConfig config() {
    PostgresConfig c;
    c.volume = scratch / "vol";
    c.host = scratch / "sock";
    c.on_label = [this](const std::string& s, const std::string& l) {
      label_of = s;
      label = l;
    };
    return c;
  }
  std::shared_ptr<Writer> writer(const PostgresConfig& c) {
    auto w = make_postgres_writer(c, clock);
    CutRequest r;
    r.name = "it's";
    w->announce(r);
    return w;
  }
  std::string sql(const std::string& text) {
    Child::Options o;
    o.argv = {"/usr/bin/psql", "-XqAt", "-h", scratch / "sock", "-U", "postgres", "-c", text};
    auto c = Child::start(o, clock);
    std::string out;
    if (c) c->line(&out, in_ms(30'000));
    return out;
  }
  std::string sessions() { return sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'somfs'"); }
  std::int64_t in_ms(int ms) const { return clock.mono_ns() + ms * 1'000'000ll; }

  static inline std::unique_ptr<platform::Scratch> pristine;  // a cluster as initdb leaves it
  SystemClock clock;
  platform::Scratch scratch;
  std::optional<Child> server;
  pid_t postmaster = -1;
  std::string label, label_of;
};

TEST_F(Postgres, HoldsABackupAcrossTheCutAndHandsBackItsLabel) {
  auto w = writer(config());
  WriterReport r = w->prepare(in_ms(60'000));
  ASSERT_EQ(r.answer, Answer::ready) << r.reason;
  EXPECT_EQ(sessions(), "1");
  EXPECT_EQ(label, "");
  w->release(true, in_ms(60'000));
  EXPECT_EQ(label_of, "it's");
  EXPECT_NE(label.find("START WAL LOCATION: "), std::string::npos) << label;
  EXPECT_NE(label.find("LABEL: somfs it's\n"), std::string::npos) << label;
  EXPECT_TRUE(eventually([&] { return sessions() == "0"; }));
  w->release(true, in_ms(60'000));
}

TEST_F(Postgres, WithoutASnapshotTheBackupIsDropped) {
  auto w = writer(config());
  ASSERT_EQ(w->prepare(in_ms(60'000)).answer, Answer::ready);
  w->release(false, in_ms(60'000));
  EXPECT_EQ(label, "");
  EXPECT_TRUE(eventually([&] { return sessions() == "0"; }));
}

TEST_F(Postgres, ACopyTakenWhileItIsHeldRecovers) {
  sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
  auto w = writer(config());
  ASSERT_EQ(w->prepare(in_ms(60'000)).answer, Answer::ready);
  // Nobody writes, so a plain copy is what a cut would show.
  std::filesystem::create_directory(scratch / "copy");
  Child::Options cp;
  cp.argv = {"/bin/cp", "-a", scratch / "vol/data", scratch / "copy/data"};
  auto copied = Child::start(cp, clock);
  ASSERT_TRUE(copied);
  ASSERT_EQ(copied->wait(in_ms(60'000)), 0) << copied->last_error();
  cp.argv = {"/bin/sh", "-c", "rm \"$1/copy/data/pg_wal\" \"$1/copy/data/postmaster.pid\" && cp -a \"$1/vol/wal\" \"$1/copy/data/pg_wal\"",
             "sh", scratch.path()};
  auto fixed = Child::start(cp, clock);
  ASSERT_TRUE(fixed);
  ASSERT_EQ(fixed->wait(in_ms(60'000)), 0) << fixed->last_error();
  w->release(true, in_ms(60'000));
  Child::Options single;
  single.argv = {"/bin/sh", "-c", "echo 'SELECT count(*) FROM t' | \"$@\"", "sh", binaries() + "postgres", "--single", "-D",
                 scratch / "copy/data", "postgres"};
  single.user = "postgres";
  auto recovered = Child::start(single, clock);
  ASSERT_TRUE(recovered);
  std::string line, all;
  while (recovered->line(&line, in_ms(60'000)) == Child::Got::line) all += line + "\n";
  EXPECT_NE(all.find("count = \"1000\""), std::string::npos) << all << recovered->last_error();
}

TEST_F(Postgres, WalOutsideIsAVeto) {
  PostgresConfig c = config();
  c.volume = scratch / "vol/data";
  WriterReport r = writer(c)->prepare(in_ms(60'000));
  EXPECT_EQ(r.answer, Answer::veto);
  EXPECT_NE(r.reason.find("pg_wal lies outside the volume"), std::string::npos) << r.reason;
  c.volume = scratch / "outside";
  EXPECT_EQ(writer(c)->prepare(in_ms(60'000)).answer, Answer::veto);
  EXPECT_TRUE(eventually([&] { return sessions() == "0"; }));
}

TEST_F(Postgres, ATablespaceOutsideIsAVeto) {
  sql("CREATE TABLESPACE far LOCATION '" + (scratch / "outside") + "'");
  WriterReport r = writer(config())->prepare(in_ms(60'000));
  EXPECT_EQ(r.answer, Answer::veto);
  EXPECT_NE(r.reason.find("/outside lies outside the volume"), std::string::npos) << r.reason;
}

TEST_F(Postgres, AServerThatHangsIsATimeout) {
  ::kill(postmaster, SIGSTOP);
  auto w = writer(config());
  WriterReport r = w->prepare(in_ms(700));
  EXPECT_EQ(r.answer, Answer::timeout) << r.reason;
  w->release(false, in_ms(1000));
}

TEST_F(Postgres, ACheckpointThatHangsIsATimeoutAndTheSessionIsGone) {
  const pid_t checkpointer = std::stoi(sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"));
  ::kill(checkpointer, SIGSTOP);
  WriterReport r = writer(config())->prepare(in_ms(1500));
  ::kill(checkpointer, SIGCONT);
  EXPECT_EQ(r.answer, Answer::timeout) << r.reason;
  EXPECT_TRUE(eventually([&] { return sessions() == "0"; }));
}

TEST_F(Postgres, AServerKilledWhileItPreparesIsAFailure) {
  const pid_t checkpointer = std::stoi(sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"));
  ::kill(checkpointer, SIGSTOP);
  auto w = writer(config());
  auto answer = std::async(std::launch::async, [&] { return w->prepare(in_ms(60'000)); });
  EXPECT_TRUE(eventually([&] {
    return sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'somfs' AND query LIKE '%backup%start%'") == "1";
  }));
  // The session too: alone it may wait for a checkpoint that nobody makes any more.
  const pid_t session = std::stoi(sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'somfs'"));
  ::kill(postmaster, SIGKILL);
  ::kill(session, SIGKILL);
  ::kill(checkpointer, SIGKILL);
  WriterReport r = answer.get();
  EXPECT_EQ(r.answer, Answer::failed);
  EXPECT_FALSE(r.reason.empty());
  w->release(false, in_ms(1000));
}

TEST_F(Postgres, AServerKilledWhileHeldDoesNotHoldUpTheRelease) {
  auto w = writer(config());
  ASSERT_EQ(w->prepare(in_ms(60'000)).answer, Answer::ready);
  // The session too: alone it may live long enough to answer.
  const pid_t session = std::stoi(sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'somfs'"));
  ::kill(postmaster, SIGKILL);
  ::kill(session, SIGKILL);
  w->release(true, in_ms(20'000));
  w->release(true, in_ms(20'000));
  EXPECT_EQ(label, "");
}

TEST_F(Postgres, NoServerIsAFailureWithItsReason) {
  PostgresConfig c = config();
  c.host = scratch / "outside";
  WriterReport r = writer(c)->prepare(in_ms(20'000));
  EXPECT_EQ(r.answer, Answer::failed);
  EXPECT_NE(r.reason.find("No such file"), std::string::npos) << r.reason;
  c.os_user = "no such user";
  EXPECT_EQ(writer(c)->prepare(in_ms(20'000)).answer, Answer::failed);
}

TEST_F(Postgres, ConnectsAsAnotherUserOfTheSystem) {
  PostgresConfig c = config();
  c.os_user = "postgres";
  auto w = writer(c);
  WriterReport r = w->prepare(in_ms(60'000));
  EXPECT_EQ(r.answer, Answer::ready) << r.reason;
  w->release(true, in_ms(60'000));
}

}  // namespace
}  // namespace somfs::snapshot

int main(int argc, char** argv) {
  if (somfs::snapshot::binaries().empty()) somfs::platform::skip("no PostgreSQL server is installed");
  if (::geteuid() != 0 || ::getpwnam("postgres") == nullptr)
    somfs::platform::skip("it takes root to start a server as the user postgres, which has to exist");
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
