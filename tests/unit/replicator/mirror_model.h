// SPDX-License-Identifier: Apache-2.0
// A toy source: a tree in memory, random changes to it, the records between two of its states, and the comparison with a real tree.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <string>

#include "common/fd.h"
#include "common/printable.h"
#include "replicator/group.h"
#include "replicator/history.h"
#include "replicator/mirror.h"

namespace somfs::replicator::model {

struct Node {
  Attr attr;
  Xattrs xattrs;
  std::string data, target;
  std::map<std::string, ObjectId> children;
  bool operator==(const Node&) const = default;
};

struct State {
  std::map<ObjectId, Node> nodes;
  ObjectId root{2, 1};
  std::uint64_t next = 100;

  State() { nodes[root] = make(Kind::dir); }
  static Node make(Kind kind) {
    Node n;
    n.attr.kind = kind;
    n.attr.mode = kind == Kind::dir ? 0755 : kind == Kind::symlink ? 0777 : 0644;
    n.attr.mtime = {1600000000, 123456789};
    return n;
  }
  ObjectId add(const ObjectId& dir, const std::string& name, Kind kind, const std::string& data = {}) {
    ObjectId id{next, next + 7};
    ++next;
    Node n = make(kind);
    if (kind == Kind::symlink) n.target = data.empty() ? "nowhere" : data;
    if (kind == Kind::file) n.data = data;
    nodes[id] = n;
    nodes[dir].children[name] = id;
    touch(dir);
    return id;
  }
  ObjectId at(const std::string& path) const {
    ObjectId at_id = root;
    std::istringstream in(path);
    for (std::string part; std::getline(in, part, '/');)
      if (!part.empty()) at_id = nodes.at(at_id).children.at(part);
    return at_id;
  }
  void touch(const ObjectId& id) { nodes[id].attr.mtime.sec += 1; }
  void unlink(const ObjectId& dir, const std::string& name) {
    nodes[dir].children.erase(name);
    touch(dir);
  }
  void move(const ObjectId& from, const std::string& name, const ObjectId& to, const std::string& new_name) {
    ObjectId id = nodes[from].children.at(name);
    nodes[from].children.erase(name);
    nodes[to].children[new_name] = id;
    touch(from);
    touch(to);
  }
  // What no name reaches is gone.
  void sweep() {
    std::set<ObjectId> seen;
    std::map<ObjectId, std::uint32_t> links;
    std::function<void(const ObjectId&)> visit = [&](const ObjectId& id) {
      ++links[id];
      if (!seen.insert(id).second) return;
      for (const auto& [name, child] : nodes[id].children) visit(child);
    };
    visit(root);
    for (auto it = nodes.begin(); it != nodes.end();) {
      if (!seen.contains(it->first)) {
        it = nodes.erase(it);
        continue;
      }
      Node& n = it->second;
      n.attr.size = n.attr.kind == Kind::file ? n.data.size() : n.attr.kind == Kind::symlink ? n.target.size() : 0;
      n.attr.nlink = links[it->first];
      ++it;
    }
  }
  bool beneath(const ObjectId& what, const ObjectId& top) const {
    if (what == top) return true;
    for (const auto& [name, child] : nodes.at(top).children)
      if (nodes.at(child).attr.kind == Kind::dir && beneath(what, child)) return true;
    return false;
  }
};

inline void put_data(RecordWriter& w, const std::string& data) {
  for (std::size_t off = 0; off < data.size(); off += 700) w.data(off, std::string_view(data).substr(off, 700));
}

// Records that lead from one state to the other, in final-state form.
inline std::string plan(const State& from, const State& to, std::mt19937* random = nullptr) {
  std::string out;
  RecordWriter w(out);
  auto coin = [&] { return random != nullptr && ((*random)() & 1) != 0; };
  std::set<std::pair<ObjectId, std::string>> born;
  std::set<ObjectId> stated;
  auto record = [&](const ObjectId& id, const Node& n, std::uint8_t flags) {
    ObjectRecord r;
    r.id = id;
    r.flags = flags;
    r.attr = n.attr;
    r.xattrs = n.xattrs;
    r.target = n.target;
    return r;
  };
  if (!from.nodes.contains(to.root)) w.object(record(to.root, to.nodes.at(to.root), kNew));
  std::function<void(const ObjectId&)> visit = [&](const ObjectId& dir) {
    for (const auto& [name, child] : to.nodes.at(dir).children) {
      const Node& n = to.nodes.at(child);
      if (!from.nodes.contains(child) && stated.insert(child).second) {
        ObjectRecord r = record(child, n, kNew);
        r.parent = dir;
        r.name = name;
        w.object(r);
        put_data(w, n.data);
        born.insert({dir, name});
      }
      if (n.attr.kind == Kind::dir) visit(child);
    }
  };
  visit(to.root);
  for (const auto& [id, n] : to.nodes) {
    auto old = from.nodes.find(id);
    if (old != from.nodes.end()) {
      const Node& o = old->second;
      std::uint8_t flags = 0;
      if (o.attr.mode != n.attr.mode || o.attr.mtime != n.attr.mtime || o.attr.uid != n.attr.uid || o.xattrs != n.xattrs)
        flags |= kAttr | kXattr;
      if (o.data != n.data && coin()) {
        w.object(record(id, n, kRewritten | kAttr | kXattr));
        put_data(w, n.data);
      } else if (o.data != n.data) {
        w.object(record(id, n, static_cast<std::uint8_t>(flags | kSize)));
        put_data(w, n.data);
      } else if (flags != 0) {
        w.object(record(id, n, flags));
      }
    }
    static const std::map<std::string, ObjectId> none;
    const auto& before = old != from.nodes.end() ? old->second.children : none;
    for (const auto& [name, child] : before)
      if (!n.children.contains(name)) w.name({id, name, {}});
    for (const auto& [name, child] : n.children) {
      auto b = before.find(name);
      if ((b == before.end() || b->second != child) && !born.contains({id, name})) w.name({id, name, child});
    }
  }
  return out;
}

// Empty when the directory equals the state in every attribute; else the first difference.
inline std::string compare(int dir, const State& s, const ObjectId& id, const std::string& path, std::map<ObjectId, ObjectId>& inodes) {
  const Node& n = s.nodes.at(id);
  std::set<std::string> found;
  {
    Fd d(::openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    DIR* h = ::fdopendir(d.release());
    while (dirent* e = ::readdir(h))
      if (std::string(e->d_name) != "." && std::string(e->d_name) != "..") found.insert(e->d_name);
    ::closedir(h);
  }
  for (const std::string& name : found)
    if (!n.children.contains(name)) return path + "/" + name + " is too much";
  for (const auto& [name, child] : n.children) {
    std::string p = path + "/" + name;
    const Node& want = s.nodes.at(child);
    auto have = inode_at(dir, name);
    if (!have) return p + " is missing";
    Attr a = have->attr;
    a.ctime = want.attr.ctime;
    if (want.attr.kind == Kind::dir) a.nlink = want.attr.nlink;
    if (a.kind != want.attr.kind) return p + ": kind";
    if (a.mode != want.attr.mode) return p + ": mode";
    if (a.uid != want.attr.uid || a.gid != want.attr.gid) return p + ": owner";
    if (a.mtime != want.attr.mtime) return p + ": mtime";
    if (a.size != want.attr.size) return p + ": size";
    if (a.nlink != want.attr.nlink) return p + ": links";
    if (auto [it, fresh] = inodes.try_emplace(child, have->id); !fresh && it->second != have->id) return p + ": not the same inode";
    bool reads = want.attr.kind == Kind::dir || want.attr.kind == Kind::file;
    Fd fd(::openat(dir, name.c_str(), (reads ? O_RDONLY : O_PATH) | O_NOFOLLOW | O_CLOEXEC));
    auto xattrs = read_xattrs(fd.get());
    if (!xattrs || *xattrs != want.xattrs) return p + ": xattrs";
    if (want.attr.kind == Kind::file) {
      std::string data(want.data.size() + 1, '\0');
      std::size_t got = 0;
      pread_all(fd.get(), data.data(), data.size(), 0, &got);
      if (data.substr(0, got) != want.data) return p + ": content";
    }
    if (want.attr.kind == Kind::symlink) {
      char target[256];
      ssize_t len = ::readlinkat(dir, name.c_str(), target, sizeof target);
      if (std::string(target, static_cast<std::size_t>(std::max<ssize_t>(len, 0))) != want.target) return p + ": target";
    }
    if (want.attr.kind == Kind::dir)
      if (std::string diff = compare(fd.get(), s, child, p, inodes); !diff.empty()) return diff;
  }
  return {};
}

inline std::string compare(const std::string& mirror, const State& s) {
  Fd tree(::open((mirror + "/tree").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!tree) return "no tree/";
  std::map<ObjectId, ObjectId> inodes;
  auto top = inode_of(tree.get());
  const Attr& want = s.nodes.at(s.root).attr;
  if (top->attr.mtime != want.mtime) return "/: mtime";
  if (top->attr.mode != want.mode) return "/: mode";
  return compare(tree.get(), s, s.root, "", inodes);
}

// One random change.
inline void mutate(State& s, std::mt19937& r) {
  auto pick = [&](auto accept) -> std::optional<ObjectId> {
    std::vector<ObjectId> all;
    for (const auto& [id, n] : s.nodes)
      if (accept(id, n)) all.push_back(id);
    if (all.empty()) return std::nullopt;
    return all[r() % all.size()];
  };
  ObjectId dir = *pick([](const ObjectId&, const Node& n) { return n.attr.kind == Kind::dir; });
  std::string name(1, static_cast<char>('a' + r() % 6));
  auto& children = s.nodes[dir].children;
  std::string data(r() % 3000, static_cast<char>('0' + r() % 10));
  switch (r() % 11) {
    case 0:
    case 1:
      s.add(dir, name, Kind::file, data);
      break;
    case 2:
      s.add(dir, name, Kind::dir);
      break;
    case 3: {
      constexpr Kind kinds[] = {Kind::symlink, Kind::fifo, Kind::socket, Kind::chr, Kind::blk};
      ObjectId id = s.add(dir, name, kinds[r() % 5]);
      if (s.nodes[id].attr.kind == Kind::chr || s.nodes[id].attr.kind == Kind::blk) s.nodes[id].attr.rdev = 0x103;
      break;
    }
    case 4:
      if (!children.empty()) s.unlink(dir, children.begin()->first);
      break;
    case 5:
    case 6: {  // rename, over whatever is there
      ObjectId to = *pick([](const ObjectId&, const Node& n) { return n.attr.kind == Kind::dir; });
      if (children.empty()) break;
      auto it = std::next(children.begin(), static_cast<long>(r() % children.size()));
      std::string from = it->first;
      if (s.nodes[it->second].attr.kind == Kind::dir && s.beneath(to, it->second)) break;
      auto over = s.nodes[to].children.find(name);
      if (over != s.nodes[to].children.end() && s.nodes[over->second].attr.kind == Kind::dir && s.beneath(dir, over->second)) break;
      s.move(dir, from, to, name);
      break;
    }
    case 7: {  // hard link
      auto file = pick([](const ObjectId&, const Node& n) { return n.attr.kind == Kind::file; });
      if (!file) break;
      s.nodes[dir].children[name] = *file;
      s.touch(dir);
      break;
    }
    case 8: {
      auto file = pick([](const ObjectId&, const Node& n) { return n.attr.kind == Kind::file; });
      if (!file) break;
      s.nodes[*file].data = data;
      s.touch(*file);
      break;
    }
    case 9: {
      auto any = pick([](const ObjectId&, const Node& n) { return n.attr.kind == Kind::file || n.attr.kind == Kind::dir; });
      s.nodes[*any].attr.mode = s.nodes[*any].attr.kind == Kind::dir ? 0700 | (r() & 07077) : r() & 07777;
      s.nodes[*any].attr.uid = r() % 2 * 1000;
      break;
    }
    case 10: {
      auto any = pick([](const ObjectId&, const Node& n) { return n.attr.kind == Kind::file || n.attr.kind == Kind::dir; });
      s.nodes[*any].xattrs.clear();
      if (r() & 1) s.nodes[*any].xattrs.emplace_back("user.x", data.substr(0, 50));
      break;
    }
  }
  s.sweep();
}

struct Scratch {
  std::string path;
  explicit Scratch(const char* base = nullptr) {
    const char* tmp = base != nullptr ? base : std::getenv("TMPDIR");
    path = std::string(tmp != nullptr ? tmp : "/tmp") + "/somfs-mirror-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) std::abort();
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

inline Hello hello() {
  Hello h;
  h.volume = Uuid::from_raw("0123456789abcdef");
  h.generation = Uuid::from_raw("fedcba9876543210");
  return h;
}

inline Begin begin(std::uint64_t base, std::uint64_t epoch) {
  Begin b;
  b.base_epoch = base;
  b.epoch = epoch;
  b.generation = hello().generation;
  b.strategy = base == 0 ? "full" : "differential";
  b.replace_all = base == 0;
  b.brake_share = 1;
  return b;
}

// Commits without a body get the root of what was said before them, as an honest source would have it.
inline std::deque<Message> rooted(std::deque<Message> talk) {
  std::optional<EpochRoot> history;
  for (Message& m : talk) {
    Begin b;
    if (m.type == MessageType::begin && decode(m.body, &b)) history.emplace(hello().volume, b);
    if (m.type == MessageType::records && history) history->add(m.body);
    if (m.type == MessageType::commit && m.body.empty() && history) m.body = history->root();
  }
  return talk;
}

inline Result<Committed> run(Mirror& m, const Begin& b, const std::string& records) {
  SOMFS_TRY(m.greet(hello()));
  SOMFS_TRY(m.begin(b));
  SOMFS_TRY(m.receive(records));
  return m.commit();
}

}  // namespace somfs::replicator::model
