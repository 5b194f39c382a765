// SPDX-License-Identifier: Apache-2.0
// A source that means harm: serve() driven by hand-made messages. Whatever it says, nothing outside tree/ is touched, the old epoch
// stays until a sound one is committed, and the mirror can be opened and used afterwards.
#include <gtest/gtest.h>

#include <sys/socket.h>
#include <sys/xattr.h>

#include <deque>
#include <fstream>

#include "common/bytes.h"
#include "replicator/frame.h"
#include "replicator/mirror.h"
#include "tests/unit/replicator/mirror_model.h"

namespace somfs::replicator {
namespace {

using model::begin;
using model::compare;
using model::hello;
using model::plan;
using model::Scratch;
using model::State;

class Script final : public Transport {
 public:
  explicit Script(std::deque<Message> in) : in_(std::move(in)) {}
  std::vector<Message> out;
  Status send(Message m) override {
    out.push_back(std::move(m));
    return {};
  }
  Result<Message> receive() override {
    if (in_.empty()) return fail(Exit::link_down, "the script is over");
    Message m = std::move(in_.front());
    in_.pop_front();
    return m;
  }
  void close() noexcept override {}
  std::uint64_t bytes_sent() const override { return 0; }
  std::uint64_t bytes_received() const override { return 0; }

 private:
  std::deque<Message> in_;
};

class HostileSource : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "owners and device nodes need root";
    state.nodes.clear();
    State none = state;
    state = State();
    d = state.add(state.root, "d", Kind::dir);
    e = state.add(d, "e", Kind::dir);
    a = state.add(state.root, "a", Kind::file, "alpha");
    state.add(d, "inner", Kind::file, std::string(5000, 'i'));
    state.add(state.root, "link", Kind::symlink, "/etc/passwd");
    state.sweep();
    ASSERT_TRUE(say({{MessageType::begin, encode(begin(0, 1))}, {MessageType::records, plan(none, state)}, {MessageType::commit, {}}}));
    std::ofstream(scratch.path + "/../" + outside_name()) << "untouched";
    unchanged();
  }
  void TearDown() override { std::filesystem::remove(scratch.path + "/../" + outside_name()); }
  std::string outside_name() const { return std::filesystem::path(scratch.path).filename().string() + "-outside"; }

  Result<std::unique_ptr<Mirror>> open() const { return Mirror::open(scratch.path + "/m", Mirror::Mode::create); }
  Status say(std::deque<Message> messages, bool greet = true) {
    if (greet) messages.push_front({MessageType::hello, encode(hello())});
    messages.push_back({MessageType::bye, {}});
    Script talk(model::rooted(std::move(messages)));
    return serve(talk, [&](const Hello&) { return open(); });
  }
  std::string records(const std::function<void(RecordWriter&)>& fill) const {
    std::string out;
    RecordWriter w(out);
    fill(w);
    return out;
  }
  // An epoch that must be refused, and leave everything as it was.
  void refused(const std::string& what, const std::string& records, Begin b = begin(1, 2)) {
    EXPECT_FALSE(say({{MessageType::begin, encode(b)}, {MessageType::records, records}, {MessageType::commit, {}}})) << what;
    SCOPED_TRACE(what);
    unchanged();
  }
  void unchanged() {
    EXPECT_EQ(compare(scratch.path + "/m", state), "");
    auto m = open();
    ASSERT_TRUE(m) << m.error().line();
    EXPECT_EQ((*m)->committed_epoch(), 1u);
    EXPECT_EQ((*m)->applied_epoch(), 1u);
    std::ifstream in(scratch.path + "/../" + outside_name());
    if (!in) return;
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "untouched");
  }
  ObjectRecord fresh(const std::string& name) const {
    ObjectRecord r;
    r.id = {900, 1};
    r.flags = kNew;
    r.attr = state.nodes.at(a).attr;
    r.parent = state.root;
    r.name = name;
    return r;
  }
  ObjectRecord known(const ObjectId& id, std::uint8_t flags) const {
    ObjectRecord r;
    r.id = id;
    r.flags = flags;
    r.attr = state.nodes.at(id).attr;
    return r;
  }

  Scratch scratch;
  State state;
  ObjectId d, e, a;
};

