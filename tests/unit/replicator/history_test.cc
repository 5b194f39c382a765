// SPDX-License-Identifier: Apache-2.0
// The roots of histories and of states: fixed vectors, both sides of many migrations, groups tampered with on their way, mirrors restored from
// older copies; and at any moment the mirror alone shows exactly the state of one of the source's cuts, the one of its epoch (SOM-7).
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "common/bytes.h"
#include "replicator/history.h"
#include "replicator/text_codes.h"
#include "tests/unit/replicator/migrate_world.h"
#include "tests/unit/replicator/random_round.h"
#include "tests/unit/replicator/state_roots.h"

namespace somfs::replicator {
namespace {

namespace stdfs = std::filesystem;
using test::fill;
using test::noise;
using test::random_round;
using test::root_of;
using test::World;

// ---- the construction -----------------------------------------------------------------------------------------------------

// Inputs and roots as in the tests of Certificate Transparency's logs (transparency-dev/merkle, testonly/constants.go, Apache-2.0).
TEST(Merkle, IsTheTreeOfRfc6962) {
  const std::string inputs[] = {"", std::string(1, '\0'), "\x10", "\x20\x21", "\x30\x31", "\x40\x41\x42\x43", "\x50\x51\x52\x53\x54\x55\x56\x57",
                                "\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f"};
  const char* roots[] = {"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                         "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
                         "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
                         "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
                         "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"};
  MerkleTree tree;
  for (std::size_t n = 0;; ++n) {
    EXPECT_EQ(hex(tree.root()), roots[n]) << n;
    EXPECT_EQ(tree.leaves(), n);
    if (n == std::size(inputs)) break;
    tree.add(leaf_hash(inputs[n]));
  }
}

// As the RFC writes it down, not as it is computed.
std::string by_definition(const std::vector<std::string>& leaves, std::size_t from, std::size_t n) {
  if (n == 1) return leaves[from];
  std::size_t k = 1;
  while (k * 2 < n) k *= 2;
  return sha256("\x01" + by_definition(leaves, from, k) + by_definition(leaves, from + k, n - k));
}

TEST(Merkle, OfAnyNumberOfLeavesIsWhatTheDefinitionSays) {
  MerkleTree tree;
  std::vector<std::string> leaves;
  for (std::size_t n = 1; n < 140; ++n) {
    leaves.push_back(leaf_hash(std::to_string(n)));
    tree.add(leaves.back());
    ASSERT_EQ(tree.root(), by_definition(leaves, 0, n)) << n;
  }
}

TEST(EpochRoot, IsWhatTheFormatSays) {
  Begin first = model::begin(0, 1);
  EpochRoot one(model::hello().volume, first);
  one.add("one");
  one.add("two");
  EXPECT_EQ(hex(one.root()), "bc2cf67ff21783b4af4152e37e3f963b082ffe56bc5bf905ba73862536b4ea47");
  Begin second = model::begin(1, 2);
  second.previous = one.root();
  EXPECT_EQ(hex(EpochRoot(model::hello().volume, second).root()), "41afaf35c6645102b3db01f0137ee9a2664667086537566eff87e538cd1c51f3");
}

TEST(EpochRoot, SaysAllThatTheGroupSaid) {
  std::set<std::string> roots;
  std::size_t made = 0;
  auto take = [&](const Uuid& volume, const std::function<void(Begin&)>& how, std::initializer_list<const char*> batches) {
    Begin b = model::begin(1, 2);
    how(b);
    EpochRoot r(volume, b);
    for (const char* batch : batches) r.add(batch);
    roots.insert(r.root());
    ++made;
  };
  const Uuid volume = model::hello().volume;
  const auto as_is = [](Begin&) {};
  take(volume, as_is, {"a", "b"});
  take(volume, as_is, {"b", "a"});
  take(volume, as_is, {"a"});
  take(volume, as_is, {"ab"});
  take(volume, as_is, {"a", "b", "b"});
  take(volume, as_is, {});
  take(Uuid::random(), as_is, {"a", "b"});
  take(volume, [](Begin& b) { b.epoch = 3; }, {"a", "b"});
  take(volume, [](Begin& b) { b.base_epoch = 0; }, {"a", "b"});
  take(volume, [](Begin& b) { b.generation = Uuid::random(); }, {"a", "b"});
  take(volume, [](Begin& b) { b.replace_all = true; }, {"a", "b"});
  take(volume, [](Begin& b) { b.excludes = "x"; }, {"a", "b"});
  take(volume, [](Begin& b) { b.previous = std::string(kHash, 'p'); }, {"a", "b"});
  EXPECT_EQ(roots.size(), made);
}

TEST(StateRoot, SaysWhatAComparisonLooksAtAndNothingElse) {
  InspectRow row;
  row.path = {"d", "f"};
  row.object = {5, 6};
  row.attr.kind = Kind::file;
  row.attr.mode = 04755;
  row.attr.uid = 1000;
  row.attr.nlink = 1;
  row.content = sha256("x");
  auto root = [&](const std::function<void(InspectRow&)>& how, bool owned = true) {
    InspectRow r = row;
    how(r);
    StateRoot s;
    s.add(r, owned);
    return s.root();
  };
  const std::string as_is = root([](InspectRow&) {});
  std::set<std::string> others{as_is};
  const std::vector<std::function<void(InspectRow&)>> hows = {
      [](InspectRow& r) { r.path = {"d/f"}; }, [](InspectRow& r) { r.path = {"df"}; }, [](InspectRow& r) { r.object.birth = 7; },
      [](InspectRow& r) { r.attr.kind = Kind::fifo; }, [](InspectRow& r) { r.attr.mode = 0755; }, [](InspectRow& r) { r.attr.uid = 0; },
      [](InspectRow& r) { r.attr.gid = 1; }, [](InspectRow& r) { r.attr.rdev = 1; }, [](InspectRow& r) { r.attr.size = 1; },
      [](InspectRow& r) { r.attr.mtime.sec = 1; }, [](InspectRow& r) { r.attr.mtime.nsec = 1; }, [](InspectRow& r) { r.attr.nlink = 2; },
      [](InspectRow& r) { r.content = sha256("y"); }, [](InspectRow& r) { r.xattr_hash = 1; }};
  for (const auto& how : hows) others.insert(root(how));
  EXPECT_EQ(others.size(), hows.size() + 1);
  EXPECT_EQ(root([](InspectRow& r) { r.attr.ctime.sec = 1; }), as_is);
  // Where the owner cannot be kept, he and his bits say nothing.
  EXPECT_EQ(root([](InspectRow& r) { r.attr.uid = 7, r.attr.mode = 0755; }, false), root([](InspectRow&) {}, false));
  // Of what was not read nothing is said.
  EXPECT_EQ(root([](InspectRow& r) { r.trouble = "cannot open"; }), "");
}

// ---- on the way -------------------------------------------------------------------------------------------------------------

// The mirror's end of a conversation, with somebody between the two.
class Meddled final : public Transport {
 public:
  // Given each message of the source, says what the mirror hears instead.
  using How = std::function<std::vector<Message>(Message)>;
  Meddled(std::unique_ptr<Transport> inner, How how) : inner_(std::move(inner)), how_(std::move(how)) {}
  Status send(Message m) override { return inner_->send(std::move(m)); }
  Result<Message> receive() override {
    while (heard_.empty()) {
      SOMFS_TRY_ASSIGN(Message m, inner_->receive());
      for (Message& one : how_(std::move(m))) heard_.push_back(std::move(one));
    }
    Message m = std::move(heard_.front());
    heard_.pop_front();
    return m;
  }
  void close() noexcept override { inner_->close(); }
  std::uint64_t bytes_sent() const override { return 0; }
  std::uint64_t bytes_received() const override { return 0; }

