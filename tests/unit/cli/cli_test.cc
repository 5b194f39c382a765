// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <sstream>
#include <thread>

#include "cli/config.h"
#include "cli/control.h"
#include "cli/control_server.h"
#include "cli/lease.h"
#include "cli/target.h"
#include "cli/terminal.h"
#include "cli/verb.h"

namespace somfs::cli {
namespace {

TEST(Config, WholeFile) {
  auto c = parse_config(R"(
[volume]
exclude = ["cache/", "/tmp/scratch"]
[snapshot]
reserve = "2GiB"
expire = "12h"
index_memory = "32MiB"
hold = "800ms"
drain = "250ms"
[journal]
memory = "16MiB"
[migrate]
target = "/backup/data"
brake = 0.25
bwlimit = "10M"
compress = "zstd"
pipeline = "hybrid"
threads = 3
[[writer]]
type = "postgresql"
socket = "/run/postgresql"
timeout = "5s"
[[writer]]
type = "hooks"
name = "shop"
directory = "/etc/somfs/hooks.d"
)", "t.conf");
  ASSERT_TRUE(c) << c.error().line();
  EXPECT_EQ(c->excludes, (std::vector<std::string>{"cache", "tmp/scratch"}));
  EXPECT_EQ(c->reserve_bytes(100), 2ull << 30);
  EXPECT_EQ(c->expire_s, 43200);
  EXPECT_EQ(c->hold_ms, 800u);
  EXPECT_EQ(c->drain_ms, 250u);
  EXPECT_EQ(c->journal_memory, 16u << 20);
  EXPECT_EQ(c->brake, 0.25);
  EXPECT_EQ(c->link.bwlimit, 10u << 20);
  EXPECT_EQ(c->link.codec, replicator::Codec::zstd);
  EXPECT_EQ(c->link.sending, replicator::PipelineMode::hybrid);
  EXPECT_EQ(c->link.threads, 3u);
  EXPECT_EQ(link_settings(*c, "", "")->codec, replicator::Codec::zstd);
  EXPECT_EQ(link_settings(*c, "serial", "none")->codec, replicator::Codec::stored);
  EXPECT_EQ(link_settings(*c, "parallel", "").error().exit, Exit::usage);
  EXPECT_FALSE(parse_config("[migrate]\npipeline = \"wide\"\n", "f"));
  EXPECT_FALSE(parse_config("[migrate]\ncompress = \"gzip\"\n", "f"));
  EXPECT_FALSE(parse_config("[migrate]\nthreads = 65\n", "f"));
  ASSERT_EQ(c->writers.size(), 2u);
  EXPECT_EQ(c->writers[0].name, "postgresql");
  EXPECT_EQ(c->writers[0].timeout_s, 5);
  EXPECT_EQ(c->writers[1].name, "shop");
}

TEST(Config, DefaultsAreSafe) {
  auto c = parse_config("", "t.conf");
  ASSERT_TRUE(c);
  EXPECT_EQ(c->reserve_bytes(1000), 50u);
  EXPECT_EQ(c->hold_ms, 1000u);
}

TEST(Config, EveryMistakeIsOneLineWithConfigurationCode) {
  for (const char* bad : {"[volume]\nexlude = []", "[typo]", "[snapshot]\nreserve = \"lots\"", "[snapshot]\nhold = \"1h\"", "[migrate]\nbrake = 2",
                          "[volume]\nexclude = [\"../etc\"]", "[volume]\nexclude = \"x\"", "[[writer]]\ntype = \"oracle\"", "[[writer]]\ntype = \"hooks\"",
                          "[writer]\ntype = \"hooks\"", "not toml at all", "[snapshot]\nreserve = \"200%\"", "[volume]\nexclude = [\"\"]",
                          // 704 ms, had it wrapped around
                          "[snapshot]\nhold = \"4294968s\"", "[snapshot]\nexpire = \"1e300d\"", "[snapshot]\nexpire = inf"}) {
    auto c = parse_config(bad, "t.conf");
    ASSERT_FALSE(c) << bad;
    EXPECT_EQ(c.error().exit, Exit::configuration) << bad;
    EXPECT_NE(c.error().line().find("t.conf"), std::string::npos) << bad;
    EXPECT_EQ(c.error().line().find('\n'), std::string::npos) << bad;
  }
  EXPECT_EQ(load_config("/no/such/file.conf").error().exit, Exit::configuration);
}

TEST(Terminal, SizesAndTimes) {
  EXPECT_EQ(*parse_bytes("5000"), 5000u);
  EXPECT_EQ(*parse_bytes("64K"), 65536u);
  EXPECT_EQ(*parse_bytes("10MiB"), 10u << 20);
  EXPECT_EQ(*parse_bytes("1.5g"), 3u << 29);
  for (const char* bad : {"", "x", "-1", "5Q", "10MiBs", "1e40"}) EXPECT_FALSE(parse_bytes(bad)) << bad;
  EXPECT_EQ(*parse_seconds("500ms"), 0.5);
  EXPECT_EQ(*parse_seconds("24h"), 86400);
  for (const char* bad : {"soon", "-1s", "nan", "inf", "40000d"}) EXPECT_FALSE(parse_seconds(bad)) << bad;
  EXPECT_EQ(human_bytes(1536), "1.50 KiB");
  EXPECT_EQ(human_seconds(125), "2 min 5 s");
  EXPECT_EQ(ProgressBar::bar(0.5, 10), "[#####.....]");
}

TEST(Target, Spellings) {
  EXPECT_EQ(parse_target("/backup/data/")->text, "/backup/data");
  EXPECT_EQ(parse_target("dir:/backup/./data")->text, "/backup/data");
  auto s = parse_target("ssh://root@backup/srv/m");
  ASSERT_TRUE(s);
  EXPECT_EQ(s->host, "root@backup");
  EXPECT_EQ(s->path, "/srv/m");
  auto n = parse_target("somfs://[::1]:7070/data");
  ASSERT_TRUE(n);
  EXPECT_EQ(n->address.host, "::1");
  EXPECT_EQ(n->address.port, 7070);
  EXPECT_EQ(n->volume, "data");
  EXPECT_EQ(n->text, "somfs://[::1]:7070/data");
  for (const char* bad : {"", "/", "ssh://host", "ssh:///path", "ssh://-oProxyCommand=x/p", "ssh://a b/p", "somfs://h:1", "somfs://h:1/",
                          "somfs://h/v", "somfs://:1/v", "somfs://h:0/v", "somfs://h:99999/v", "somfs://h:1/a/b", "somfs://h:1/..", "somfs://::1:7/v",
                          "vd:/x", "ftp://x/y"}) {
    auto t = parse_target(bad);
    ASSERT_FALSE(t) << bad;
    EXPECT_EQ(t.error().exit, Exit::usage) << bad;
  }
}

TEST(TargetLocks, WhoHasGoneIsKnownBeforeTheLockIsFree) {
  TargetLocks locks;
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  auto hold = locks.take("/m", ends[0]);
  EXPECT_FALSE(locks.leaving("/m"));
  ::close(ends[1]);
  EXPECT_TRUE(locks.leaving("/m"));
  EXPECT_FALSE(locks.take("/m"));
  hold = {};
  EXPECT_FALSE(locks.leaving("/m"));
  ::close(ends[0]);
  hold = locks.take("/m");
  EXPECT_FALSE(locks.leaving("/m")) << "this process itself";
}

TEST(TargetLocks, SecondRunIsRefusedUntilTheFirstIsGone) {
  TargetLocks locks;
  {
    auto a = locks.take("/m");
    EXPECT_TRUE(a);
    EXPECT_FALSE(locks.take("/m"));
    EXPECT_TRUE(locks.take("/other"));
    auto moved = std::move(a);
    EXPECT_TRUE(locks.held("/m"));
  }
  EXPECT_TRUE(locks.take("/m"));
}

class ControlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(::mkdtemp(dir_), nullptr);
    ::setenv("SOMFS_RUN_DIR", dir_, 1);
  }
  void TearDown() override {
    ::unsetenv("SOMFS_RUN_DIR");
    ::rmdir(dir_);
  }
  char dir_[32] = "/tmp/somfs-control-XXXXXX";
};