TEST_F(HostileSource, NamesThatLeaveTheirDirectory) {
  for (const std::string& name : {std::string(".."), std::string("."), std::string(), std::string("a/b"), std::string("/etc/x"), std::string("../") + outside_name(),
                                  std::string("nul\0byte", 8), std::string(256, 'n')}) {
    refused("name", records([&](RecordWriter& w) { w.name({state.root, name, a}); }));
    refused("removal", records([&](RecordWriter& w) { w.name({state.root, name, {}}); }));
    refused("birth", records([&](RecordWriter& w) { w.object(fresh(name)); }));
  }
}

TEST_F(HostileSource, WhoCameToLookBeginsNothing) {
  Hello looking = hello();
  looking.wants = kVerify;
  const std::deque<Message> epoch{{MessageType::begin, encode(begin(1, 2))}, {MessageType::records, records([&](RecordWriter& w) { w.name({state.root, "a", {}}); })},
                                  {MessageType::commit, {}}};
  for (const char* wants : {kVerify, kMigrate}) {
    looking.wants = wants;
    std::deque<Message> all = epoch;
    all.push_front({MessageType::hello, encode(looking)});
    const Status said = say(std::move(all), false);
    EXPECT_EQ(said.has_value(), wants == kMigrate) << wants;
    if (wants == kVerify) unchanged();
  }
}

TEST_F(HostileSource, BothHalvesOfARenameStayBeneathTheTree) {
  refused("from a directory it does not know", records([&](RecordWriter& w) {
    w.name({{state.root.ino + 1000, 1}, "x", {}});
    w.name({state.root, "x", a});
  }));
  refused("to a path", records([&](RecordWriter& w) {
    w.name({state.root, "a", {}});
    w.name({d, "../../../" + outside_name(), a});
  }));
  refused("below a link", records([&](RecordWriter& w) {
    w.name({state.root, "a", {}});
    w.name({state.at("link"), "a", a});
  }));
}

TEST_F(HostileSource, TheRootHasNoNameAndStays) {
  refused("a name for the root", records([&](RecordWriter& w) { w.name({d, "root", state.root}); }));
  refused("a birth of the root", records([&](RecordWriter& w) {
    ObjectRecord r = known(state.root, kNew);
    r.parent = d;
    r.name = "root";
    w.object(r);
  }));
  refused("the root as a file", records([&](RecordWriter& w) {
    ObjectRecord r = fresh("x");
    r.id = state.root;
    r.parent = {};
    r.name.clear();
    w.object(r);
  }));
}

TEST_F(HostileSource, CirclesOfDirectories) {
  refused("beneath itself", records([&](RecordWriter& w) {
    w.name({state.root, "d", {}});
    w.name({e, "d", d});
  }));
  refused("beneath itself, newly born", records([&](RecordWriter& w) {
    ObjectRecord x = known(d, kNew);
    x.id = {901, 1};
    x.parent = {901, 1};
    x.name = "self";
    w.object(x);
  }));
  refused("two that hold each other", records([&](RecordWriter& w) {
    ObjectRecord x = known(d, kNew), y = x;
    x.id = {901, 1};
    y.id = {902, 1};
    w.object(x);
    w.object(y);
    w.name({x.id, "y", y.id});
    w.name({y.id, "x", x.id});
  }));
}

