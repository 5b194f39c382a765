// SPDX-License-Identifier: Apache-2.0
// A scratch directory with somfs mounted over it, and a sink that remembers what it was told.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/sync.h"
#include "fs/capture.h"
#include "fs/mount.h"

namespace somfs::fs::test {

// A change with its borrowed parts copied.
struct Seen {
  ChangeKind what;
  ObjectId object;
  Extent extent;
  Kind kind;
  ObjectId parent;
  std::string name;
  ObjectId old;
  bool has_handle;
  std::string payload;
};

class RecordingSink : public ChangeSink {
 public:
  void intend(const ObjectId& object, const Handle*, Promise promise) noexcept override {
    Lock l(mutex_);
    intents_.emplace_back(object, promise);
  }
  void accept(const Change& c, std::span<const std::byte> payload) noexcept override {
    Lock l(mutex_);
    seen_.push_back({c.what, c.object, c.extent, c.kind, c.parent, std::string(c.name), c.old,
                     c.handle != nullptr && !c.handle->empty(),
                     std::string(reinterpret_cast<const char*>(payload.data()), payload.size())});
  }
  void make_marks_durable() noexcept override {
    Lock l(mutex_);
    ++durable_;
  }
  std::vector<Seen> take() {
    Lock l(mutex_);
    return std::exchange(seen_, {});
  }
  std::vector<std::pair<ObjectId, Promise>> take_intents() {
    Lock l(mutex_);
    return std::exchange(intents_, {});
  }
  int durable() {
    Lock l(mutex_);
    return durable_;
  }

 private:
  Mutex mutex_;
  std::vector<Seen> seen_ GUARDED_BY(mutex_);
  std::vector<std::pair<ObjectId, Promise>> intents_ GUARDED_BY(mutex_);
  int durable_ GUARDED_BY(mutex_) = 0;
};

inline std::string scratch_parent() {
  const char* t = std::getenv("TMPDIR");
  return t != nullptr && *t != '\0' ? t : "/tmp";
}

// A directory that goes with everything in it.
class Scratch {
 public:
  Scratch() {
    std::string t = scratch_parent() + "/somfs-fs-XXXXXX";
    if (::mkdtemp(t.data()) == nullptr) std::abort();
    path = t;
    ::chmod(path.c_str(), 0755);
  }
  ~Scratch() {
    std::string command = "rm -rf -- '" + path + "'";
    if (std::system(command.c_str()) != 0) std::perror(path.c_str());
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string path;
};

struct MountedWith {
  BackingOptions backing;
  MountOptions mount;
  Admission* admission = nullptr;
  PreImages* pre_images = nullptr;
  VirtualTree* tree = nullptr;
};

// Mounted over `dir` from construction to destruction, served by a thread of this process: the test's own calls go through
// the kernel as anybody's.
class Mounted {
 public:
  explicit Mounted(const std::string& dir, MountedWith setup = {}) : capture(sink) {
    setup.backing.dir = dir;
    auto b = Backing::open(setup.backing);
    if (!b) {
      ADD_FAILURE() << b.error().line();
      return;
    }
    backing = std::make_unique<Backing>(std::move(*b));
    auto m = Mount::open(*backing, setup.mount, Chain(setup.admission, {&capture}), setup.pre_images, &sink, setup.tree);
    if (!m) {
      ADD_FAILURE() << m.error().line();
      return;
    }
    mount = std::move(*m);
    // Mounting has locked what this process will ever map. A test that acts as another user gives up the right to lock more than a
    // few megabytes, and could map nothing any more.
    ::munlockall();
    server = std::jthread([this] {
      if (auto s = mount->run(); !s) ADD_FAILURE() << s.error().line();
    });
  }
  ~Mounted() {
    if (mount) mount->stop();
  }

  RecordingSink sink;
  Capture capture;
  std::unique_ptr<Backing> backing;
  std::unique_ptr<Mount> mount;
  std::jthread server;
};

inline std::string slurp(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string out(1 << 20, '\0');
  std::size_t got = 0;
  if (!fd || read_all(fd.get(), out.data(), out.size(), &got) != 0) return "?";
  out.resize(got);
  return out;
}

inline void spill(const std::string& path, const std::string& text, int flags = O_CREAT | O_TRUNC) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0644));
  ASSERT_TRUE(fd) << path << ": " << std::strerror(errno);
  ASSERT_EQ(write_all(fd.get(), text), 0) << std::strerror(errno);
}

inline std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> out;
  DIR* d = ::opendir(path.c_str());
  if (d == nullptr) return {"?"};
  while (dirent* e = ::readdir(d))
    if (std::strcmp(e->d_name, ".") != 0 && std::strcmp(e->d_name, "..") != 0) out.emplace_back(e->d_name);
  ::closedir(d);
  std::sort(out.begin(), out.end());
  return out;
}

// A test that cannot run here says why; the program then exits with 77 unless something failed.
inline bool& skipped() {
  static bool any = false;
  return any;
}
inline const char* cannot_run() {
  if (::geteuid() != 0) return "needs root";
  if (::access("/dev/fuse", R_OK | W_OK) != 0) return "needs /dev/fuse";
  return nullptr;
}

}  // namespace somfs::fs::test

#define SOMFS_NEEDS_MOUNTS()                                                  \
  do {                                                                        \
    if (const char* why = ::somfs::fs::test::cannot_run(); why != nullptr) {  \
      ::somfs::fs::test::skipped() = true;                                    \
      GTEST_SKIP() << why;                                                    \
    }                                                                         \
  } while (false)
