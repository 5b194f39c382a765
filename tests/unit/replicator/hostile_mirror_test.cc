// SPDX-License-Identifier: Apache-2.0
// A mirror that lies to the source: whatever it says, the source ends with an error or its own truth, and reads nothing outside the view.
#include <gtest/gtest.h>

#include <sys/socket.h>

#include <atomic>

#include "common/bytes.h"
#include "replicator/frame.h"
#include "tests/unit/replicator/migrate_world.h"

namespace somfs::replicator {
namespace {

using test::fill;
using test::World;

// What the mirror's end answers, message by message; nullopt: it hangs up.
using Answers = std::function<std::optional<std::vector<Message>>(const Message&)>;

Connect lying(std::vector<std::jthread>* servers, Answers answers, std::function<void(const Message&)> watch = {}) {
  return [=]() -> Result<std::unique_ptr<Transport>> {
    servers->clear();
    auto [mine, theirs] = make_pair_in_process();
    servers->emplace_back([=, t = std::shared_ptr<Transport>(std::move(theirs))] {
      while (auto m = t->receive()) {
        if (watch) watch(*m);
        auto out = answers(*m);
        if (!out) break;
        for (Message& a : *out)
          if (!t->send(std::move(a))) break;
      }
      t->close();
    });
    return std::move(mine);
  };
}

Message welcome(const Hello& h, std::uint64_t epoch, std::uint64_t files) {
  Welcome w;
  w.mirror = Uuid::random();
  if (epoch != 0) {
    w.volume = h.volume;
    w.generation = h.generation;
  }
  w.epoch = epoch;
  w.files = files;
  return {MessageType::welcome, encode(w)};
}

// Says hello as an honest one, and then what `rest` says.
Answers after_hello(std::uint64_t epoch, std::uint64_t files, Answers rest) {
  return [=](const Message& m) -> std::optional<std::vector<Message>> {
    if (m.type != MessageType::hello) return rest(m);
    Hello h;
    EXPECT_TRUE(decode(m.body, &h));
    return std::vector<Message>{welcome(h, epoch, files)};
  };
}

std::vector<Message> taken(std::uint64_t epoch, const std::string& root) {
  Committed c;
  c.epoch = epoch;
  c.root = root;
  return {{MessageType::committed, encode(c)}, {MessageType::applied, encode(Applied{epoch, 0.001})}};
}

Error error_of(World& w, const Answers& answers, World::Knows knows = World::Knows::nothing) {
  std::vector<std::jthread> servers;
  auto report = w.attempt(knows, {}, lying(&servers, answers));
  EXPECT_FALSE(report);
  return report ? Error{} : report.error();
}

TEST(HostileMirror, WelcomesOfEveryOtherTypeAndGarbageEndTheRun) {
  World w;
  w.write("f", "x");
  for (int type = 1; type <= static_cast<int>(MessageType::applied); ++type) {
    if (type == static_cast<int>(MessageType::progress)) continue;   // may come at any time, and says nothing
    Error e = error_of(w, [&](const Message&) { return std::vector<Message>{{static_cast<MessageType>(type), "\xff garbage"}}; });
    EXPECT_NE(e.exit, Exit::done) << type;
    EXPECT_FALSE(e.line().empty());
  }
}

TEST(HostileMirror, ItsErrorsCannotPassForSuccessNorWriteOnTheTerminal) {
  World w;
  w.write("f", "x");
  for (int code : {0, 3, 5, 6, 130, 255}) {
    Error e = error_of(w, [&](const Message&) {
      return std::vector<Message>{{MessageType::error, encode(ErrorBody{static_cast<std::uint8_t>(code), "\x1b]0;owned\x07\r\nyes"})}};
    });
    EXPECT_EQ(e.exit, Exit::temporary) << code;
    EXPECT_EQ(e.line().find_first_of("\x1b\x07\r\n"), std::string::npos) << e.line();
  }
  EXPECT_EQ(error_of(w, [](const Message&) { return std::vector<Message>{{MessageType::error, encode(ErrorBody{11, "busy"})}}; }).exit, Exit::locked);
}

TEST(HostileMirror, AReasonForHoldingIsPrintable) {
  World w;
  w.write("f", "x");
  std::vector<std::jthread> servers;
  auto report = w.attempt(World::Knows::nothing, {}, lying(&servers, after_hello(0, 0, [&](const Message& m) {
    if (m.type != MessageType::commit) return std::vector<Message>{};
    Committed c;
    c.root = m.body;
    c.epoch = w.epoch();
    c.held = true;
    c.reason = "\x1b[2J";
    return std::vector<Message>{{MessageType::committed, encode(c)}};
  })));
  ASSERT_TRUE(report) << report.error().line();
  EXPECT_TRUE(report->held);
  EXPECT_EQ(report->held_reason.find('\x1b'), std::string::npos);
  EXPECT_EQ(w.acknowledged(), 0u);
}

TEST(HostileMirror, ACommitOfSomethingElseIsNoAcknowledgement) {
  World w;
  w.write("f", "x");
  for (const std::string& root : {std::string(), std::string(32, 'x')}) {
    Error e = error_of(w, after_hello(0, 0, [&](const Message& m) {
      if (m.type != MessageType::commit) return std::vector<Message>{};
      Committed c;
      c.epoch = w.epoch();
      c.root = root;
      return std::vector<Message>{{MessageType::committed, encode(c)}};
    }));
    EXPECT_EQ(e.exit, Exit::peer_version);
    EXPECT_EQ(w.acknowledged(), 0u);
  }
}

TEST(HostileMirror, ACommitOfAnotherEpochIsNoAcknowledgement) {
  World w;
  w.write("f", "x");
  Error e = error_of(w, after_hello(0, 0, [&](const Message& m) {
    if (m.type != MessageType::commit) return std::vector<Message>{};
    Committed c;
    c.root = m.body;
    c.epoch = w.epoch() + 7;
    return std::vector<Message>{{MessageType::committed, encode(c)}};
  }));
  EXPECT_EQ(e.exit, Exit::peer_version);
  EXPECT_EQ(w.acknowledged(), 0u);
}

// What it says of an epoch comes in order, and is of that epoch.
TEST(HostileMirror, VerdictsOutOfOrderAreNoAcknowledgement) {
  const auto of = [](std::uint64_t committed, std::uint64_t applied) {
    Committed c;
    c.epoch = committed;
    return std::pair{Message{MessageType::committed, encode(c)}, Message{MessageType::applied, encode(Applied{applied, 0})}};
  };
  for (int how = 0; how < 5; ++how) {
    World w;
    w.write("f", "x");
    Error e = error_of(w, after_hello(0, 0, [&](const Message& m) {
      if (m.type != MessageType::commit) return std::vector<Message>{};
      auto [committed, applied] = of(w.epoch(), how == 0 ? w.epoch() + 1 : w.epoch());
      switch (how) {
        case 0: return std::vector<Message>{committed, applied};
        case 1: return std::vector<Message>{applied, committed};
        case 2: return std::vector<Message>{committed, committed};
        case 3: return std::vector<Message>{applied};
        default: return std::vector<Message>{committed, {MessageType::applied, applied.body + "x"}};
      }
    }));
    EXPECT_EQ(e.exit, Exit::peer_version) << how;
    EXPECT_EQ(w.acknowledged(), 0u) << how;
  }
}

Message listing_of(const Message& asked, std::vector<ListRow> rows) {
  ByteReader r{std::string_view(asked.body)};
  return {MessageType::listing, encode(rows, r.id())};
}

ListRow row(const std::string& name, ObjectId id, Kind kind) {
  ListRow r;
  r.name = name;
  r.object = id;
  r.kind = kind;
  return r;
}

TEST(HostileMirror, DirectoriesInventedForEverEnd) {
  World w;
  fill(w);
  std::uint64_t next = 1000;
  // Every directory that is asked for has two more below it.
  Error e = error_of(w, after_hello(5, 100, [&](const Message& m) -> std::optional<std::vector<Message>> {
    if (m.type != MessageType::list) return std::vector<Message>{};
    next += 2;
    return std::vector<Message>{listing_of(m, {row("x", {next, 1}, Kind::dir), row("y", {next + 1, 1}, Kind::dir)})};
  }));
  EXPECT_EQ(e.exit, Exit::peer_version);
  EXPECT_LT(next, 5000u);
}

TEST(HostileMirror, ACircleOfDirectoriesEnds) {
  World w;
  fill(w);
  const ObjectId root = w.id(".");
  std::atomic<int> lists = 0;
  std::vector<std::jthread> servers;
  auto report = w.attempt(World::Knows::nothing, {}, lying(&servers, after_hello(5, 100, [&](const Message& m) {
    if (m.type == MessageType::list) {
      ++lists;
      return std::vector<Message>{listing_of(m, {row("again", root, Kind::dir), row("twice", {77, 1}, Kind::dir), row("twice", {77, 1}, Kind::dir)})};
    }
    if (m.type != MessageType::commit) return std::vector<Message>{};
    return taken(w.epoch(), m.body);
  })));
  EXPECT_LT(lists, 20);
  EXPECT_TRUE(report || report.error().exit != Exit::done);
}

TEST(HostileMirror, NamesInListingsThatLeaveTheirDirectoryAreRefused) {
  World w;
  fill(w);
  for (const char* name : {"..", ".", "a/b", ""}) {
    Error e = error_of(w, after_hello(5, 100, [&](const Message& m) {
      if (m.type != MessageType::list) return std::vector<Message>{};
      return std::vector<Message>{listing_of(m, {row(name, {77, 1}, Kind::file)})};
    }));
    EXPECT_EQ(e.exit, Exit::peer_version) << name;
  }
}

// Objects whose ids the mirror claims to know: the content of the source's own may be left out, nothing else may come of it.
TEST(HostileMirror, ClaimedObjectsNeverMakeTheSourceReadOutsideItsView) {
  World w;
  fill(w);
  Fd outside(::open((w.mirror() + "-secret").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(write_all(outside.get(), "not of this volume"), 0);
  const ObjectId secret = inode_of(outside.get())->id;
  std::string sent;
  std::vector<std::jthread> servers;
  auto report = w.attempt(World::Knows::nothing, {}, lying(&servers, after_hello(5, 1000, [&](const Message& m) {
    if (m.type == MessageType::list) return std::vector<Message>{listing_of(m, {row("d", secret, Kind::dir), row("empty", secret, Kind::file)})};
    if (m.type == MessageType::signature) return std::vector<Message>{{MessageType::signed_, "rs\x01\x37 nonsense"}, {MessageType::signed_, {}}};
    if (m.type != MessageType::commit) return std::vector<Message>{};
    return taken(w.epoch(), m.body);
  }), [&](const Message& m) { sent += m.body; }));
  servers.clear();
  EXPECT_EQ(sent.find("not of this volume"), std::string::npos);
  ASSERT_TRUE(report) << report.error().line();
  ::unlink((w.mirror() + "-secret").c_str());
}

TEST(HostileMirror, ASignatureWithoutEndIsRefused) {
  World w;
  w.write("f", test::noise(200000, 1));
  const ObjectId f = w.id("f");
  std::vector<std::jthread> servers;
  auto report = w.attempt(World::Knows::nothing, {}, [&]() -> Result<std::unique_ptr<Transport>> {
    servers.clear();
    auto [mine, theirs] = make_pair_in_process();
    servers.emplace_back([&, t = std::shared_ptr<Transport>(std::move(theirs))] {
      while (auto m = t->receive()) {
        Hello h;
        ListRow known = row("f", f, Kind::file);
        known.size = 200000;
        if (m->type == MessageType::hello && decode(m->body, &h)) (void)t->send(welcome(h, 5, 10));
        if (m->type == MessageType::list) (void)t->send(listing_of(*m, {known}));
        while (m->type == MessageType::signature && t->send({MessageType::signed_, std::string(1u << 20, 's')})) {}
      }
      t->close();
    });
    return std::move(mine);
  });
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().exit, Exit::peer_version);
}

TEST(HostileMirror, RowsOfAnInspectionThatGoBackAreRefused) {
  World w;
  fill(w);
  w.migrate();
  std::vector<std::jthread> servers;
  auto refused = w.verify_with(lying(&servers, after_hello(1, 10, [](const Message& m) {
    if (m.type != MessageType::inspect) return std::vector<Message>{};
    InspectRow r;
    r.path = {"same"};
    std::vector<Message> out;
    for (int i = 0; i < 3; ++i) out.push_back({MessageType::inspected, encode(std::vector<InspectRow>{r})});
    return out;
  })));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::peer_version);
}

TEST(HostileMirror, AMirrorThatSaysNothingEndsWhenTheUserDoes) {
  World w;
  w.write("f", "x");
  Error e = error_of(w, [&](const Message&) {
    w.progress.cancelled = true;
    return std::vector<Message>{};
  });
  EXPECT_EQ(e.exit, Exit::interrupted);
}

// Frames over a real descriptor: broken lengths, bombs and unknown types are errors, and nothing is allocated for what is only claimed.
TEST(HostileMirror, FramesThatLieAreErrors) {
  auto answer = [](std::string bytes) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    auto t = make_stream(ends[0], ends[0]);
    EXPECT_EQ(write_all(ends[1], bytes), 0);
    ::shutdown(ends[1], SHUT_WR);
    auto m = t->receive();
    ::close(ends[1]);
    t->close();
    return m;
  };
  auto reseal = [](std::string frame) {
    std::string sum;
    ByteWriter(sum).u32(crc32c(std::string_view(frame).substr(kFrameHeader), crc32c(std::string_view(frame).substr(0, 16))));
    return frame.replace(16, 4, sum);
  };
  auto patched = [&](std::string frame, std::size_t at, const std::string& with) { return reseal(frame.replace(at, with.size(), with)); };
  const std::string good = encode_frame({MessageType::records, std::string(1u << 20, 'z')});
  ASSERT_TRUE(answer(good));
  ASSERT_LT(good.size(), 100000u);
  EXPECT_FALSE(answer(patched(good, 5, std::string(1, static_cast<char>(MessageType::applied) + 1))));   // the last type there is, and one
  EXPECT_FALSE(answer(patched(good, 5, std::string(1, '\0'))));
  EXPECT_FALSE(answer(patched(good, 8, std::string("\xff\xff\xff\xff", 4))));  // raw length
  EXPECT_FALSE(answer(patched(good, 8, std::string("\x00\x00\x40\x00", 4))));  // 4 MiB claimed, 1 MiB packed
  EXPECT_FALSE(answer(patched(good, 12, std::string("\xff\xff\xff\x7f", 4)))); // wire length
  // Snappy's own length says 4 GiB - 1, the header 1 MiB.
  EXPECT_FALSE(answer(patched(good, kFrameHeader, std::string("\xff\xff\xff\xff\x0f", 5))));
  EXPECT_FALSE(answer(patched(good, kFrameHeader + 20, std::string(64, '\xfe'))));
}

}  // namespace
}  // namespace somfs::replicator
