// SPDX-License-Identifier: Apache-2.0
// A scratch volume for tests of the store and the view: operations that call the PreImages hooks as the mount does, and captures
// of whole trees, live or through a view, to be compared.
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"
#include "snapshot/store.h"
#include "snapshot/view.h"

namespace somfs::snapshot::test {

struct Seen1 {  // one object at one path
  ObjectId id;
  Attr attr;    // without ctime
  Xattrs xattrs;
  std::string content;  // of a file, or a link's target
  bool operator==(const Seen1&) const = default;
};
using Tree = std::map<std::string, Seen1>;
std::string describe_difference(const Tree& want, const Tree& got);  // empty: equal

class Volume {
 public:
  explicit Volume(std::string base = {});   // a scratch directory beneath $TMPDIR or /tmp, or beneath `base`
  ~Volume();
  Volume(const Volume&) = delete;

  void open_store(Store::Options options = {}, const Uuid& boot = boot_id());
  void close_store() { store.reset(); }
  void snapshot(const std::string& name, std::uint64_t epoch = 1);

  Tree live() const;
  Result<Tree> view(const std::string& name) const;
  static Result<Tree> capture(View& view);

  // Operations on paths relative to the root. They fail silently where the file system refuses.
  void create(const std::string& path, const std::string& content = {});
  void mkdir(const std::string& path);
  void symlink(const std::string& path, const std::string& target);
  void mknod(const std::string& path, unsigned mode);
  void write(const std::string& path, std::uint64_t off, const std::string& bytes);
  void truncate(const std::string& path, std::uint64_t size);
  void punch(const std::string& path, std::uint64_t off, std::uint64_t len);
  void chmod(const std::string& path, unsigned mode);
  void touch(const std::string& path, std::int64_t seconds);
  void set_xattr(const std::string& path, const std::string& name, const std::string& value);
  void unlink(const std::string& path, bool dir = false);
  void rename(const std::string& from, const std::string& to, unsigned flags = 0);
  void link(const std::string& from, const std::string& to);
  void tmpfile_linked(const std::string& path, const std::string& content);
  // One random operation.
  void random_step(std::mt19937_64& rng);

  std::string base;
  Fd root, dir;                  // the protected directory and the store's
  SystemClock clock;
  std::unique_ptr<Store> store;

 private:
  struct Place {
    Fd parent;
    ObjectId parent_id;
    std::string name;
    Fd child;                    // O_PATH, if there is one
    Inode inode;
  };
  Place place(const std::string& path) const;
  void before(const Place& p, bool may_be_last);
  std::vector<std::string> paths() const;
};

}  // namespace somfs::snapshot::test
