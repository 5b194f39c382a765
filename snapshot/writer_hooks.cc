// SPDX-License-Identifier: Apache-2.0
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "common/log.h"
#include "common/printable.h"
#include "snapshot/child.h"
#include "snapshot/writers.h"

namespace somfs::snapshot {
namespace {

using Answer = WriterReport::Answer;

// Who may write a hook can do anything as us: only we and root may.
bool trusted(const struct stat& st) {
  return (st.st_uid == 0 || st.st_uid == ::geteuid()) && (st.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

class HooksWriter final : public Writer {
 public:
  HooksWriter(HooksConfig config, const Clock& clock) : config_(std::move(config)), clock_(clock) {}
  std::string name() const override { return config_.name; }
  void announce(const CutRequest& request) override { snapshot_ = request.name; }

  WriterReport prepare(std::int64_t deadline) override {
    WriterReport report;
    report.name = config_.name;
    report.answer = Answer::ready;
    std::vector<std::string> hooks;
    if (Status s = collect(&hooks); !s) {
      report.answer = s.error().exit == Exit::not_allowed ? Answer::veto : Answer::failed;
      report.reason = s.error().line();
      return report;
    }
    for (const std::string& hook : hooks) {
      ran_.push_back(hook);  // also one that fails may have done half of its work
      report.answer = run(hook, {"prepare", nullptr}, deadline, &report.reason);
      if (report.answer != Answer::ready) break;
    }
    return report;
  }

  void release(bool took_place, std::int64_t deadline) noexcept override {
    while (!ran_.empty()) {
      std::string hook = std::move(ran_.back()), reason;
      ran_.pop_back();
      try {
        if (run(hook, {"release", took_place ? "SOMFS_TOOK_PLACE=1" : "SOMFS_TOOK_PLACE=0"}, deadline, &reason) != Answer::ready)
          log::warning("writer {}: release: {}", printable(config_.name), reason);
      } catch (const std::exception& e) {
        log::warning("writer {}: release: {}", printable(config_.name), e.what());
      }
    }
  }

 private:
  Status collect(std::vector<std::string>* hooks) const {
    struct stat st;
    if (::lstat(config_.dir.c_str(), &st) != 0) return fail_errno("cannot open the hook directory", printable(config_.dir));
    if (!S_ISDIR(st.st_mode)) return fail(Exit::configuration, "not a hook directory", printable(config_.dir));
    if (!trusted(st)) return distrust(config_.dir);
    std::error_code ec;
    for (std::filesystem::directory_iterator i(config_.dir, ec), end; !ec && i != end; i.increment(ec)) {
      const std::string file = i->path().filename().string(), path = i->path().string();
      if (file.front() == '.' || file.back() == '~') continue;  // what editors leave behind
      if (::lstat(path.c_str(), &st) != 0) return fail_errno("cannot stat", printable(path));
      if (S_ISLNK(st.st_mode))
        return fail(Exit::not_allowed, "refusing hook", printable(path), "it is a symbolic link");
      if (!S_ISREG(st.st_mode) || (st.st_mode & 0111) == 0) continue;
      if (!trusted(st)) return distrust(path);
      hooks->push_back(path);
    }
    if (ec) return fail(Exit::temporary, "cannot read the hook directory", printable(config_.dir), ec.message());
    std::sort(hooks->begin(), hooks->end());
    return {};
  }

  static Status distrust(const std::string& path) {
    return fail(Exit::not_allowed, "refusing hook", printable(path), "others than its owner or root may write to it",
                "chown root and chmod go-w it");
  }

  struct Call {
    const char* verb;
    const char* more_env;
  };
  Answer run(const std::string& hook, Call call, std::int64_t deadline, std::string* reason) const {
    const std::string file = printable(std::filesystem::path(hook).filename().string());
    Child::Options o;
    o.argv = {hook, call.verb};
    o.env = {"SOMFS_SNAPSHOT=" + snapshot_, "SOMFS_VOLUME=" + config_.volume, "LC_ALL=C.UTF-8"};
    if (call.more_env != nullptr) o.env.push_back(call.more_env);
    o.output = false;
    auto child = Child::start(o, clock_);
    if (!child) {
      *reason = child.error().line();
      return Answer::failed;
    }
    child->close_input();
    std::optional<int> status = child->wait(deadline);
    if (!status) {
      *reason = file + " did not end in time and was killed";
      return Answer::timeout;
    }
    if (WIFEXITED(*status) && WEXITSTATUS(*status) == 0) return Answer::ready;
    const std::string said = child->last_error();
    if (WIFEXITED(*status)) {
      *reason = file + ": " + (said.empty() ? "exit code " + std::to_string(WEXITSTATUS(*status)) : said);
      return Answer::veto;
    }
    *reason = file + " was killed by signal " + std::to_string(WTERMSIG(*status));
    return Answer::failed;
  }

  const HooksConfig config_;
  const Clock& clock_;
  std::string snapshot_;
  std::vector<std::string> ran_;  // to be released, in reverse order
};

}  // namespace

std::shared_ptr<Writer> make_hooks_writer(HooksConfig config, const Clock& clock) {
  return std::make_shared<HooksWriter>(std::move(config), clock);
}

}  // namespace somfs::snapshot
