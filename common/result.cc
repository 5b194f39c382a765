// SPDX-License-Identifier: Apache-2.0
#include "common/result.h"

#include <cstring>

namespace somfs {

std::string Error::line() const {
  std::string text = what.empty() ? std::string("failed") : what;
  if (!on.empty()) text += " " + on;
  std::string reason = why.empty() && sys != 0 ? std::string(std::strerror(sys)) : why;
  if (!reason.empty()) text += ": " + reason;
  if (!to_do.empty()) text += "; " + to_do;
  return text;
}

tl::unexpected<Error> fail_errno(std::string what, std::string on, int sys, std::string to_do) {
  Exit exit = Exit::temporary;
  if (sys == ENOSPC || sys == EDQUOT) exit = Exit::no_space;
  if (sys == EACCES || sys == EPERM) exit = Exit::not_allowed;
  return tl::unexpected<Error>(Error{exit, sys, std::move(what), std::move(on), {}, std::move(to_do)});
}

}  // namespace somfs
