// SPDX-License-Identifier: Apache-2.0
// A whole store with two snapshots over a small volume: parts of the input become its files. Both snapshots are read through views, then
// the store opens, removes one, and closes.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "snapshot/store.h"
#include "snapshot/store_log.h"
#include "snapshot/view.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/seal.h"
#include "tests/unit/snapshot/store_harness.h"

using namespace somfs;
using namespace somfs::snapshot;

namespace {

constexpr std::size_t kMostObjects = 64, kMostReads = 16;

class Target {
 public:
  Target() {
    volume_.open_store();
    volume_.mkdir("/d");
    volume_.create("/a", std::string(200000, 'a'));
    volume_.create("/d/b", "beta");
    volume_.symlink("/link", "a");
    volume_.close_store();
    for (const char* path : {".", "d", "a", "d/b", "link"}) ids_.push_back(inode_at(volume_.root.get(), path).value().id);
  }

  void run(std::string_view input) {
    lay_out(input);
    for (const char* name : {"a", "b"})
      if (auto view = View::open(volume_.root.get(), volume_.dir.get(), name)) look_at(**view);
    FakeClock clock;
    auto store = Store::open(volume_.dir.get(), volume_.root.get(), Uuid::from_raw("bootbootbootboot"), clock, {});
    fuzz::demand(store.has_value(), "the store does not open");
    (void)(*store)->remove("a");
    (*store).reset();
    store = Store::open(volume_.dir.get(), volume_.root.get(), Uuid::from_raw("bootbootbootboot"), clock, {});
    fuzz::demand(store.has_value(), "the store does not open again");
  }

 private:
  // The first objects' numbers stand for those of the volume.
  ObjectId real(const ObjectId& id) const { return id.ino != 0 && id.ino <= ids_.size() ? ids_[id.ino - 1] : id; }

  std::string with_real_ids(const std::string& log) const {
    std::string out;
    const LogParse parsed = parse_log(log, [&](LogRecord&& record) {
      if (auto* n = std::get_if<NameRecord>(&record)) {
        n->parent = real(n->parent);
        n->child = real(n->child);
      } else {
        std::visit([&](auto& r) {
          if constexpr (requires { r.object; }) r.object = real(r.object);
        }, record);
      }
      out += encode(record);
    });
    return out + log.substr(parsed.used);
  }

  void put(const std::string& name, const std::string& bytes) {
    Fd fd(::openat(volume_.dir.get(), name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    fuzz::demand(write_all(fd.get(), bytes) == 0, "no room");
  }

  void lay_out(std::string_view input) {
    for (const auto& e : std::filesystem::directory_iterator(volume_.base + "/v/.somfs/store")) std::filesystem::remove_all(e);
    std::string head("SOMSTORE\x01\0\0\0\0\0\0\0bootbootbootboot\x10", 33);
    head.resize(4096);
    put("head", head);
    for (const char* name : {"a", "b"}) {
      const std::string dir = name[0] == 'a' ? "00000001-a/" : "00000002-b/";
      for (const std::string& d : {dir, dir + "kept"})
        fuzz::demand(::mkdirat(volume_.dir.get(), d.c_str(), 0700) == 0, "no room");
      SnapshotInfo info;
      info.name = name;
      put(dir + "info", encode_info(info));
      put(dir + "log", {});
      put(dir + "data", std::string(3 * kChunk, *name));
    }
    fuzz::each_part(input, [&](std::uint8_t which, std::string bytes) {
      constexpr const char* names[] = {"head",            "dropped",         "00000001-a/log", "00000002-b/log",
                                       "00000001-a/info", "00000002-b/info", "00000001-a/data"};
      const std::size_t file = which % 7;
      if ((which & 128) == 0) {
        if (file == 0) {
          bytes = "SOMSTORE" + std::string("\x01\0\0\0", 4) + bytes;
          bytes.resize(4096);
        } else if (file == 2 || file == 3) {
          fuzz::seal_frames(bytes, 0);
          bytes = with_real_ids(bytes);
        } else if (file != 6) {
          fuzz::seal_tail(bytes);
        }
      }
      put(names[file], bytes);
    });
  }

  void look_at(View& view) {
    std::vector<ViewFile> open;
    std::size_t met = 0;
    if (auto top = view.root()) open.push_back(std::move(*top));
    while (!open.empty() && ++met <= kMostObjects) {
      ViewFile f = std::move(open.back());
      open.pop_back();
      (void)f.xattrs();
      if (f.attr().kind == Kind::symlink) (void)f.link_target();
      if (f.attr().kind == Kind::file) read(f);
      if (f.attr().kind != Kind::dir) continue;
      auto entries = view.list(f);
      if (!entries) continue;
      for (const ViewEntry& e : *entries) {
        (void)view.lookup(f, e.name);
        if (auto child = view.open_in(f, e)) open.push_back(std::move(*child));
      }
    }
    for (const ObjectId& id : ids_) {
      auto inode = view.open({id, {}, Kind::none});
      if (inode && *inode) read(**inode);
    }
  }

  // From the start, from around the end, and wherever it says that data are.
  void read(ViewFile& f) {
    std::string buffer(3 * kChunk, '\0');
    const std::uint64_t size = f.attr().size;
    for (std::uint64_t at : {std::uint64_t{0}, size / 2, size - std::min<std::uint64_t>(size, 10), size})
      if (auto got = f.read(buffer.data(), buffer.size(), at))
        fuzz::demand(*got <= buffer.size() && *got <= size - at, "too much was read");
    std::uint64_t at = 0;
    for (std::size_t i = 0; i < kMostReads; ++i) {
      auto data = f.next_data(at);
      if (!data || !*data) return;
      fuzz::demand((*data)->off >= at && (*data)->len != 0, "data that lead nowhere");
      at = (*data)->end();
    }
  }

  test::Volume volume_;
  std::vector<ObjectId> ids_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::be_quiet();
  static Target target;
  target.run(fuzz::view(data, size));
  return 0;
}