 private:
  const std::unique_ptr<Transport> inner_;
  const How how_;
  std::deque<Message> heard_;
};

Connect meddled(World& w, std::vector<std::jthread>* servers, const std::function<Meddled::How()>& how) {
  return [&w, servers, how]() -> Result<std::unique_ptr<Transport>> {
    servers->clear();
    auto [mine, theirs] = make_pair_in_process();
    servers->push_back(w.server(std::make_unique<Meddled>(std::move(theirs), how())));
    return std::move(mine);
  };
}

std::string content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// What the mirror is when it is opened alone.
struct Alone {
  explicit Alone(const World& w) {
    auto m = Mirror::open(w.mirror(), Mirror::Mode::existing);
    EXPECT_TRUE(m) << m.error().line();
    if (!m) return;
    epoch = (*m)->committed_epoch();
    history = (*m)->welcome().root;
    state = root_of(**m);
  }
  bool operator==(const Alone&) const = default;
  std::uint64_t epoch = 0;
  std::string history, state;
};

// A message of data inside one large file: without the root a mirror would take what becomes of it.
constexpr int kInside = 2;

TEST(History, AGroupThatWasTamperedWithIsNotCommitted) {
  struct Case {
    const char* what;
    std::function<Meddled::How()> how;
  };
  auto at_batch = [](auto what) {
    return [what]() -> Meddled::How {
      return [what, n = 0](Message m) mutable -> std::vector<Message> {
        if (m.type != MessageType::records || ++n != kInside) return {std::move(m)};
        return what(std::move(m));
      };
    };
  };
  const std::vector<Case> cases = {
      {"a flipped bit", at_batch([](Message m) {
         m.body[m.body.size() / 2] = static_cast<char>(m.body[m.body.size() / 2] ^ 4);
         m.leaf.clear();   // as it would come from a link
         return std::vector<Message>{m};
       })},
      {"a batch dropped", at_batch([](const Message&) { return std::vector<Message>{}; })},
      {"a batch twice", at_batch([](const Message& m) { return std::vector<Message>{m, m}; })},
      {"two batches changed about", []() -> Meddled::How {
         return [n = 0, kept = Message()](Message m) mutable -> std::vector<Message> {
           if (m.type != MessageType::records) return {std::move(m)};
           ++n;
           if (n == kInside) return kept = std::move(m), std::vector<Message>{};
           if (n == kInside + 1) return {std::move(m), std::move(kept)};
           return {std::move(m)};
         };
       }},
      {"an empty batch more", at_batch([](const Message& m) { return std::vector<Message>{m, {MessageType::records, {}}}; })},
      {"another begin", []() -> Meddled::How {
         return [](Message m) -> std::vector<Message> {
           Begin b;
           if (m.type == MessageType::begin && decode(m.body, &b)) b.excludes = "d", m.body = encode(b);
           return {std::move(m)};
         };
       }},
      {"another root", []() -> Meddled::How {
         return [](Message m) -> std::vector<Message> {
           if (m.type == MessageType::commit) m.body[0] = static_cast<char>(m.body[0] ^ 1);
           return {std::move(m)};
         };
       }},
  };
  World w;
  fill(w);
  ASSERT_EQ(w.migrate().strategy, "full");
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    w.write("d/e/large", noise(5 << 20, 77));
    const Alone before(w);
    const std::uint64_t acked = w.acknowledged();
    std::vector<std::jthread> servers;
    auto report = w.attempt(World::Knows::dirty, [](Source&, MigrateOptions& o) { o.want = MigrateOptions::Want::differential; }, meddled(w, &servers, c.how));
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().exit, Exit::temporary) << report.error().line();
    EXPECT_NE(report.error().line().find("did not come as it was sent"), std::string::npos) << report.error().line();
    servers.clear();
    EXPECT_EQ(Alone(w), before);
    EXPECT_EQ(w.acknowledged(), acked);
    // Tampered with once only, the same run ends well.
    std::atomic<int> conversations{0};
    report = w.attempt(World::Knows::dirty, {}, meddled(w, &servers, [&]() -> Meddled::How {
      if (conversations++ == 0) return c.how();
      return [](Message m) { return std::vector<Message>{std::move(m)}; };
    }));
    servers.clear();
    ASSERT_TRUE(report) << report.error().line();
    EXPECT_EQ(conversations, 2);
    w.expect_equal();
    w.write("d/e/large", noise(100, 3), 50);
    EXPECT_EQ(w.migrate().strategy, "differential");
    w.expect_equal();
  }
}