TEST_F(ControlTest, AsksAndPassesDescriptors) {
  auto server = ControlServer::start("/tmp", "/tmp", [](Connection& c, const Json& request) {
    if (request.value("verb", "") == "fail") {
      (void)c.send(error_json({Exit::veto, 0, "no", "it", "because", "wait"}));
      return;
    }
    Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    (void)c.send({{"echo", request}}, {null.get()});
    (void)c.receive();   // the lease: held until the client goes
  });
  ASSERT_TRUE(server) << server.error().line();
  auto m = find_mounted("/tmp");
  ASSERT_TRUE(m) << m.error().line();
  {
    auto c = connect_to(*m);
    ASSERT_TRUE(c);
    ASSERT_TRUE(c->send({{"verb", "x"}, {"n", 1}}));
    std::vector<Fd> fds;
    auto answer = c->receive(&fds);
    ASSERT_TRUE(answer);
    EXPECT_EQ((*answer)["echo"]["n"], 1);
    ASSERT_EQ(fds.size(), 1u);
    char b;
    EXPECT_EQ(::read(fds[0].get(), &b, 1), 0);
  }
  auto e = ask("/tmp", {{"verb", "fail"}});
  ASSERT_FALSE(e);
  EXPECT_EQ(e.error().exit, Exit::veto);
  EXPECT_EQ(e.error().line(), "no it: because; wait");
  server->reset();
  auto gone = find_mounted("/tmp");
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().exit, Exit::temporary);
}

