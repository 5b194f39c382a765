// SPDX-License-Identifier: Apache-2.0
// A mirror daemon whose workers have fallen into an enemy's hands. The daemon starts its own program as its workers: here that is this
// test, which then does what the file `mode` says.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "cli/mirror_daemon.h"
#include "cli/worker.h"
#include "common/fd.h"
#include "replicator/dial.h"
#include "replicator/frame.h"
#include "replicator/framing.h"
#include "replicator/keys.h"

namespace somfs::cli {
namespace {

using namespace replicator;

// ---- the worker
constexpr int kCaller = 3, kDaemon = 4;

Result<Step> ask(std::string_view brought) {
  SOMFS_TRY(send_packet(kDaemon, brought, Patience::for_ever()));
  SOMFS_TRY_ASSIGN(const std::string packet, receive_packet(kDaemon, Reception::kMost, Patience::for_ever()));
  return Step::decode(packet);
}

void hostile() {
  const std::string mode = read_file(AT_FDCWD, "mode", 100).value_or("");
  const std::string rubbish(100'000, '\xff');
  if (mode == "silent") ::pause();
  if (mode == "long packet") (void)write_all(kDaemon, rubbish);
  if (mode == "rubbish") (void)ask(rubbish.substr(0, 1000));
  auto call = answer_call(kCaller, ask, Patience::for_ever());
  if (!call) return;
  auto framing = sealed_framing(std::make_unique<Channel>(call->session));
  const std::string header = call->first.substr(0, framing->header_size());
  (void)framing->body_size(header);
  auto first = decode(*framing, header, call->first.substr(header.size()));
  Hello hello;
  if (!first || !decode(first->body, &hello)) return;
  if (mode == "another volume") hello.volume_name = "second";
  if (mode == "another source's volume") hello.volume_name = "other";
  if (mode == "another lineage") hello.generation = Uuid::random();
  std::string frame = encode_frame({MessageType::hello, encode(hello)}, Codec::stored);
  if (mode == "no hello") frame = encode_frame({MessageType::begin, encode(Begin{})}, Codec::stored);
  if (mode == "compressed") frame = encode_frame({MessageType::hello, std::string(1000, 'h')});
  if (mode == "large frame") {
    frame = encode_frame({MessageType::records, std::string(1000, 'r')}, Codec::stored);
    frame.replace(8, 8, std::string(8, '\x7f'));
  }
  (void)write_all(kDaemon, frame);
  // What the daemon says, as it is: a worker can lie to its own caller.
  auto plain = make_stream(kDaemon, kDaemon, stored_framing());
  auto caller = make_stream(kCaller, kCaller, std::move(framing));
  for (;;) {
    auto m = plain->receive();
    if (!m || !caller->send(std::move(*m))) return;
  }
}

// ---- the daemon
class HostileWorker : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(::mkdtemp(dir_.data()), nullptr);
    ASSERT_EQ(::chdir(dir_.c_str()), 0);
    auto keys = MirrorKeys::open("store");
    ASSERT_TRUE(keys);
    mirror_ = *keys->shared();
    ASSERT_TRUE(keys->allow({source_.shared, {{"data", kSourceRights}, {"second", kSourceRights}}, "this one"}));
    ASSERT_TRUE(keys->allow({KeyPair::generate().shared, {{"other", kSourceRights}}, "another one"}));
    std::vector<Fd> listeners;
    listeners.push_back(std::move(*listen_on({"127.0.0.1", 0})));
    port_ = bound_port(listeners.front().get());
    auto daemon = MirrorDaemon::make("store", std::move(listeners), {}, {.connections = 8, .strangers = 4, .handshake_s = 1}, {});
    ASSERT_TRUE(daemon);
    daemon_ = std::move(*daemon);
    run_ = std::thread([this] { EXPECT_TRUE(daemon_->run([](std::size_t) {})); });
  }
  void TearDown() override {
    if (daemon_) daemon_->stop();
    if (run_.joinable()) run_.join();
    ASSERT_EQ(::chdir("/"), 0);
    (void)::system(("rm -rf '" + dir_ + "'").c_str());
  }
  // What a source meets that wants to say hello.
  Result<Message> meets(const std::string& mode) {
    SOMFS_TRY(replace_file(AT_FDCWD, "mode", mode));
    SOMFS_TRY_ASSIGN(Fd socket, connect_to({"127.0.0.1", port_}, Patience::for_seconds(60)));
    SOMFS_TRY_ASSIGN(auto channel, link_channel(socket.get(), source_.secret, mirror_, Patience::for_seconds(60)));
    auto talk = make_sealed_stream(socket.release(), std::move(channel));
    Hello hello;
    hello.volume = Uuid::random();
    hello.generation = Uuid::random();
    hello.wants = "migrate";
    hello.volume_name = "data";
    SOMFS_TRY(talk->send({MessageType::hello, encode(hello)}));
    return talk->receive();
  }
  static bool there(const char* path) { return ::access(path, F_OK) == 0; }
  static int exit_of(const Result<Message>& met) {
    ErrorBody e;
    return met && met->type == MessageType::error && decode(met->body, &e) ? e.exit : -1;
  }

  std::string dir_ = "/tmp/somfs-hostile-worker-XXXXXX";
  const KeyPair source_ = KeyPair::generate();
  PublicKey mirror_;
  std::uint16_t port_ = 0;
  std::unique_ptr<MirrorDaemon> daemon_;
  std::thread run_;
};

TEST_F(HostileWorker, AnHonestOneServes) {
  auto met = meets("honest");
  ASSERT_TRUE(met) << met.error().line();
  EXPECT_EQ(met->type, MessageType::welcome);
  EXPECT_TRUE(there("store/data"));
}

TEST_F(HostileWorker, CannotSpeakForAnotherVolumeOrLineage) {
  for (const char* mode : {"another volume", "another source's volume", "another lineage"}) EXPECT_EQ(exit_of(meets(mode)), static_cast<int>(Exit::not_allowed)) << mode;
  for (const char* made : {"store/other", "store/second"}) EXPECT_FALSE(there(made)) << made;
  EXPECT_FALSE(there("store/data"));
}

TEST_F(HostileWorker, IsCheckedAsAnyPeer) {
  EXPECT_EQ(exit_of(meets("no hello")), static_cast<int>(Exit::temporary));
  for (const char* mode : {"compressed", "large frame", "long packet", "rubbish"}) EXPECT_FALSE(meets(mode)) << mode;
  EXPECT_FALSE(there("store/data"));
  EXPECT_TRUE(meets("honest"));
}

// They end by the daemon's clock.
TEST_F(HostileWorker, SilentOnesDoNotKeepItsPlaces) {
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(meets("silent"));
  EXPECT_TRUE(meets("honest"));
}

}  // namespace
}  // namespace somfs::cli

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == somfs::cli::Worker::kWord) {
    somfs::cli::hostile();
    return 0;
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