TEST_F(HostileSource, SizesAndCountsOfItsChoosing) {
  for (std::uint64_t size : {std::uint64_t{1} << 62, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    ObjectRecord r = fresh("big");
    r.attr.size = size;
    refused("a new file", records([&](RecordWriter& w) { w.object(r); }));
    r = known(a, kAttr | kSize);
    r.attr.size = size;
    refused("a known one", records([&](RecordWriter& w) { w.object(r); }));
    r.flags = kAttr;
    refused("a known one, written to", records([&](RecordWriter& w) {
      w.object(r);
      w.data(0, "x");
    }));
  }
  refused("an xattr no file system takes", records([&](RecordWriter& w) {
    ObjectRecord r = known(a, kAttr | kXattr);
    r.xattrs = {{"nonsense.name", "x"}};
    w.object(r);
  }));
  refused("an xattr larger than this one takes", records([&](RecordWriter& w) {
    ObjectRecord r = known(a, kAttr | kXattr);
    for (int i = 0; i < 4096; ++i) r.xattrs.emplace_back("user." + std::to_string(i) + std::string(100, 'x'), std::string(100, 'v'));
    w.object(r);
  }));
  refused("the same on a directory", records([&](RecordWriter& w) {
    ObjectRecord r = known(d, kAttr | kXattr);
    r.xattrs = {{"nonsense.name", "x"}};
    w.object(r);
  }));
  refused("data beyond its size", records([&](RecordWriter& w) {
    w.object(known(a, kAttr));
    w.data(0x7fffffffffffff00ull, "x");
  }));
  refused("a hole beyond it", records([&](RecordWriter& w) {
    w.object(known(a, kAttr));
    w.hole(0, 0x7fffffffffffffffull);
  }));
  std::string huge;
  ByteWriter w(huge);
  w.u8(static_cast<std::uint8_t>(RecordType::data));
  w.varint(0);
  w.varint(~0ull);
  refused("a length of everything", huge);
}

TEST_F(HostileSource, DeltasThatLie) {
  ObjectRecord r = known(a, kRewritten | kAttr | kXattr);
  r.basis = state.at("d/inner");
  r.attr.size = 5000;
  auto delta = [&](const std::string& what, const std::string& bytes) {
    refused(what, records([&](RecordWriter& w) {
      w.object(r);
      w.delta(bytes);
    }));
  };
  const std::string magic("rs\x02\x36", 4);
  delta("no delta", "nonsense");
  delta("copies from beyond the basis", magic + std::string("\x4a\x10\x00\x13\x88\x00", 6));
  delta("copies everything twice", magic + std::string("\x4a\x00\x00\x13\x88\x4a\x00\x00\x13\x88\x00", 11));
  delta("a copy of 2^63 bytes", magic + "\x54" + std::string(2, '\x7f') + std::string(14, '\xff') + std::string(1, '\0'));
  delta("stops short", magic);
  r.basis = {};
  delta("against nothing", magic + std::string(1, '\0'));
}

TEST_F(HostileSource, ReuseOfWhatIsNotItsOwn) {
  refused("nothing was left", records([&](RecordWriter& w) {
    w.object(fresh("x"));
    w.reuse(sha256("alpha"));
  }));
}

TEST_F(HostileSource, MessagesOutOfOrder) {
  const Message start{MessageType::begin, encode(begin(1, 2))}, none{MessageType::records, {}}, end{MessageType::commit, {}};
  for (const std::deque<Message>& talk : std::vector<std::deque<Message>>{
           {none}, {end}, {start, start}, {start, end, end}, {start, end, none}, {{MessageType::hello, encode(hello())}},
           {{MessageType::welcome, {}}}, {{MessageType::committed, {}}}, {{MessageType::listing, {}}}, {{MessageType::inspected, {}}},
           {{MessageType::progress, {}}}, {{static_cast<MessageType>(200), {}}}, {{MessageType::list, "short"}}, {{MessageType::signature, {}}},
           {{MessageType::inspect, "sideways"}}, {{MessageType::begin, "\xff"}}, {start, {MessageType::commit, "short"}}, {start, {MessageType::commit, std::string(32, 'x')}}, {start, {MessageType::records, "\xff"}}})
    EXPECT_FALSE(say(talk)) << static_cast<int>(talk.front().type) << " " << talk.size();
  EXPECT_FALSE(say({start}, false));
  EXPECT_FALSE(say({{MessageType::hello, "\x01"}}, false));
  // Two of those were an empty epoch, and committed.
  EXPECT_EQ(compare(scratch.path + "/m", state), "");
}

TEST_F(HostileSource, ARemovalReachesNoFurtherThanTheTree) {
  Begin all = begin(0, 2);
  all.replace_all = all.confirmed = true;
  std::ofstream(scratch.path + "/m/beside") << "not of the tree";
  std::string only_root = records([&](RecordWriter& w) { w.object(known(state.root, kNew)); });
  ASSERT_TRUE(say({{MessageType::begin, encode(all)}, {MessageType::records, only_root}, {MessageType::commit, {}}}));
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path + "/m/tree"));
  EXPECT_TRUE(std::filesystem::exists(scratch.path + "/m/beside"));
  EXPECT_TRUE(std::filesystem::exists(scratch.path + "/m/.somfs-mirror/catalog.sqlite"));
  EXPECT_TRUE(std::filesystem::exists(scratch.path + "/../" + outside_name()));
}

