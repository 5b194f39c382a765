// SPDX-License-Identifier: Apache-2.0
// What goes wrong on the way: links that break, files that cannot be read, acknowledgements that get lost. Whatever happens, the
// mirror holds an old epoch or the new one, and the next run completes.
#include <gtest/gtest.h>

#include <poll.h>
#include <sys/socket.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>

#include "snapshot/journal.h"
#include "tests/unit/replicator/migrate_world.h"

namespace somfs::replicator {
namespace {

namespace stdfs = std::filesystem;
using test::fill;
using test::noise;
using test::World;

// A tree that fails where it is told to, and tells other attributes than it has.
struct Faults {
  std::map<ObjectId, std::uint64_t> reads;   // reading at or beyond that offset
  std::set<ObjectId> lists;
  std::map<ObjectId, Attr> attrs;
  bool handles = true;
  std::function<void(const ObjectId&)> listed;   // after a directory was listed
};

class FaultyFile final : public TreeFile {
 public:
  FaultyFile(TreeFilePtr file, const Faults& faults) : inner(std::move(file)), faults_(faults) {}
  const Ref& ref() const override { return inner->ref(); }
  const Attr& attr() const override {
    auto at = faults_.attrs.find(ref().id);
    return at == faults_.attrs.end() ? inner->attr() : at->second;
  }
  Result<Xattrs> xattrs() override { return inner->xattrs(); }
  Result<std::string> link_target() override { return inner->link_target(); }
  Result<std::size_t> read(void* buf, std::size_t n, std::uint64_t off) override {
    auto at = faults_.reads.find(ref().id);
    if (at != faults_.reads.end() && off + n > at->second) return fail_errno("cannot read", {}, EIO);
    return inner->read(buf, n, off);
  }
  Result<std::optional<Extent>> next_data(std::uint64_t off) override { return inner->next_data(off); }
  TreeFilePtr inner;

 private:
  const Faults& faults_;
};

class FaultyTree final : public Tree {
 public:
  FaultyTree(std::unique_ptr<Tree> inner, const Faults& faults) : inner_(std::move(inner)), faults_(faults) {}
  Result<TreeFilePtr> root() override { return wrapped(inner_->root()); }
  Result<std::vector<ViewEntry>> list(TreeFile& dir) override {
    if (faults_.lists.contains(dir.ref().id)) return fail_errno("cannot list", {}, EIO);
    auto entries = inner_->list(inside(dir));
    if (faults_.listed) faults_.listed(dir.ref().id);
    return entries;
  }
  Result<std::optional<Ref>> lookup(TreeFile& dir, const std::string& name) override { return inner_->lookup(inside(dir), name); }
  Result<TreeFilePtr> open_in(TreeFile& dir, const ViewEntry& entry) override { return wrapped(inner_->open_in(inside(dir), entry)); }
  Result<TreeFilePtr> open(const Ref& ref) override { return wrapped(inner_->open(ref)); }
  bool has_handles() const override { return faults_.handles && inner_->has_handles(); }

 private:
  static TreeFile& inside(TreeFile& f) { return *static_cast<FaultyFile&>(f).inner; }
  Result<TreeFilePtr> wrapped(Result<TreeFilePtr> file) {
    if (!file || !*file) return file;
    return std::make_unique<FaultyFile>(std::move(*file), faults_);
  }
  std::unique_ptr<Tree> inner_;
  const Faults& faults_;
};

void use(World& w, const Faults& faults) {
  w.wrap = [&](std::unique_ptr<Tree> tree) { return std::make_unique<FaultyTree>(std::move(tree), faults); };
}

std::string content(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Paths with what they hold.
std::map<std::string, std::string> picture(const std::string& top) {
  std::map<std::string, std::string> out;
  for (const auto& e : stdfs::recursive_directory_iterator(top)) {
    std::string& what = out[e.path().lexically_relative(top)];
    if (e.is_symlink()) what = "-> " + stdfs::read_symlink(e.path()).string();
    else if (e.is_regular_file()) what = content(e.path());
    else what = "dir";
  }
  return out;
}

// A link over sockets that carries `limit` bytes from the source to the mirror and then breaks.
class BreakingLink {
 public:
  BreakingLink(const World& w, std::uint64_t limit) : world_(w), limit_(limit) {}
  Connect connect() {
    return [this]() -> Result<std::unique_ptr<Transport>> {
      threads_.clear();
      int near[2], far[2];
      EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, near), 0);
      EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, far), 0);
      threads_.push_back(world_.server(make_stream(far[0], far[0])));
      threads_.emplace_back([this, a = near[1], b = far[1]] { pump(Fd(a), Fd(b)); });
      return make_stream(near[0], near[0]);
    };
  }
  void wait() { threads_.clear(); }

 private:
  void pump(Fd source, Fd mirror) {
    std::string buffer(16384, '\0');
    for (std::uint64_t carried = 0;;) {
      pollfd p[2] = {{source.get(), POLLIN, 0}, {mirror.get(), POLLIN, 0}};
      ::poll(p, 2, -1);
      if (p[0].revents != 0) {
        const std::size_t most = std::min<std::uint64_t>(buffer.size(), limit_ - carried);
        ssize_t n = most == 0 ? 0 : ::read(source.get(), buffer.data(), most);
        if (n <= 0 || write_all(mirror.get(), std::string_view(buffer.data(), static_cast<std::size_t>(n))) != 0) return;
        carried += static_cast<std::uint64_t>(n);
      }
      if (p[1].revents != 0) {
        ssize_t n = ::read(mirror.get(), buffer.data(), buffer.size());
        if (n <= 0 || ::send(source.get(), buffer.data(), static_cast<std::size_t>(n), MSG_NOSIGNAL) != n) return;
      }
    }
  }
  const World& world_;
  const std::uint64_t limit_;
  std::vector<std::jthread> threads_;
};

