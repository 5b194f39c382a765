// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdio>

#include "cli/terminal.h"
#include "cli/verb.h"
#include "common/fd.h"
#include "common/printable.h"
#include "fs/negotiation.h"

namespace somfs::cli {
namespace {

struct Finding {
  std::string about;
  enum class Grade { good, note, bad } grade;
  std::string text;
};

const char* word(Finding::Grade g) { return g == Finding::Grade::good ? "good" : g == Finding::Grade::note ? "note" : "BAD"; }

void examine_machine(std::vector<Finding>* out) {
  using G = Finding::Grade;
  utsname u{};
  ::uname(&u);
  int major = 0, minor = 0;
  std::sscanf(u.release, "%d.%d", &major, &minor);
  bool fast_writes = major > 5 || (major == 5 && minor >= 12);
  out->push_back({"kernel", fast_writes ? G::good : G::note,
                  u.release + std::string(fast_writes ? ": fast writes (HANDLE_KILLPRIV_V2)" : ": slow writes (HANDLE_KILLPRIV_V2 needs 5.12)")});
  Fd fuse(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  out->push_back({"fuse", fuse ? G::good : G::bad, fuse ? "/dev/fuse opens" : "/dev/fuse cannot be opened: load the fuse module, or ask for access"});
  out->push_back({"libfuse", G::good, fs::library_version()});
  if (::geteuid() != 0) {
    bool helper = ::access("/usr/bin/fusermount3", X_OK) == 0 || ::access("/bin/fusermount3", X_OK) == 0;
    out->push_back({"fusermount3", helper ? G::good : G::bad, helper ? "found: an ordinary user may mount" : "missing: only root can mount; install fuse3"});
  }
  rlimit r{};
  ::getrlimit(RLIMIT_NOFILE, &r);
  out->push_back({"descriptors", r.rlim_max >= 4096 ? G::good : G::note, "at most " + std::to_string(r.rlim_max) + ", somfs keeps to half of them"});
}

void examine_directory(const std::string& dir, std::vector<Finding>* out) {
  using G = Finding::Grade;
  if (auto v = ask(dir, {{"verb", "status"}})) {
    out->push_back({"mount", G::good, printable(dir) + " is protected, " + v->value("mode", "")});
    for (const auto& [name, on] : (*v)["in_force"].items())
      out->push_back({"in force", on == false || (on.is_string() && on != "in force") ? G::note : G::good,
                      name + ": " + (on.is_boolean() ? on.get<bool>() ? "yes" : "no" : on.is_string() ? on.get<std::string>() : on.dump())});
    if (!(*v)["journal"].value("trouble", "").empty()) out->push_back({"journal", G::bad, printable((*v)["journal"].value("trouble", ""))});
    if (v->value("free_bytes", 0ull) < v->value("reserve_bytes", 0ull))
      out->push_back({"space", G::bad, "free space is below the reserve: snapshots cannot be kept"});
    for (const auto& d : (*v)["dropped"]) out->push_back({"snapshots", G::note, "dropped " + d.value("name", "") + ": " + printable(d.value("reason", ""))});
    return;
  }
  Fd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOTCONN) out->push_back({"mount", G::bad, "a mount whose process is gone lies over it: run somfs again, it replaces it"});
    else out->push_back({"directory", G::bad, printable(dir) + " cannot be opened"});
    return;
  }
  out->push_back({"mount", G::note, printable(dir) + " is not protected now: somfs " + printable(dir)});
  auto i = inode_of(fd.get());
  out->push_back({"birth times", i && i->id.birth != 0 ? G::good : G::note, i && i->id.birth != 0 ? "the file system keeps them" : "the file system keeps none: a reused inode number looks like the old file"});
  out->push_back({"file handles", !handle_of(fd.get()).empty() ? G::good : G::note, !handle_of(fd.get()).empty() ? "the file system gives them" : "the file system gives none: objects are found by path"});
  struct statfs sf{};
  if (::fstatfs(fd.get(), &sf) == 0 && sf.f_type == 0x01021994)
    out->push_back({"file system", G::note, "tmpfs: nothing of it survives a restart"});
}

}  // namespace

void add_doctor(Command& app, Run& run) {
  struct Options {
    std::string dir;
  };
  auto o = std::make_shared<Options>();
  Command sub = app.add_subcommand("doctor", "Examine this machine, or a volume: what works, what is in force, what is wrong");
  sub.add_option("DIR", o->dir, "A protected directory, or one that is to be");
  sub.callback([o, &run] {
    run = [o](Terminal& t) -> Result<Exit> {
      std::vector<Finding> findings;
      examine_machine(&findings);
      if (!o->dir.empty()) examine_directory(o->dir, &findings);
      Json list = Json::array();
      std::string text;
      bool healthy = true;
      for (const auto& f : findings) {
        healthy = healthy && f.grade != Finding::Grade::bad;
        list.push_back({{"about", f.about}, {"grade", word(f.grade)}, {"text", f.text}});
        char b[64];
        std::snprintf(b, sizeof b, "%-5s %-13s ", word(f.grade), f.about.c_str());
        text += b + f.text + "\n";
      }
      t.result({{"schema", 1}, {"healthy", healthy}, {"findings", list}}, text);
      return healthy ? Exit::done : Exit::configuration;
    };
  });
}

}  // namespace somfs::cli