TEST_F(HostileSource, NamesOfOurOwnAreNamesLikeAnyOther) {
  State next = state;
  ObjectId own = next.add(next.root, ".somfs-mirror", Kind::dir);
  next.add(own, "catalog.sqlite", Kind::symlink, "../../.somfs-mirror/catalog.sqlite");
  next.add(next.root, "tree", Kind::symlink, "..");
  next.sweep();
  ASSERT_TRUE(say({{MessageType::begin, encode(begin(1, 2))}, {MessageType::records, plan(state, next)}, {MessageType::commit, {}}}));
  EXPECT_EQ(compare(scratch.path + "/m", next), "");
  ASSERT_TRUE(open());
}

// Somebody who may write in tree/ swaps things for links while an epoch is on its way: data and metadata stay away from the target.
TEST_F(HostileSource, PlantedLinksAreNotFollowedByDataNorMetadata) {
  const std::string target = scratch.path + "/victim", tree = scratch.path + "/m/tree";
  std::ofstream(target) << "alpha";
  ASSERT_EQ(::chmod(target.c_str(), 0600), 0);
  struct stat before, after;
  State next = state;
  next.nodes[a].attr.mode = 06777;
  next.nodes[a].attr.uid = 12345;
  next.nodes[a].attr.mtime = {1, 2};
  next.nodes[a].xattrs = {{"user.k", "v"}};
  next.nodes[a].data = "ALPHA, and longer";
  next.sweep();
  ASSERT_EQ(::unlink((tree + "/a").c_str()), 0);
  ASSERT_EQ(::symlink(target.c_str(), (tree + "/a").c_str()), 0);
  ASSERT_EQ(::stat(target.c_str(), &before), 0);
  EXPECT_FALSE(say({{MessageType::begin, encode(begin(1, 2))}, {MessageType::records, plan(state, next)}, {MessageType::commit, {}}}));
  ASSERT_EQ(::stat(target.c_str(), &after), 0);
  EXPECT_EQ(after.st_mode, before.st_mode);
  EXPECT_EQ(after.st_uid, before.st_uid);
  EXPECT_EQ(after.st_size, 5);
  EXPECT_EQ(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
  EXPECT_EQ(::getxattr(target.c_str(), "user.k", nullptr, 0), -1);
}

TEST_F(HostileSource, AStateOrTreeThatIsALinkIsRefused) {
  const std::string m = scratch.path + "/m", away = scratch.path + "/away";
  for (const char* part : {"tree", ".somfs-mirror", ".somfs-mirror/stage", ".somfs-mirror/journal"}) {
    std::filesystem::rename(m + "/" + part, away);
    std::filesystem::create_directory_symlink(away, m + "/" + part);
    EXPECT_FALSE(open()) << part;
    std::filesystem::remove(m + "/" + part);
    std::filesystem::rename(away, m + "/" + part);
  }
  unchanged();
}

TEST_F(HostileSource, WhoSaysNothingIsHungUpOn) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Fd silent(ends[1]);
  // A beginning of a frame is no hello.
  ASSERT_EQ(write_all(silent.get(), encode_frame({MessageType::hello, encode(hello())}).substr(0, 30)), 0);
  auto transport = make_stream(ends[0], ends[0]);
  Status s = serve(*transport, [&](const Hello&) { return open(); }, std::chrono::milliseconds(20));
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().exit, Exit::link_down);
  unchanged();
}

TEST_F(HostileSource, WhatItSaysIsPrintable) {
  Status s = say({{MessageType::error, encode(ErrorBody{75, "\x1b]0;owned\x07\r\n"})}});
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().line().find_first_of("\x1b\x07\r\n"), std::string::npos);
  s = say({{MessageType::begin, encode(begin(1, 2))}, {MessageType::records, records([&](RecordWriter& w) {
             ObjectRecord r = known(a, kXattr);
             r.xattrs = {{"\x1b[2J", "x"}};
             w.object(r);
           })}, {MessageType::commit, {}}});
  ASSERT_FALSE(s);
  EXPECT_EQ(s.error().line().find('\x1b'), std::string::npos);
  unchanged();
}

}  // namespace
}  // namespace somfs::replicator