// ---- from one epoch to the next ----------------------------------------------------------------------------------------------

// The root each group builds on.
Connect watched(World& w, std::vector<std::jthread>* servers, std::string* previous) {
  return meddled(w, servers, [previous]() -> Meddled::How {
    return [previous](Message m) -> std::vector<Message> {
      Begin b;
      if (m.type == MessageType::begin && decode(m.body, &b)) *previous = b.previous;
      return {std::move(m)};
    };
  });
}

TEST(History, AnEpochBuildsOnTheOneBeforeUnlessEverythingIsStatedAnew) {
  World w;
  fill(w);
  std::string previous = "unset";
  std::vector<std::jthread> servers;
  auto migrate = [&](World::Knows knows, const World::Adjust& adjust = {}) {
    w.write("d/small", noise(100, static_cast<unsigned>(w.epoch())));
    auto r = w.attempt(knows, adjust, watched(w, &servers, &previous));
    servers.clear();
    EXPECT_TRUE(r) << r.error().line();
    EXPECT_EQ(Alone(w).history, r->root);
    EXPECT_EQ(r->root.size(), kHash);
    return r->root;
  };
  std::string last = migrate(World::Knows::dirty);
  EXPECT_EQ(previous, "");
  for (World::Knows knows : {World::Knows::dirty, World::Knows::dirty, World::Knows::nothing}) {
    const std::string next = migrate(knows);   // the last is a comparison with the mirror's catalog: what it says is built on
    EXPECT_EQ(previous, last);
    EXPECT_NE(next, last);
    last = next;
  }
  migrate(World::Knows::nothing, [](Source& s, MigrateOptions&) { s.compare_content = true; });
  EXPECT_EQ(previous, "");
  migrate(World::Knows::dirty, [](Source&, MigrateOptions& o) { o.want = MigrateOptions::Want::full; });
  EXPECT_EQ(previous, "");
  // Nothing has changed: the epoch stays, and what is known of it.
  auto r = w.attempt(World::Knows::dirty, {}, watched(w, &servers, &previous));
  ASSERT_TRUE(r);
  EXPECT_LT(r->epoch, w.epoch());
  EXPECT_EQ(r->root, w.kept_root);
  servers.clear();
  EXPECT_EQ(Alone(w).history, w.kept_root);
  // A lost acknowledgement: the mirror is ahead, this side kept nothing of that, and does not say it knows.
  w.write("later", "x");
  const std::uint64_t acked = w.acknowledged();
  const std::string kept = w.kept_root;
  const World::Adjust knew = [&](Source& s, MigrateOptions&) {
    s.base_epoch = acked;
    s.base_root = kept;
    s.dirty_since = [&](std::uint64_t) -> Result<Changes> { return Changes{w.dirty, true}; };
  };
  migrate(World::Knows::dirty);
  migrate(World::Knows::nothing, knew);
  EXPECT_EQ(previous, "");
  w.expect_equal();
}

