// SPDX-License-Identifier: Apache-2.0
// Writes seeds for the fuzzers beneath a directory: one sound example of everything they read.
#include <filesystem>
#include <fstream>
#include <functional>

#include "common/bytes.h"
#include "replicator/delta.h"
#include "replicator/frame.h"
#include "replicator/keys.h"
#include "replicator/mirror_journal.h"
#include "replicator/reception.h"
#include "replicator/spool.h"
#include "replicator/text_codes.h"
#include "snapshot/dirty_set.h"
#include "snapshot/journal_epochs.h"
#include "snapshot/journal_log.h"
#include "snapshot/journal_state.h"
#include "snapshot/store_log.h"
#include "tests/fuzz/channel_seeds.h"
#include "tests/fuzz/scratch_mirror.h"

using namespace somfs;
using namespace somfs::replicator;

namespace {

std::filesystem::path top;

void seed(const std::string& fuzzer, const std::string& name, const std::string& bytes) {
  std::filesystem::create_directories(top / fuzzer);
  std::ofstream(top / fuzzer / name, std::ios::binary) << bytes;
}

void messages() {
  seed("frame", "stored", encode_frame({MessageType::hello, encode(model::hello())}));
  seed("frame", "packed", encode_frame({MessageType::records, std::string(3000, 'x')}));
  auto body = [](char kind, const std::string& name, const std::string& bytes) { seed("bodies", name, std::string(1, kind) + bytes); };
  Welcome w;
  w.volume = model::hello().volume;
  w.root = sha256("root");
  ListRow row;
  row.name = "name";
  row.object = {5, 6};
  row.kind = Kind::file;
  InspectRow seen;
  seen.path = {"a", "b"};
  seen.attr.kind = Kind::file;
  body(0, "hello", encode(model::hello()));
  body(1, "welcome", encode(w));
  body(2, "begin", encode(model::begin(1, 2)));
  Begin onward = model::begin(1, 2);
  onward.previous = w.root;
  body(2, "onward", encode(onward));
  body(3, "committed", encode(Committed{2, true, "why", 1, 2, 3, {}, w.root}));
  body(9, "applied", encode(Applied{2, 0.004}));
  body(4, "listing", encode(std::vector<ListRow>{row, row}, {2, 1}));
  body(5, "inspected", encode(std::vector<InspectRow>{seen}));
  body(6, "error", encode(ErrorBody{75, "line"}));
  body(7, "stages", encode(std::vector<StagedRow>{{{5, 6}, 7, {}, {}, sha256("x")}}));
}

std::string part(std::uint8_t which, std::string_view bytes) {
  std::string out;
  fuzz::put_part(out, which, bytes);
  return out;
}
std::string said(MessageType type, const std::string& body = {}) { return part(static_cast<std::uint8_t>(type), body); }

void records() {
  const model::State state = fuzz::first_state();
  for (unsigned i = 0; i < 40; ++i) {
    std::mt19937 random(i);
    model::State next = state;
    for (unsigned n = 0; n <= i % 5; ++n) model::mutate(next, random);
    next.sweep();
    const std::string bytes = model::plan(state, next, &random);
    seed("receive", std::to_string(i), "\x01" + bytes);
    if (i < 5) seed("bodies", "records" + std::to_string(i), std::string(1, '\x08') + bytes);
    if (i >= 10 || bytes.size() > 4000) continue;
    const std::string group = said(MessageType::begin, encode(model::begin(1, 2))) + said(MessageType::records, bytes);
    seed("session", "commit" + std::to_string(i), group + said(MessageType::commit) + said(MessageType::bye));
    seed("session", "given_up" + std::to_string(i), group);
  }
  std::string delta, content;
  RecordWriter w(delta);
  ObjectRecord r;
  r.id = r.basis = state.at("big");
  r.flags = kRewritten | kAttr | kXattr;
  r.attr = state.nodes.at(r.id).attr;
  w.object(r);
  w.delta(std::string_view("rs\x02\x36\x03" "abc" "\x47\x00\x00\x11\x6d\x00", 14));
  seed("receive", "delta", "\x01" + delta);
  std::string root, dir, file;
  ByteWriter(root).id(state.root);
  ByteWriter(file).id(r.id);
  seed("session", "questions", said(MessageType::hello, encode(model::hello())) + said(MessageType::list, root) +
                                 said(MessageType::signature, file) + said(MessageType::staged) + said(MessageType::inspect) +
                                 said(MessageType::inspect, "deep") + said(MessageType::abort) + said(MessageType::bye));
  seed("session", "error", said(MessageType::error, encode(ErrorBody{75, "line"})));
}

// What an honest mirror says, to be lied about.
void answers() {
  const model::State state = fuzz::first_state();
  Welcome w;
  w.epoch = 1;
  w.files = state.nodes.size();
  auto rows = [&](const ObjectId& dir) {
    std::vector<ListRow> out;
    for (const auto& [name, id] : state.nodes.at(dir).children) {
      const model::Node& n = state.nodes.at(id);
      out.push_back({name, id, n.attr.kind, n.attr.size, n.attr.mtime, n.attr.ctime, attr_hash(n.attr, n.xattrs, n.target)});
    }
    return part(0, encode(out, dir));
  };
  const std::string content = state.nodes.at(state.at("big")).data;
  std::string signature, rest = content;
  (void)make_signature(signature_shape(content.size()), [&](char* to, std::size_t n) -> Result<std::size_t> {
    n = rest.copy(to, n);
    rest.erase(0, n);
    return n;
  }, [&](std::string_view piece) -> Status {
    signature += piece;
    return {};
  });
  const std::string signed_ = part(64, signature) + part(0, {});
  const std::string committed = part(0, encode(Committed{2, false, {}, 1, 2, 3})) + part(0, encode(Applied{2, 0.004}));
  const std::string listings = rows(state.root) + rows(state.at("d"));
  const std::string welcome = part(0, encode(w));
  for (char how = 0; how < 48; ++how)
    seed("answers", "gap" + std::to_string(how), std::string(1, how) + welcome + listings + signed_ + signed_ + signed_ + committed);
  seed("answers", "differential", std::string(1, '\0') + welcome + signed_ + signed_ + signed_ + committed);
  for (const char* root : {"root", "other"}) {   // the history that was kept, and another one
    w.root = sha256(root);
    for (char how : {64, 64 + 3}) seed("answers", std::string("kept_") + root + std::to_string(how), std::string(1, how) + part(0, encode(w)) + listings + signed_ + signed_ + committed);
  }
  w.root.clear();
  w.staged = 1;
  StagedRow left{state.at("a"), 5, state.nodes.at(state.at("a")).attr.mtime, {}, sha256("alpha")};
  const std::string resumed = part(0, encode(w)) + part(0, encode(std::vector<StagedRow>{left}));
  seed("answers", "resumed", std::string(1, '\x08') + resumed + listings + signed_ + committed);
  w.foreign_tree = true;
  seed("answers", "foreign", std::string(1, '\x08') + part(0, encode(w)) + part(0, encode(std::vector<StagedRow>{})) + listings + committed);
  w.staged = 0;
  std::vector<InspectRow> seen;
  std::function<void(const ObjectId&, std::vector<std::string>)> walk = [&](const ObjectId& id, const std::vector<std::string>& path) {
    const model::Node& n = state.nodes.at(id);
    InspectRow row;
    row.path = path;
    row.object = id;
    row.attr = n.attr;
    row.content = n.attr.kind == Kind::file ? sha256(n.data) : n.attr.kind == Kind::symlink ? sha256(n.target) : std::string();
    seen.push_back(row);
    for (const auto& [name, child] : n.children) {
      std::vector<std::string> below = path;
      below.push_back(name);
      walk(child, below);
    }
  };
  walk(state.root, {});
  const std::string end = part(0, encode(std::vector<InspectRow>{}));
  seed("answers", "verify", std::string(1, '\x03') + welcome + part(64, encode(seen)) + end);
  seen.erase(seen.begin() + 2);
  seed("answers", "verify_less", std::string(1, '\x03') + welcome + part(64, encode(seen)) + end);
}

void deltas() {
  std::string_view basis = "0123456789abcdef";
  std::string whole, signature;
  for (int i = 0; i < 256; ++i) whole += basis;
  std::string_view rest = whole;
  (void)make_signature(signature_shape(whole.size()), [&](char* to, std::size_t n) -> Result<std::size_t> {
    n = std::min(n, rest.size());
    rest.copy(to, n);
    rest.remove_prefix(n);
    return n;
  }, [&](std::string_view piece) -> Status {
    signature += piece;
    return {};
  });
  seed("delta", "signature", std::string(1, '\0') + signature);
  seed("delta", "delta", std::string("\x01rs\x02\x36\x43" "abc" "\x45\x00\x01\x00\x00", 13) + std::string(1, '\0'));
}

void journal() {
  using namespace snapshot;
  DirtySet set;
  std::string marks, changes;
  std::vector<std::string> bodies;
  const Handle handle{1, "handle"};
  for (int i = 1; i <= static_cast<int>(ChangeKind::subtree); ++i) {
    Change c;
    c.what = static_cast<ChangeKind>(i);
    const auto n = static_cast<std::uint64_t>(i);
    c.object = {n, n};
    c.parent = {1, 1};
    c.old = {n + 1, n + 1};
    c.name = "name";
    c.kind = Kind::file;
    c.extent = {n * 100, 50};
    if (i % 2 == 0) c.handle = &handle;
    set.add(c);
    encode_change(changes, c);
    seed("journal", "change" + std::to_string(i), changes);
    bodies.push_back(std::exchange(changes, {}));
  }
  set.mark({40, 4}, &handle, true);
  encode_mark(marks, {5, 6}, &handle, true, true);
  JournalState state;
  state.volume = state.generation = state.boot = Uuid::from_raw("bootbootbootboot");
  state.ancestors = {state.volume};
  state.fs_id = "fs";
  state.wall_ns = state.trusted_until_ns = state.log_wall_ns = 1'600'000'000'000'000'000;
  state.epoch = 3;
  state.targets["/m"] = {{"/m", state.volume, 1, 5, true, false, {}}, 1};
  state.targets["/n"] = {{"/n", state.volume, 1, 5, false, false, sha256("n")}, 0};
  Piece piece;
  piece.number = piece.order = piece.first = piece.last = 1;
  const std::string one = encode_piece(piece, set);
  piece.number = piece.order = piece.last = 2;
  piece.replaces = {1};
  const std::string two = encode_piece(piece, set);
  seed("journal", "mark", marks);
  seed("journal", "state", state.encode());
  seed("journal", "piece", two);
  seed("dirty_set", "set", set.encode());
  set.set_volume_whole();
  seed("dirty_set", "volume", set.encode());
  std::vector<std::string> segments;
  Fd dir(::open(top.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (std::uint64_t number = 1; number <= 2; ++number) {
    auto segment = Segment::create(dir.get(), number, 4096);
    if (!segment) continue;
    SegmentHeader header;
    header.number = header.epoch = number;
    header.volume = header.generation = state.volume;
    std::uint64_t seq = 1;
    (*segment)->begin(header);
    (*segment)->append(snapshot::RecordType::mark, ++seq, 2, marks);
    for (const std::string& body : bodies) (*segment)->append(snapshot::RecordType::change, ++seq, 2, body);
    if (number == 1) (*segment)->seal(++seq, 3);
    else (*segment)->append(snapshot::RecordType::everything, ++seq, 3, {});
    std::ifstream in(top / segment_name(number), std::ios::binary);
    segments.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    segments.back().resize((*segment)->used() + 8);
    std::filesystem::remove(top / segment_name(number));
    seed("journal", segment_name(number), segments.back());
  }
  const std::string log = part(1, segments[0]) + part(2, segments[1]);
  seed("journal_open", "killed", part(0, state.encode()) + log + part(3, one) + part(4, two));
  state.clean = true;
  seed("journal_open", "closed", part(0, state.encode()) + part(3, one));
  state.clean = false;
  state.boot = Uuid::from_raw("tootbootbootboot");
  seed("journal_open", "crashed", part(0, state.encode()) + log + part(4, two));
  state.fs_id = "another";
  seed("journal_open", "rolled_back", part(0, state.encode()) + log + part(3, one));
  seed("journal_open", "broken", part(128, state.encode().substr(1)) + log + part(3, one));
}

void store() {
  using namespace snapshot;
  Attr attr;
  attr.kind = Kind::file;
  attr.size = 200000;
  attr.nlink = 1;
  const ObjectId root{1, 0}, dir{2, 0}, a{3, 0}, b{4, 0}, gone{50, 5};
  Attr of_dir = attr;
  of_dir.kind = Kind::dir;
  auto log = [](std::initializer_list<LogRecord> records) {
    std::string out;
    for (const LogRecord& r : records) out += encode(r);
    return out;
  };
  const std::string first = log({AttrRecord{root, of_dir, {}}, snapshot::NameRecord{root, "a", {}, Kind::none, {}},
                                 snapshot::NameRecord{root, "before", a, Kind::file, {1, "h"}}, AttrRecord{a, attr, {{"user.x", "1"}}},
                                 ChunkRecord{a, 0, 2 * kChunk, 0, false}, ChunkRecord{a, 2, 68928, 0, true}});
  const std::string second = log({AttrRecord{b, attr, {}}, ChunkRecord{b, 1, kChunk, kChunk, false}, WholeRecord{a},
                                  snapshot::NameRecord{dir, "gone", gone, Kind::dir, {}}, AttrRecord{gone, of_dir, {}}});
  SnapshotInfo info;
  info.name = "a";
  info.epoch = 7;
  info.consistency = "crash";
  const std::string dropped = encode_dropped({{"old", "no room", 5}, {"older", "asked", 4}});
  seed("store_log", "first", first);
  seed("store_log", "second", second);
  seed("store_log", "info", encode_info(info));
  seed("store_log", "dropped", dropped);
  for (const char* name : {"gone-12", "prep-x", "00000012.merge", "00000012-x", "1f-2e"}) seed("store_log", name, name);
  seed("store_open", "two", part(2, first) + part(3, second));
  seed("store_open", "all", part(1, dropped) + part(2, second) + part(3, first) + part(4, encode_info(info)) + part(6, std::string(500, 'd')));
  seed("store_open", "head", part(0, "another" + std::string(60, '\1')) + part(3, first));
}

void redo() {
  const model::State state = fuzz::first_state();
  Fd dir(::open(top.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  RedoHead head;
  head.epoch = 2;
  head.volume = head.generation = model::hello().volume;
  head.host = "host";
  head.excludes = "tmp";
  for (const bool whole : {true, false}) {
    auto w = RedoWriter::create(dir.get(), "list", head);
    if (!w) return;
    RedoOp op;
    op.type = RedoOp::Type::object;
    op.row = 2;
    op.fresh = true;
    op.name = "n";
    op.record.id = {100, 107};
    op.record.flags = kNew;
    op.record.attr = state.nodes.at(state.at("a")).attr;
    (void)w->add(op);
    op.type = RedoOp::Type::data;
    op.bytes = "bytes";
    (void)w->add(op);
    (void)w->flush();
    op.type = RedoOp::Type::hole;
    op.len = 10;
    (void)w->add(op);
    op.type = RedoOp::Type::name;
    op.parent = kRootRow;
    (void)w->add(op);
    if (whole) (void)w->finish();
    else (void)w->flush();
    std::ifstream in(top / "list", std::ios::binary);
    seed("redo", whole ? "whole" : "beginning", {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()});
  }
  std::filesystem::remove(top / "list");
}

// Epoch 7, after 6 (spool_fuzz.cc).
void spool() {
  Fd dir(::open(top.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (const bool whole : {true, false}) {
    Spool kept(Spool::kDefaultBound);
    kept.enlist();
    Standing here;
    here.mirror = here.volume = here.at.generation = Uuid::from_raw("0123456789abcdef");
    here.at.epoch = 6;
    kept.align(dir.get(), here, 0);
    Begin begin;
    begin.base_epoch = 6;
    begin.epoch = 7;
    begin.generation = here.at.generation;
    begin.strategy = "differential";
    kept.begin(begin);
    model::State from, to;
    from.nodes.clear();
    to.add(to.root, "a", Kind::file, "content");
    to.sweep();
    std::string records = model::plan(from, to);
    if (!whole) RecordWriter(records).reuse(std::string(32, 'h'));
    kept.take(records);
    kept.seal();
    std::ifstream in(top / "forward" / "00000000000000000001", std::ios::binary);
    seed("spool", whole ? "whole" : "touched", {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()});
    kept.forget();
  }
  std::filesystem::remove_all(top / "forward");
}

void config() {
  seed("config", "all", "[volume]\nexclude = [\"tmp\", \"/a/b/\"]\n[snapshot]\nreserve = \"5%\"\nexpire = \"1d\"\nindex_memory = \"1MiB\"\n"
                        "parked = 65536\nhold = \"500ms\"\ndrain = 0.5\n[journal]\nmemory = \"64MiB\"\n"
                        "[migrate]\ntarget = \"/m\"\nbrake = 0.5\nbwlimit = \"1MiB\"\n[[writer]]\ntype = \"hooks\"\ndirectory = \"/etc/h\"\n");
  seed("config", "writers", "[migrate]\nbrake = \"50%\"\n[snapshot]\nreserve = \"1G\"\n"
                            "[[writer]]\ntype = \"postgresql\"\nsocket = \"/s\"\nport = 5432\n"
                            "timeout = \"10s\"\n[[writer]]\ntype = \"sqlite\"\nname = \"n\"\nfiles = [\"x.db\"]\n"
                            "[[writer]]\ntype = \"cgroup\"\npath = \"/c\"\n");
}

void channels() {
  auto channel = [](fuzz::ChannelInput what, const std::string& name, const std::string& bytes) {
    seed("channel", name, std::string(1, static_cast<char>(what)) + bytes);
  };
  SealLimits limits;
  limits.frames = 4;
  Counter counter(fuzz::secret_of('k'), fuzz::kHash, limits);
  std::string frames;
  for (std::uint32_t i = 0; i < 6; ++i) {
    SealFrame f;
    f.group = i / 3;
    f.raw = i;
    frames += replicator::seal(counter.take_rekeying(i).value(), fuzz::kContext, f, std::string(i, 'x')).value();
  }
  channel(fuzz::ChannelInput::frames, "frames", frames);
  channel(fuzz::ChannelInput::own_frame, "own", std::string(12, '\1') + "payload");
  channel(fuzz::ChannelInput::link, "link", fuzz::handshake(kIK, Role::initiator).next_message().value());
  auto source = fuzz::handshake(kXX, Role::initiator), mirror = fuzz::handshake(kXX, Role::responder);
  const std::string first = source.next_message().value();
  (void)mirror.take_message(first).value();
  channel(fuzz::ChannelInput::pair, "pair", first);
  channel(fuzz::ChannelInput::answer, "answer", mirror.next_message().value());
  const PublicKey key = public_key(fuzz::secret_of('i'));
  channel(fuzz::ChannelInput::peers, "peers", "# list\n" + public_text(key) + " data=push,migrate mail=read-back,remove # host\n");
  channel(fuzz::ChannelInput::words, "code", coded_text("somfs-pair-1:", fuzz::secret_of('t').raw()));
  channel(fuzz::ChannelInput::codes, "codes", std::string(64, '6') + " until=1000 data=push,migrate # host\n");
  channel(fuzz::ChannelInput::words, "public", public_text(key));
  channel(fuzz::ChannelInput::words, "private", private_text(fuzz::secret_of('i')));
  channel(fuzz::ChannelInput::words, "banner", "somfs-channel 1 link zstd lz4\n");
}

void receptions() {
  auto any = [](std::initializer_list<std::string> parts) {
    std::string out(1, '\0');
    for (const std::string& p : parts) out += part(0, p);
    return out;
  };
  Banner source, mirror;
  mirror.word = Banner::Word::mirror;
  for (const auto word : {Banner::Word::link, Banner::Word::pair}) {
    source.word = word;
    const std::string lines = prologue(source.line(), mirror.line());
    auto handshake = fuzz::handshake(word == Banner::Word::link ? kIK : kXX, Role::initiator, lines);
    seed("reception", word == Banner::Word::link ? "link" : "pair", any({source.line(), handshake.next_message().value(), std::string(100, 'x')}));
  }
  auto first = [](MessageType type, char flip, const std::string& body) {
    return std::string("\x01") + static_cast<char>(type) + flip + std::string(2, '\5') + body;
  };
  seed("reception", "hello", first(MessageType::hello, 0, encode(model::hello())));
  seed("reception", "flipped", first(MessageType::hello, 1, encode(model::hello())));
  seed("reception", "packed", first(MessageType::records, 0, std::string(3000, 'x')));
  Step step;
  step.send = "answer";
  seed("reception", "step", "\x02" + step.encode());
  step.next = Step::Next::talk;
  step.session = Session{CipherState(fuzz::secret_of('a')), CipherState(fuzz::secret_of('b')), fuzz::kHash, public_key(fuzz::secret_of('i'))};
  seed("reception", "talk", "\x02" + step.encode());
}

void control() {
  auto lines = [](const std::string& name, const std::string& text) { seed("control", name, std::string(1, '\0') + text); };
  lines("requests", "{\"verb\":\"status\"}\n{\"verb\":\"replicate\",\"target\":\"/m\",\"rpo\":0.5}\n");
  lines("answers", "{\"schema\":1,\"error\":{\"exit\":8,\"what\":\"held\",\"on\":\"x\",\"why\":\"y\",\"to_do\":\"z\"}}\n");
  lines("others", "[1]\nnull\n\n{\n{\"error\":5}\n{\"error\":{\"exit\":\"x\"}}\n{\"verb\":");
  seed("control", "sources", "\x01[{\"volume\":\"data\",\"state\":\"ALIVE\",\"heard\":1700000000,\"host\":\"web1\",\"connected\":true},"
                             "{\"volume\":\"mail\",\"state\":\"UNWATCHED\",\"heard\":null}]");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 1;
  top = argv[1];
  std::filesystem::create_directories(top);
  messages();
  records();
  answers();
  deltas();
  journal();
  store();
  redo();
  spool();
  channels();
  receptions();
  control();
  config();
}