constexpr std::uint64_t kWhole = ~0ull;

TEST(Faults, ALinkCutAnywhereLeavesTheOldEpochAndTheNextRunCompletes) {
  std::signal(SIGPIPE, SIG_IGN);
  World w;
  w.mkdir("d");
  w.write("d/a", noise(30000, 1));
  w.write("d/b", noise(100000, 2));
  w.write("c", "first");
  {
    BreakingLink link(w, kWhole);
    auto r = w.attempt(World::Knows::dirty, {}, link.connect());
    ASSERT_TRUE(r) << r.error().line();
    EXPECT_EQ(r->strategy, "full");
    link.wait();
  }
  w.expect_equal();
  unsigned cuts = 0, refused = 0;
  for (std::uint64_t limit = 0; cuts < 40; limit += 37 + limit / 3) {
    SCOPED_TRACE("after " + std::to_string(limit) + " bytes");
    ++cuts;
    w.write("d/a", noise(3000, cuts), cuts * 100);
    w.write("new" + std::to_string(cuts), noise(50000, 100 + cuts));
    w.rename("c", "d/c");
    w.rename("d/c", cuts % 2 == 0 ? "c" : "c2");
    w.rename("c2", "c");
    auto before = picture(w.mirror() + "/tree");
    BreakingLink link(w, limit);
    auto r = w.attempt(World::Knows::dirty, {}, link.connect());
    link.wait();
    if (!r) {
      ++refused;
      EXPECT_NE(r.error().exit, Exit::done);
      if (picture(w.mirror() + "/tree") != before) w.expect_equal("committed, and the answer was lost");
    }
    w.migrate();
    w.expect_equal();
    if (HasFailure()) return;
    if (r) break;
  }
  EXPECT_GT(refused, 10u);
}

TEST(Faults, WhatAKilledRunStagedIsNotSentAgain) {
  std::signal(SIGPIPE, SIG_IGN);
  World w;
  for (int i = 0; i < 8; ++i) w.write("f" + std::to_string(i), noise(1 << 20, static_cast<unsigned>(i)));
  {
    BreakingLink link(w, 6u << 20);
    EXPECT_FALSE(w.attempt(World::Knows::dirty, {}, link.connect()));
    link.wait();
  }
  BreakingLink link(w, kWhole);
  auto r = w.attempt(World::Knows::dirty, {}, link.connect());
  link.wait();
  ASSERT_TRUE(r) << r.error().line();
  EXPECT_LT(r->bytes_wire, 5u << 20);
  EXPECT_GT(r->bytes_wire, 1u << 20);
  w.expect_equal();
}

TEST(Faults, AFileThatBreaksOffIsLeftOutAndNamed) {
  World w;
  fill(w);
  w.migrate();
  w.write("d/e/large", "changed", 2 << 20);
  w.write("d/small", "HELLO");
  w.dirty.mark(w.id("d/e/large"), nullptr);   // whole: it spans batches
  Faults faults;
  faults.reads[w.id("d/e/large")] = 2 << 20;
  use(w, faults);
  const std::string before = content(w.seen("d/e/large"));
  std::vector<std::jthread> servers;
  auto r = w.attempt(World::Knows::dirty, {}, w.in_process(&servers));
  servers.clear();
  ASSERT_TRUE(r) << r.error().line();
  ASSERT_EQ(r->unreadable.size(), 1u);
  EXPECT_NE(r->unreadable[0].find("Input/output error"), std::string::npos) << r->unreadable[0];
  EXPECT_EQ(content(w.seen("d/small")), "HELLO");
  EXPECT_TRUE(content(w.seen("d/e/large")) == before);
  w.wrap = {};
  EXPECT_EQ(w.migrate(World::Knows::nothing).strategy, "gap-scan");
  w.expect_equal();
}

