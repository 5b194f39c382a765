// SPDX-License-Identifier: Apache-2.0
// Result<T>: what can fail in normal life returns one. Exceptions stay inside construction and third-party code.
#pragma once

#include <cerrno>
#include <string>
#include <utility>

#include <tl/expected.hpp>

namespace somfs {

// The documented exit codes of the commands (docs: somfs-exit-codes(7)). An Error carries the one it means to the person at the terminal.
enum class Exit : int {
  done = 0,
  usage = 1,
  configuration = 2,
  partial = 3,
  lag = 4,
  repaired = 5,
  differs = 6,
  veto = 7,
  person = 8,
  no_space = 9,
  not_allowed = 10,
  locked = 11,
  link_down = 12,
  peer_version = 13,
  temporary = 75,
  interrupted = 130,
};

// One line on standard error: what failed, on what, why, and what to do. Parts may be empty, the line never is.
struct Error {
  Exit exit = Exit::temporary;
  int sys = 0;          // errno where a system call failed, else 0
  std::string what;     // "cannot open the journal"
  std::string on;       // the object, printable (see printable.h)
  std::string why;      // filled from errno when empty
  std::string to_do;    // advice: "mount it first: somfs DIR"

  std::string line() const;
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

// make_error(Exit::usage, "unknown verb", "snapshto") and the like.
inline tl::unexpected<Error> fail(Exit exit, std::string what, std::string on = {}, std::string why = {},
                                  std::string to_do = {}) {
  return tl::unexpected<Error>(Error{exit, 0, std::move(what), std::move(on), std::move(why), std::move(to_do)});
}

// From errno (or `sys`). ENOSPC and EDQUOT become Exit::no_space, EACCES and EPERM not_allowed, the rest `temporary`.
tl::unexpected<Error> fail_errno(std::string what, std::string on = {}, int sys = errno, std::string to_do = {});

inline tl::unexpected<Error> pass_on(Error error) { return tl::unexpected<Error>(std::move(error)); }

}  // namespace somfs

// Early return: SOMFS_TRY(status-or-result expression); SOMFS_TRY_ASSIGN(auto x, expression).
#define SOMFS_TRY(expr)                                                       \
  do {                                                                        \
    if (auto somfs_try_ = (expr); !somfs_try_)                                \
      return ::somfs::pass_on(std::move(somfs_try_).error());                 \
  } while (false)
#define SOMFS_TRY_CAT2(a, b) a##b
#define SOMFS_TRY_CAT(a, b) SOMFS_TRY_CAT2(a, b)
#define SOMFS_TRY_ASSIGN(decl, expr) SOMFS_TRY_ASSIGN2(decl, expr, SOMFS_TRY_CAT(somfs_try_, __LINE__))
#define SOMFS_TRY_ASSIGN2(decl, expr, tmp)                                    \
  auto tmp = (expr);                                                          \
  if (!tmp) return ::somfs::pass_on(std::move(tmp).error());                  \
  decl = std::move(*tmp)
