// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <vector>

#include "common/fd.h"
#include "common/printable.h"
#include "tests/tools/oracle.h"
#include "tests/tools/oracle_plan.h"

namespace somfs::tools {
namespace {

constexpr std::uint64_t kStop = 0;  // the token that ends the run, sent to all

using Clock = std::chrono::steady_clock;

struct Ring {
  std::vector<Fd> in;   // read end of each process's pipe
  std::vector<Fd> out;  // write end
};

void pass_on_token(const Ring& ring, unsigned to, std::uint64_t token) {
  write_all(ring.out[to].get(), {reinterpret_cast<char*>(&token), sizeof token});
}

void stop_all(const Ring& ring) {
  for (unsigned p = 0; p < ring.out.size(); ++p) pass_on_token(ring, p, kStop);
}

int sync_path(int tree, const std::string& path, int flags) {
  Fd fd(openat(tree, path.c_str(), flags | O_CLOEXEC));
  return fd && fsync(fd.get()) == 0 ? 0 : errno;
}

std::string parent(const std::string& path) { return path.substr(0, path.rfind('/')); }

// Carries out one mutation by one mutating call. Returns 0 or the errno.
int carry_out(int tree, const Mutation& m) {
  using What = Mutation::What;
  auto done = [](bool ok) { return ok ? 0 : errno != 0 ? errno : EIO; };
  errno = 0;
  switch (m.what) {
    case What::append: {
      Fd fd(openat(tree, m.path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
      return done(fd && write(fd.get(), m.bytes.data(), m.bytes.size()) == static_cast<ssize_t>(m.bytes.size()));
    }
    case What::overwrite: {
      Fd fd(openat(tree, m.path.c_str(), O_WRONLY | O_CLOEXEC));
      return done(fd && pwrite(fd.get(), m.bytes.data(), m.bytes.size(), static_cast<off_t>(m.off)) ==
                            static_cast<ssize_t>(m.bytes.size()));
    }
    case What::create: {
      Fd fd(openat(tree, m.path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
      return done(static_cast<bool>(fd));
    }
    case What::rename:
      return done(renameat(tree, m.path.c_str(), tree, m.to.c_str()) == 0);
    case What::unlink:
      return done(unlinkat(tree, m.path.c_str(), 0) == 0);
  }
  return EINVAL;
}

int make_durable(int tree, const Mutation& m) {
  if (m.what == Mutation::What::append || m.what == Mutation::What::overwrite) return sync_path(tree, m.path, O_RDONLY);
  if (int e = sync_path(tree, parent(m.path), O_RDONLY | O_DIRECTORY); e != 0) return e;
  return m.to.empty() ? 0 : sync_path(tree, parent(m.to), O_RDONLY | O_DIRECTORY);
}

// One writer: waits for the token, makes the mutation, passes on. Exit status 0 at a regular end.
int write_numbered(const OracleRun& run, int tree, unsigned me, const Ring& ring, int progress, Clock::time_point end) {
  OraclePlan plan(run.seed, run.processes);
  std::uint64_t token = 0;
  std::size_t got = 0;
  while (read_all(ring.in[me].get(), &token, sizeof token, &got) == 0 && got == sizeof token) {
    if (token == kStop) return 0;
    while (plan.number() + 1 < token) plan.apply(plan.next());  // what the others did meanwhile
    Mutation m = plan.next();
    int e = carry_out(tree, m);
    if (e == 0 && run.sync) e = make_durable(tree, m);
    if (e != 0) {
      std::fprintf(stderr, "oracle: mutation %llu of %s: %s\n", static_cast<unsigned long long>(m.number), m.path.c_str(),
                   std::strerror(e));
      stop_all(ring);
      return 1;
    }
    plan.apply(m);
    pwrite_all(progress, oracle_record(m.number, m.number - 1), 0);
    if (m.number == run.count || Clock::now() >= end)
      stop_all(ring);
    else
      pass_on_token(ring, plan.next().process, m.number + 1);
  }
  return 1;
}

// Chatter until it is killed: ring of records, then x, then y.
int write_chatter(int tree, unsigned me) {
  std::string home = oracle_home(me) + "/chat/";
  std::array<Fd, 3> files;
  const char* names[] = {"ring", "x", "y"};
  for (int i = 0; i < 3; ++i)
    files[static_cast<std::size_t>(i)].reset(openat(tree, (home + names[i]).c_str(), O_WRONLY | O_CLOEXEC));
  for (std::uint64_t i = 1;; ++i) {
    std::string record = oracle_record(i, i - 1);
    if (pwrite_all(files[0].get(), record, i % kOracleSlots * kOracleRecord) != 0 || pwrite_all(files[1].get(), record, 0) != 0 ||
        pwrite_all(files[2].get(), record, 0) != 0)
      return 1;
    usleep(50);
  }
}

Status prepare(const OracleRun& run, int tree) {
  OraclePlan plan(run.seed, run.processes);
  for (unsigned p = 0; p < run.processes; ++p) {
    for (const char* sub : {"", "/a", "/b", "/chat"})
      if (mkdirat(tree, (oracle_home(p) + sub).c_str(), 0755) != 0) return fail_errno("cannot make", oracle_home(p) + sub);
    for (const char* name : {"/chat/ring", "/chat/x", "/chat/y"}) SOMFS_TRY(replace_file(tree, oracle_home(p) + name, {}));
  }
  for (const auto& [path, bytes] : plan.files()) SOMFS_TRY(replace_file(tree, path, bytes));
  return replace_file(tree, "oracle", std::to_string(run.seed) + " " + std::to_string(run.processes) + "\n");
}

// SIGTERM ends the writers, and this process once they have ended: a call that one of them is in goes on for a while after it was killed, and
// whoever removes the tree then would meet it.
std::array<pid_t, 128> all_of_them;
volatile sig_atomic_t so_many = 0;
void end_them(int) {
  for (sig_atomic_t i = 0; i < so_many; ++i) kill(all_of_them[static_cast<std::size_t>(i)], SIGKILL);
}

}  // namespace

Result<std::uint64_t> oracle_write(const OracleRun& run) {
  if (run.processes == 0 || run.processes > 64) return fail(Exit::usage, "1 to 64 processes");
  Fd tree(open(run.dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!tree) return fail_errno("cannot open", printable(run.dir));
  SOMFS_TRY(prepare(run, tree.get()));
  Fd progress(run.progress.empty() ? memfd_create("progress", MFD_CLOEXEC)
                                   : open(run.progress.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!progress) return fail_errno("cannot make", printable(run.progress));
  Ring ring;
  for (unsigned p = 0; p < run.processes; ++p) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return fail_errno("cannot make a pipe");
    ring.in.emplace_back(ends[0]);
    ring.out.emplace_back(ends[1]);
  }
  auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(run.seconds));
  std::fflush(nullptr);
  std::vector<pid_t> writers, chatters;
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, &before);  // until all are known
  const pid_t root = getpid();
  auto start = [&](std::vector<pid_t>& into, auto work) {
    pid_t pid = fork();
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != root) _exit(1);
      sigprocmask(SIG_SETMASK, &before, nullptr);
      _exit(work());
    }
    into.push_back(pid);
    all_of_them.at(writers.size() + chatters.size() - 1) = pid;
  };
  for (unsigned p = 0; p < run.processes; ++p) {
    start(writers, [&] { return write_numbered(run, tree.get(), p, ring, progress.get(), end); });
    start(chatters, [&] { return write_chatter(tree.get(), p); });
  }
  so_many = static_cast<sig_atomic_t>(writers.size() + chatters.size());
  struct sigaction end_all = {}, old = {};
  end_all.sa_handler = end_them;
  end_all.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &end_all, &old);
  sigprocmask(SIG_SETMASK, &before, nullptr);
  pass_on_token(ring, OraclePlan(run.seed, run.processes).next().process, 1);
  bool whole = true;
  for (pid_t pid : writers) {
    int status = 0;
    whole &= waitpid(pid, &status, 0) == pid && status == 0;
  }
  for (pid_t pid : chatters) {
    int status = 0;
    kill(pid, SIGKILL);
    whole &= waitpid(pid, &status, 0) == pid && WIFSIGNALED(status);
  }
  sigaction(SIGTERM, &old, nullptr);
  if (!whole) return fail(Exit::temporary, "a writer failed", printable(run.dir));
  char record[kOracleRecord] = {};
  std::size_t got = 0;
  pread_all(progress.get(), record, sizeof record, 0, &got);
  return oracle_number({record, got});
}

}  // namespace somfs::tools