TEST(Faults, AFullCopyKeepsWhatItCouldNotRead) {
  World w;
  fill(w);
  w.mkdir("d/shut");
  w.mkdir("d/shut/in");
  w.write("d/shut/in/file", "inside");
  w.write("d/shut/moved", "moved");
  w.migrate();
  const std::string large = content(w.seen("d/e/large"));
  w.write("d/e/large", "changed", 100);
  w.write("d/old", "changed");
  w.rename("d/shut/moved", "moved");
  w.remove("empty");
  Faults faults;
  faults.reads[w.id("d/e/large")] = 2 << 20;   // in the middle
  faults.reads[w.id("d/small")] = 0;           // has a second name
  faults.lists.insert(w.id("d/shut"));
  use(w, faults);
  std::vector<std::jthread> servers;
  auto r = w.attempt(World::Knows::dirty, [](Source&, MigrateOptions& o) { o.want = MigrateOptions::Want::full; }, w.in_process(&servers));
  servers.clear();
  ASSERT_TRUE(r) << r.error().line();
  EXPECT_EQ(r->strategy, "full");
  EXPECT_EQ(r->unreadable.size(), 3u);
  EXPECT_TRUE(content(w.seen("d/e/large")) == large);
  EXPECT_EQ(content(w.seen("d/small")), "hello");
  EXPECT_EQ(content(w.seen("d/e/again")), "hello");
  EXPECT_EQ(content(w.seen("d/shut/in/file")), "inside");
  EXPECT_EQ(content(w.seen("d/old")).substr(0, 7), "changed");
  EXPECT_EQ(content(w.seen("moved")), "moved");
  EXPECT_FALSE(stdfs::exists(w.seen("empty")));
  w.wrap = {};
  w.migrate(World::Knows::nothing);
  w.expect_equal();
}

TEST(Faults, ContentThatChangedBehindEqualSizesAndTimesIsFoundByContent) {
  World w;
  w.write("small", "aaaa");
  w.write("large", noise(300000, 1));
  Faults faults;
  for (const char* name : {"small", "large"}) faults.attrs[w.id(name)] = inode_at(AT_FDCWD, w.path(name))->attr;
  use(w, faults);
  w.migrate();
  w.write("small", "bbbb");
  w.write("large", "bbbb", 100000);
  EXPECT_EQ(w.migrate(World::Knows::nothing).files, 0u);
  EXPECT_EQ(content(w.seen("small")), "aaaa");
  auto by_content = [](Source& s, MigrateOptions&) { s.compare_content = true; };
  MigrateReport r = w.migrate(World::Knows::nothing, by_content);
  EXPECT_EQ(r.files, 2u);
  EXPECT_LT(r.bytes_wire, 50000u);
  EXPECT_EQ(content(w.seen("small")), "bbbb");
  EXPECT_EQ(content(w.seen("large")), content(w.path("large")));
  EXPECT_EQ(w.migrate(World::Knows::nothing, by_content).files, 0u);
}

TEST(Faults, WithoutHandlesObjectsAreFoundByOneWalk) {
  World w;
  fill(w);
  Faults faults;
  faults.handles = false;
  use(w, faults);
  w.migrate();
  w.write("d/e/large", "in place", 1000);
  w.rename("d/e", "e");
  w.write("e/new", "n");
  w.remove("d/small");
  EXPECT_EQ(w.migrate().strategy, "differential");
  w.wrap = {};
  w.expect_equal();
}

