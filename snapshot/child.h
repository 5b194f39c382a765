// SPDX-License-Identifier: Apache-2.0
// A child process that is killed rather than waited for: how writers talk to applications. It has a process group of its own,
// "/" as its working directory, no descriptor of ours but its standard ones, and the given environment only.
//
// Standard input is a socket, so that writing to a dead child is an error and not a signal; at its end (also when this process
// dies) a well-behaved child ends. One thread at a time. Deadlines are in nanoseconds of `clock`, which runs as real clocks do.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"
#include "common/result.h"

namespace somfs::snapshot {

class Child {
 public:
  struct Options {
    std::vector<std::string> argv;  // argv[0] is an absolute path
    std::vector<std::string> env;   // PATH is added
    std::string user;               // run as this user (by setpriv); empty: as ours
    bool output = true;             // false: standard output is thrown away
    bool own_session = false;       // out of reach of signals to our terminal
  };
  static Result<Child> start(const Options& options, const Clock& clock);
  Child(Child&&) noexcept = default;
  Child& operator=(Child&&) = delete;
  ~Child() { kill(); }

  // False: it ended, or does not read.
  bool send(std::string_view bytes, std::int64_t deadline);
  void close_input() { input_.reset(); }

  enum class Got { line, end, late };
  // The next line of its output, without the newline; what it wrote to standard error before is there then. A line longer than
  // 1 MiB counts as the end.
  Got line(std::string* out, std::int64_t deadline);

  // The wait status of waitpid(2) once it has ended; nullopt at the deadline.
  std::optional<int> wait(std::int64_t deadline);

  // Ends the whole process group. What even SIGKILL does not end at once (it waits for a disk) is left to a thread of its own.
  void kill();

  // The first and the last line of what it wrote to standard error (the last 16 KiB of it), printable.
  std::string first_error() const;
  std::string last_error() const;
  void forget_errors() { err_.clear(); }

 private:
  Child(pid_t pid, Fd pidfd, Fd input, Fd output, Fd errors, const Clock& clock);
  bool pump(std::int64_t deadline);
  void read_errors();
  bool reap(int* status);

  struct Pid {  // empties itself when moved from
    pid_t value = -1;
    explicit Pid(pid_t p) : value(p) {}
    Pid(Pid&& o) noexcept : value(std::exchange(o.value, -1)) {}
  };
  Pid pid_;
  std::optional<int> status_;
  Fd pidfd_, input_, output_, errors_;
  const Clock* clock_;
  std::string out_, err_;
};

// "/path" lies in the tree whose root is `volume`, on the same file system, symbolic links followed. An Error tells why not.
Status lies_within(const std::string& volume, const std::string& path);

}  // namespace somfs::snapshot
