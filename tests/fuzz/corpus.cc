// SPDX-License-Identifier: Apache-2.0
// Writes seeds for the fuzzers beneath a directory: one sound example of everything they read.
#include <filesystem>
#include <fstream>

#include "common/bytes.h"
#include "replicator/delta.h"
#include "replicator/frame.h"
#include "snapshot/dirty_set.h"
#include "snapshot/journal_log.h"
#include "snapshot/journal_state.h"
#include "snapshot/store_log.h"
#include "tests/unit/replicator/mirror_model.h"

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
  body(3, "committed", encode(Committed{2, true, "why", 1, 2, 3}));
  body(4, "listing", encode(std::vector<ListRow>{row, row}, {2, 1}));
  body(5, "inspected", encode(std::vector<InspectRow>{seen}));
  body(6, "error", encode(ErrorBody{75, "line"}));
  body(7, "stages", encode(std::vector<StagedRow>{{{5, 6}, 7, {}, {}, sha256("x")}}));
}

void records() {
  model::State none, state;
  none.nodes.clear();
  ObjectId d = state.add(state.root, "d", Kind::dir);
  state.add(state.root, "a", Kind::file, "alpha");
  state.add(d, "inner", Kind::file, std::string(5000, 'i'));
  state.add(d, "link", Kind::symlink, "../a");
  state.sweep();
  for (unsigned i = 0; i < 40; ++i) {
    std::mt19937 random(i);
    model::State next = state;
    for (unsigned n = 0; n <= i % 5; ++n) model::mutate(next, random);
    next.sweep();
    const std::string bytes = model::plan(state, next, &random);
    seed("receive", std::to_string(i), "\x01" + bytes);
    if (i < 5) seed("bodies", "records" + std::to_string(i), std::string(1, '\x08') + bytes);
  }
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

void kept_on_disk() {
  using namespace snapshot;
  DirtySet set;
  std::string log, marks, changes;
  for (std::uint64_t i = 1; i < 6; ++i) {
    Change c;
    c.what = i % 2 == 0 ? ChangeKind::write : ChangeKind::bind;
    c.object = {i, i};
    c.parent = {1, 1};
    c.name = "name";
    c.extent = {i * 100, 50};
    set.add(c);
    encode_change(changes, c);
    seed("journal", "change" + std::to_string(i), changes);
    changes.clear();
  }
  encode_mark(marks, {5, 6}, nullptr, false, false);
  seed("journal", "mark", marks);
  seed("journal", "state", JournalState().encode());
  seed("dirty_set", "set", set.encode());
  Fd dir(::open(top.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (auto segment = Segment::create(dir.get(), 1, 4096)) {
    SegmentHeader header;
    header.number = header.epoch = 1;
    (*segment)->begin(header);
    (*segment)->append(snapshot::RecordType::mark, 1, 2, marks);
    (*segment)->seal(2, 3);
  }
  std::ifstream in(top / segment_name(1), std::ios::binary);
  seed("journal", "segment", {std::istreambuf_iterator<char>(in), {}});
  std::filesystem::remove(top / segment_name(1));
  for (const LogRecord& r : {LogRecord(snapshot::NameRecord{}), LogRecord(AttrRecord{}), LogRecord(ChunkRecord{}), LogRecord(WholeRecord{})}) log += encode(r);
  seed("store_log", "log", log);
  seed("store_log", "info", encode_info({}));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 1;
  top = argv[1];
  std::filesystem::create_directories(top);
  messages();
  records();
  deltas();
  kept_on_disk();
  seed("config", "all", "[volume]\nexclude = [\"tmp\"]\n[snapshot]\nreserve = \"5%\"\nexpire = \"1d\"\n[journal]\nmemory = \"64MiB\"\n"
                        "[migrate]\ntarget = \"/m\"\nbrake = 0.5\nbwlimit = \"1MiB\"\n[[writer]]\ntype = \"hooks\"\ndirectory = \"/etc/h\"\n");
}