TEST_F(ControlTest, StoppingTheServerEndsWaitingSessions) {
  auto server = ControlServer::start("/tmp", "/tmp", [](Connection& c, const Json&) { (void)c.receive(); });
  ASSERT_TRUE(server);
  auto c = connect_to(*find_mounted("/tmp"));
  ASSERT_TRUE(c->send({{"verb", "wait"}}));
  server->reset();
  EXPECT_FALSE(c->receive());
}

int run(std::vector<const char*> args, std::string* out, std::string* err) {
  args.insert(args.begin(), "somfs-ctl");
  std::ostringstream o, e;
  int code = control_main(static_cast<int>(args.size()), args.data(), o, e);
  *out = o.str();
  *err = e.str();
  return code;
}

TEST_F(ControlTest, CommandLineMistakesAreUsageInOneLine) {
  std::string out, err;
  for (std::vector<const char*> args : {std::vector<const char*>{}, {"frobnicate"}, {"migrate"}, {"migrate", "/x", "/y", "--nonsense"}, {"snapshot", "create"},
                                        {"migrate", "/tmp", "gopher://x"}, {"snapshot", "create", "/tmp", "--timeout", "-3"}}) {
    EXPECT_EQ(run(args, &out, &err), 1) << err;
    EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 1) << err;
  }
  EXPECT_EQ(run({"migrate", "--json"}, &out, &err), 1);
  EXPECT_EQ(Json::parse(out)["error"]["exit"], 1);
}

TEST_F(ControlTest, NotMountedIsTemporaryAndSaysWhatToDo) {
  std::string out, err;
  EXPECT_EQ(run({"status", "/usr"}, &out, &err), 75);
  EXPECT_NE(err.find("mount it first"), std::string::npos) << err;
  EXPECT_EQ(run({"status"}, &out, &err), 0);
  EXPECT_EQ(run({"status", "--json"}, &out, &err), 0);
  EXPECT_EQ(Json::parse(out).dump(), R"({"schema":1,"volumes":[]})");
}

TEST_F(ControlTest, HelpTeaches) {
  std::string out, err;
  for (const char* verb : {"status", "snapshot", "migrate", "verify", "held", "umount", "doctor", "config"}) {
    EXPECT_EQ(run({verb, "--help"}, &out, &err), 0);
    EXPECT_NE(out.find("somfs-ctl"), std::string::npos);
  }
}

}  // namespace
}  // namespace somfs::cli