// Between the listing of a directory and the opening of what it named, somebody puts a link to elsewhere there.
TEST(Faults, ALinkPlantedUnderTheWalkIsNotFollowed) {
  for (bool handles : {true, false}) {
    World w;
    fill(w);
    const std::string outside = w.mirror() + "-outside";
    stdfs::create_directory(outside);
    std::ofstream(outside + "/secret") << "not of this volume";
    std::ofstream(outside + "/small") << "not of this volume";
    Faults faults;
    faults.handles = handles;
    const ObjectId root = w.id("."), d = w.id("d");
    faults.listed = [&](const ObjectId& dir) {
      if (dir == root && ::rename(w.path("d").c_str(), w.path("was-d").c_str()) == 0)
        stdfs::create_directory_symlink(outside, w.path("d"));
      if (dir == d && ::unlink(w.path("was-d/small").c_str()) == 0) stdfs::create_symlink(outside + "/secret", w.path("was-d/small"));
    };
    use(w, faults);
    std::vector<std::jthread> servers;
    (void)w.attempt(World::Knows::dirty, {}, w.in_process(&servers));
    servers.clear();
    for (const auto& [path, what] : picture(w.mirror() + "/tree")) EXPECT_NE(what, "not of this volume") << path;
    EXPECT_FALSE(stdfs::exists(w.seen("d/secret")));
    stdfs::remove_all(outside);
  }
}

TEST(Faults, ADifferenceTheMirrorCannotPlaceIsFollowedByAComparison) {
  World w;
  fill(w);
  w.migrate();
  std::ofstream(w.path("unseen")) << "never told";
  w.note(ChangeKind::write, w.id("unseen"), {0, 10});
  EXPECT_EQ(w.migrate().strategy, "gap-scan");
  w.expect_equal();
}

// A transport that ends the conversation when a message of that type is to be sent.
class EndsAt final : public Transport {
 public:
  EndsAt(std::unique_ptr<Transport> inner, MessageType last, std::function<void()> then = {})
      : inner_(std::move(inner)), last_(last), then_(std::move(then)) {}
  Status send(Message m) override {
    if (m.type != last_) return inner_->send(std::move(m));
    if (then_) {
      then_();
      return inner_->send(std::move(m));
    }
    inner_->close();
    return fail(Exit::link_down, "gone");
  }
  Result<Message> receive() override { return inner_->receive(); }
  void close() noexcept override { inner_->close(); }
  std::uint64_t bytes_sent() const override { return inner_->bytes_sent(); }
  std::uint64_t bytes_received() const override { return inner_->bytes_received(); }

 private:
  std::unique_ptr<Transport> inner_;
  const MessageType last_;
  const std::function<void()> then_;
};

TEST(Faults, ACancelledRunLeavesTheOldEpoch) {
  World w;
  fill(w);
  w.migrate();
  auto before = picture(w.mirror() + "/tree");
  for (MessageType at : {MessageType::hello, MessageType::begin, MessageType::records, MessageType::commit}) {
    w.write("more" + std::to_string(static_cast<int>(at)), noise(2 << 20, 9));
    std::vector<std::jthread> servers;
    Connect connect = w.in_process(&servers);
    auto r = w.attempt(World::Knows::dirty, {}, [&]() -> Result<std::unique_ptr<Transport>> {
      auto inner = connect();
      return std::make_unique<EndsAt>(std::move(*inner), at, [&] { w.progress.cancelled = true; });
    });
    servers.clear();
    w.progress.cancelled = false;
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().exit, Exit::interrupted);
    EXPECT_TRUE(at == MessageType::commit || picture(w.mirror() + "/tree") == before);
  }
  w.migrate(World::Knows::nothing);
  w.expect_equal();
}

TEST(Faults, TheBarKnowsItsShare) {
  World w;
  fill(w);
  w.migrate();
  EXPECT_GE(w.progress.files_total, 7u);
  EXPECT_LE(w.progress.files, w.progress.files_total);
  w.write("d/old", "x");
  w.write("fresh", "y");
  w.migrate();
  EXPECT_EQ(w.progress.files_total, w.progress.files);
  EXPECT_GE(w.progress.files_total, 2u);
}