TEST(History, TheMirrorRefusesAnEpochThatBuildsOnAnotherRoot) {
  World w;
  fill(w);
  w.migrate();
  auto m = Mirror::open(w.mirror(), Mirror::Mode::existing).value();
  Hello h;
  h.volume = w.identity().volume;
  h.generation = w.identity().generation;
  ASSERT_TRUE(m->greet(h));
  Begin b = model::begin(w.epoch(), w.epoch() + 1);
  b.generation = h.generation;
  b.previous = std::string(kHash, 'x');
  EXPECT_FALSE(m->begin(b));
  b.previous = m->welcome().root;
  EXPECT_TRUE(m->begin(b));
}

TEST(History, AHeldEpochsRootIsTheMirrorsOnceItIsAccepted) {
  World w;
  for (int i = 0; i < 220; ++i) w.write("f" + std::to_string(i), "x");
  w.migrate();
  const std::string before = w.kept_root;
  for (int i = 0; i < 200; ++i) w.remove("f" + std::to_string(i));
  std::vector<std::jthread> servers;
  auto r = w.attempt(World::Knows::dirty, [](Source&, MigrateOptions& o) { o.brake_share = 0.5; }, w.in_process(&servers));
  ASSERT_TRUE(r && r->held);
  servers.clear();
  EXPECT_EQ(Alone(w).history, before);
  EXPECT_NE(r->root, before);
  {
    auto m = Mirror::open(w.mirror(), Mirror::Mode::existing).value();
    ASSERT_TRUE(m->decide_held(true));
  }
  EXPECT_EQ(Alone(w).history, r->root);
}

