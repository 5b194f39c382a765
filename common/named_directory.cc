// SPDX-License-Identifier: Apache-2.0
#include "common/named_directory.h"

namespace somfs {

tl::unexpected<Error> fail_named_directory(std::string what, std::string on, int sys) {
  const bool mistaken = sys == ENOENT || sys == ENOTDIR || sys == ELOOP || sys == ENAMETOOLONG;
  if (!mistaken) return fail_errno(std::move(what), std::move(on), sys);
  return tl::unexpected<Error>(Error{Exit::usage, sys, std::move(what), std::move(on), {}, "name a directory that exists"});
}

}  // namespace somfs