// Nothing is sent before the count is complete: then the share is known from the first byte to the last.
TEST(Faults, TheBarKnowsTheBytesOfAFullCopy) {
  World w;
  fill(w);
  w.write("d/again", noise(2 << 20, 1));
  w.progress.totals = true;
  std::uint64_t done = 0, total = 0;
  const auto when_sending = [&] {
    if (total != 0) return;   // only the first time
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (w.progress.bytes_total == 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    done = w.progress.bytes;
    total = w.progress.bytes_total;
  };
  std::vector<std::jthread> servers;
  Connect connect = w.in_process(&servers);
  auto r = w.attempt(World::Knows::dirty, {}, [&]() -> Result<std::unique_ptr<Transport>> {
    auto inner = connect();
    return std::make_unique<EndsAt>(std::move(*inner), MessageType::records, when_sending);
  });
  ASSERT_TRUE(r) << r.error().line();
  EXPECT_EQ(total, 5u + (3u << 20) + 200000 + (2u << 20));
  EXPECT_LT(done, total);
  EXPECT_EQ(w.progress.bytes, total);
  EXPECT_EQ(w.progress.files, w.progress.files_total);
}

// The journal as the volume's process keeps it.
class Journaled {
 public:
  Journaled() : dir_(stdfs::temp_directory_path() / ("somfs-journal-" + Uuid::random().text())) {
    stdfs::create_directory(dir_);
    fd_ = Fd(::open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    snapshot::Journal::Options options;
    options.start_flusher = false;
    journal = snapshot::Journal::open(fd_.get(), "fs", clock_, options).value();
    world.sink = journal.get();
  }
  ~Journaled() {
    world.sink = nullptr;
    journal.reset();
    stdfs::remove_all(dir_);
  }
  // `wide`: epochs were merged, and the set reaches back to the beginning.
  World::Adjust source(bool wide = false) {
    return [this, wide](Source& s, MigrateOptions&) {
      const std::uint64_t cut = journal->rotate();
      EXPECT_EQ(cut, s.epoch);
      auto target = journal->target("m");
      s.base_epoch = target ? target->acked_epoch : 0;
      s.dirty.reset();
      s.dirty_since = [this, wide, cut](std::uint64_t epoch) -> Result<Changes> {
        auto set = journal->dirty_since(wide ? 0 : epoch, cut);
        if (!set) return Changes{journal->known_since(epoch, cut), false};
        return Changes{std::move(*set), true};
      };
    };
  }
  // The mirror commits, and its answer is lost.
  void lose_answer() {
    std::vector<std::jthread> servers;
    auto r = world.attempt(World::Knows::nothing, source(), [&]() -> Result<std::unique_ptr<Transport>> {
      auto [mine, theirs] = make_pair_in_process();
      servers.push_back(world.server(std::make_unique<EndsAt>(std::move(theirs), MessageType::committed)));
      return std::move(mine);
    });
    EXPECT_FALSE(r);
  }

  World world;
  std::unique_ptr<snapshot::Journal> journal;

 private:
  stdfs::path dir_;
  Fd fd_;
  SystemClock clock_;
};

TEST(Faults, ALostAcknowledgementCostsNoComparison) {
  for (bool wide : {false, true}) {
    SCOPED_TRACE(wide);
    Journaled j;
    World& w = j.world;
    fill(w);
    EXPECT_EQ(w.migrate(World::Knows::nothing, j.source()).strategy, "full");
    ASSERT_TRUE(j.journal->acknowledge("m", Uuid::random(), w.epoch()));
    w.write("born", noise(100000, 3));
    w.mkdir("dir");
    w.rename("born", "dir/born");
    j.lose_answer();
    EXPECT_EQ(content(w.seen("dir/born")).size(), 100000u);
    w.write("dir/born", "again", 5);
    w.write("later", "x");
    w.rename("dir", "dir2");
    EXPECT_EQ(w.migrate(World::Knows::nothing, j.source(wide)).strategy, "differential");
    w.expect_equal();
  }
}

TEST(Faults, AnAcceptedHeldEpochIsWhereTheNextDifferenceStarts) {
  Journaled j;
  World& w = j.world;
  for (int i = 0; i < 220; ++i) w.write("f" + std::to_string(i), "x");
  w.migrate(World::Knows::nothing, j.source());
  ASSERT_TRUE(j.journal->acknowledge("m", Uuid::random(), w.epoch()));
  for (int i = 0; i < 200; ++i) w.remove("f" + std::to_string(i));
  auto braked = [&](Source& s, MigrateOptions& o) {
    j.source()(s, o);
    o.brake_share = 0.5;
  };
  MigrateReport r = w.migrate(World::Knows::nothing, braked);
  EXPECT_TRUE(r.held);
  EXPECT_FALSE(r.held_reason.empty());
  const std::uint64_t held = w.epoch();
  EXPECT_TRUE(w.migrate(World::Knows::nothing, braked).held);   // it waits
  {
    auto m = Mirror::open(w.mirror(), Mirror::Mode::existing).value();
    EXPECT_TRUE(stdfs::exists(w.seen("f0")));
    ASSERT_TRUE(m->decide_held(true));
    EXPECT_EQ(m->committed_epoch(), held);
  }
  EXPECT_FALSE(stdfs::exists(w.seen("f0")));
  w.write("after", "x");
  EXPECT_EQ(w.migrate(World::Knows::nothing, braked).strategy, "differential");
  w.expect_equal();
}

}  // namespace
}  // namespace somfs::replicator