// ---- another mirror than the one that acknowledged ------------------------------------------------------------------------------

// `w.mirror()` and `aside` change places; either may be absent.
void swap_mirrors(const World& w, const std::string& aside) {
  const std::string tmp = aside + ".tmp";
  if (stdfs::exists(w.mirror())) stdfs::rename(w.mirror(), tmp);
  if (stdfs::exists(aside)) stdfs::rename(aside, w.mirror());
  if (stdfs::exists(tmp)) stdfs::rename(tmp, aside);
}

void expect_noticed(World& w) {
  w.write("after", "x");
  std::vector<std::jthread> servers;
  std::string previous = "unset";
  {
    auto r = w.attempt(World::Knows::dirty, [](Source&, MigrateOptions& o) { o.want = MigrateOptions::Want::differential; }, watched(w, &servers, &previous));
    servers.clear();
    EXPECT_FALSE(r);
  }
  auto r = w.attempt(World::Knows::dirty, {}, watched(w, &servers, &previous));
  servers.clear();
  ASSERT_TRUE(r) << r.error().line();
  EXPECT_TRUE(r->history_differs);
  ASSERT_FALSE(r->notes.empty());
  EXPECT_NE(r->notes.front().find("not what it acknowledged"), std::string::npos);
  EXPECT_EQ(r->strategy, "gap-scan");
  EXPECT_EQ(previous, "");
  w.expect_equal();
  w.write("after", "y");
  const MigrateReport next = w.migrate();
  EXPECT_EQ(next.strategy, "differential");
  EXPECT_FALSE(next.history_differs);
  w.expect_equal();
}

TEST(History, AMirrorRestoredFromAnOlderCopyIsNoticed) {
  World w;
  fill(w);
  w.migrate();
  const std::string old = w.mirror() + ".old";
  swap_mirrors(w, old);
  w.write("d/small", "second");
  w.migrate();                          // another directory: in full
  swap_mirrors(w, old);                 // the old one is back
  EXPECT_NE(content(w.seen("d/small")), "second");
  expect_noticed(w);
  EXPECT_EQ(content(w.seen("d/small")), "second");
}

