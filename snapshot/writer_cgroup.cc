// SPDX-License-Identifier: Apache-2.0
// Kernel: Documentation/admin-guide/cgroup-v2.rst ("cgroup.freeze", "cgroup.events"), cgroup-v1/freezer-subsystem.rst.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>

#include "common/fd.h"
#include "common/log.h"
#include "common/printable.h"
#include "snapshot/child.h"
#include "snapshot/writers.h"

namespace somfs::snapshot {
namespace {

using Answer = WriterReport::Answer;
namespace stdfs = std::filesystem;

std::string contents(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char buf[4096];
  std::size_t got = 0;
  if (!fd || read_all(fd.get(), buf, sizeof buf, &got) != 0) return {};
  return {buf, got};
}

int store(const std::string& path, std::string_view value) {
  Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return fd ? write_all(fd.get(), value) : errno;
}

// A cgroup and the words its version uses.
struct Cgroup {
  std::string path;
  bool v2 = true;
  std::string control() const { return path + (v2 ? "/cgroup.freeze" : "/freezer.state"); }
  const char* freeze_word() const { return v2 ? "1" : "FROZEN"; }
  const char* thaw_word() const { return v2 ? "0" : "THAWED"; }
  bool asked() const { return contents(v2 ? control() : path + "/freezer.self_freezing").substr(0, 1) == "1"; }
  bool frozen() const {
    return v2 ? contents(path + "/cgroup.events").find("frozen 1") != std::string::npos
              : contents(control()).substr(0, 6) == "FROZEN";
  }
};

void add_threads(int pid, std::set<std::string>* ids) {
  std::error_code ec;
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  for (stdfs::directory_iterator i(tasks, ec), end; !ec && i != end; i.increment(ec)) ids->insert(i->path().filename().string());
}

// Whether any of the threads is in the cgroup or beneath it, whichever hierarchy and namespace it is seen from.
bool holds_any(const Cgroup& g, const std::set<std::string>& threads) {
  std::vector<std::string> dirs = {g.path};
  std::error_code ec;
  for (stdfs::recursive_directory_iterator i(g.path, ec), end; !ec && i != end; i.increment(ec))
    if (i->is_directory(ec)) dirs.push_back(i->path().string());
  for (const std::string& d : dirs) {
    std::ifstream list(d + (g.v2 ? "/cgroup.threads" : "/tasks"));
    for (std::string id; std::getline(list, id);)
      if (threads.count(id) != 0) return true;
  }
  return false;
}

class CgroupWriter final : public Writer {
 public:
  CgroupWriter(CgroupConfig config, const Clock& clock) : config_(std::move(config)), clock_(clock) {}
  ~CgroupWriter() override { release(false, clock_.mono_ns()); }
  std::string name() const override { return config_.name; }
  void announce(const CutRequest& request) override { requester_ = request.requester_pid; }

  WriterReport prepare(std::int64_t deadline) override {
    release(false, deadline);
    WriterReport report;
    report.name = config_.name;
    report.answer = Answer::ready;
    auto bad = [&](Answer a, std::string why) {
      release(false, deadline);
      report.answer = a;
      report.reason = printable(config_.path) + ": " + std::move(why);
      return report;
    };
    Cgroup g{config_.path};
    g.v2 = ::access(g.control().c_str(), F_OK) == 0;
    if (!g.v2 && ::access(g.control().c_str(), F_OK) != 0) return bad(Answer::failed, "not a cgroup that can be frozen");
    std::set<std::string> spared;
    add_threads(::getpid(), &spared);
    if (requester_ > 0) add_threads(requester_, &spared);
    if (holds_any(g, spared)) return bad(Answer::veto, "it holds somfs itself or who asked for the snapshot");
    if (g.asked()) {  // by somebody else, who will thaw it
      if (!wait_frozen(g, deadline)) return bad(Answer::timeout, "its processes did not stop in time");
      return report;
    }
    auto guard = watch(g);
    if (!guard) return bad(Answer::failed, guard.error().line());
    guard_.emplace(std::move(*guard));
    frozen_ = g;
    if (int e = store(g.control(), g.freeze_word()); e != 0)
      return bad(Answer::failed, fail_errno("cannot freeze it", {}, e).value().line());
    if (!wait_frozen(g, deadline)) return bad(Answer::timeout, "its processes did not stop in time");
    return report;
  }

  void release(bool, std::int64_t deadline) noexcept override {
    if (!frozen_) return;
    if (int e = store(frozen_->control(), frozen_->thaw_word()); e != 0 && e != ENOENT)
      log::error("writer {}: cannot thaw {}: {}", printable(config_.name), printable(frozen_->path), e);
    frozen_.reset();
    if (!guard_) return;
    guard_->send("thawed\n", deadline);
    guard_->wait(std::min(deadline, clock_.mono_ns() + 1'000'000'000));
    guard_.reset();
  }

 private:
  // Thaws the cgroup when its standard input ends, which is when this process does, however it dies.
  Result<Child> watch(const Cgroup& g) const {
    Child::Options o;
    o.argv = {"/bin/sh", "-c", "trap '' HUP INT TERM; read -r word || echo \"$1\" > \"$2\"", "somfs-thaw", g.thaw_word(), g.control()};
    o.output = false;
    o.own_session = true;
    return Child::start(o, clock_);
  }

  bool wait_frozen(const Cgroup& g, std::int64_t deadline) const {
    Fd events(g.v2 ? ::open((g.path + "/cgroup.events").c_str(), O_RDONLY | O_CLOEXEC) : -1);
    while (!g.frozen()) {
      const std::int64_t left = deadline - clock_.mono_ns();
      if (left <= 0) return false;
      // Version 2 tells changes to who read the file before; version 1 goes on with freezing when it is asked for the state.
      char buf[4096];
      if (events && ::pread(events.get(), buf, sizeof buf, 0) < 0) return false;
      if (g.frozen()) return true;
      pollfd p{events.get(), POLLPRI, 0};
      ::poll(&p, 1, static_cast<int>(std::min<std::int64_t>(g.v2 ? 100 : 5, left / 1'000'000 + 1)));
    }
    return true;
  }

  const CgroupConfig config_;
  const Clock& clock_;
  int requester_ = 0;
  std::optional<Cgroup> frozen_;  // by us
  std::optional<Child> guard_;
};

}  // namespace

std::shared_ptr<Writer> make_cgroup_writer(CgroupConfig config, const Clock& clock) {
  return std::make_shared<CgroupWriter>(std::move(config), clock);
}

}  // namespace somfs::snapshot