TEST(History, AMirrorWithTheSameEpochAndAnotherHistoryIsNoticed) {
  World w;
  fill(w);
  w.migrate();
  const std::string other = w.mirror() + ".other";
  swap_mirrors(w, other);
  w.write("d/small", "second");
  w.migrate();
  swap_mirrors(w, other);
  {
    // What was restored goes on to the same number, without what this epoch had.
    auto m = Mirror::open(w.mirror(), Mirror::Mode::existing).value();
    Hello h;
    h.volume = w.identity().volume;
    h.generation = w.identity().generation;
    ASSERT_TRUE(m->greet(h));
    Begin b = model::begin(m->committed_epoch(), w.epoch());
    b.generation = h.generation;
    ASSERT_TRUE(m->begin(b) && m->commit());
    ASSERT_EQ(m->committed_epoch(), w.acknowledged());
  }
  // A comparison says so before anything is sent.
  const VerifyReport v = w.verify();
  EXPECT_EQ(v.root_agrees, std::optional<bool>(false));
  EXPECT_FALSE(v.equal);
  EXPECT_NE(v.source_tree, v.mirror_tree);
  expect_noticed(w);
  EXPECT_EQ(content(w.seen("d/small")), "second");
}

void forget_root(const World& w) {
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open((w.mirror() + "/.somfs-mirror/catalog.sqlite").c_str(), &db), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(db, "DELETE FROM meta WHERE key = 'root'", nullptr, nullptr, nullptr), SQLITE_OK);
  EXPECT_EQ(sqlite3_changes(db), 1);
  sqlite3_close(db);
}

TEST(History, WithoutARootOnEitherSideWorkGoesOnAndAChainBegins) {
  World w;
  fill(w);
  w.migrate();
  forget_root(w);
  w.kept_root.clear();
  {
    const VerifyReport v = w.verify();   // nothing is claimed of what nobody kept
    EXPECT_EQ(v.root_agrees, std::nullopt);
    EXPECT_EQ(v.mirror_root, "");
    EXPECT_TRUE(v.equal);
  }
  w.write("more", "x");
  const MigrateReport r = w.migrate();
  EXPECT_EQ(r.strategy, "differential");
  EXPECT_FALSE(r.history_differs);
  EXPECT_EQ(w.verify().root_agrees, std::optional<bool>(true));
}

TEST(History, AMirrorThatLostTheRootItAcknowledgedIsNoticed) {
  World w;
  fill(w);
  w.migrate();
  forget_root(w);
  EXPECT_EQ(w.verify().root_agrees, std::optional<bool>(false));
  expect_noticed(w);
}

// ---- at any moment --------------------------------------------------------------------------------------------------------------

// Random operations, a cut after each round, its root recorded; the way to the mirror ends anywhere, and so does the mirror's process.
TEST(History, TheMirrorAloneIsAlwaysTheCutOfItsEpoch) {
  const unsigned first = std::random_device()();
  int ended = 0, landed = 0;
  for (unsigned seed = first; seed != first + 8; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 r(seed);
    World w;
    std::map<std::uint64_t, std::string> cuts;
    for (int round = 0; round < 8; ++round) {
      random_round(w, r);
      const int last = round == 0 ? 1 << 20 : static_cast<int>(r() % 12);
      std::vector<std::jthread> servers;
      auto report = w.attempt(round % 4 == 3 ? World::Knows::nothing : World::Knows::dirty, {}, meddled(w, &servers, [&]() -> Meddled::How {
        return [last, n = 0](Message m) mutable -> std::vector<Message> {
          if (++n > last) m = {MessageType::bye, {}};   // the mirror ends here; for the source the link is gone
          return {std::move(m)};
        };
      }));
      servers.clear();
      cuts[w.epoch()] = root_of(*tree_of(*w.view()));
      ++(report ? landed : ended);
      const Alone alone(w);
      ASSERT_TRUE(cuts.contains(alone.epoch)) << alone.epoch;
      ASSERT_EQ(hex(alone.state), hex(cuts[alone.epoch])) << "round " << round << ", epoch " << alone.epoch << " of " << w.epoch();
      ASSERT_FALSE(alone.state.empty());
    }
    w.migrate();
    w.expect_equal();
  }
  EXPECT_GT(ended, 5);
  EXPECT_GT(landed, 10);
}

}  // namespace
}  // namespace somfs::replicator
