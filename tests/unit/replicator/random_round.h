// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <random>
#include <string>
#include <vector>

#include "tests/unit/replicator/migrate_world.h"

namespace somfs::replicator::test {

// Random operations, recorded as the capture would.
inline void random_round(World& w, std::mt19937& r) {
  auto any = [&](unsigned n) { return r() % n; };
  auto dir = [&] { return std::vector<std::string>{"", "p/", "q/", "p/s/"}[any(4)]; };
  auto name = [&] { return dir() + "f" + std::to_string(any(8)); };
  for (int i = 0; i < 30; ++i) {
    std::string a = name(), b = name();
    struct stat s;
    const bool there = ::lstat(w.path(a).c_str(), &s) == 0;
    const bool parent = ::access(w.path(a.substr(0, a.rfind('/') + 1)).c_str(), F_OK) == 0;
    switch (any(9)) {
      case 0:
      case 1:
        if (parent && (!there || S_ISREG(s.st_mode))) w.write(a, noise(any(2) != 0 ? 100 : 150000, r()), any(3) * 50000);
        break;
      case 2: if (there && S_ISREG(s.st_mode)) w.truncate(a, any(100000)); break;
      case 3:
      case 4: if (there) w.rename(a, b); break;
      case 5: if (there && S_ISREG(s.st_mode)) w.link(a, b); break;
      case 6: if (there) w.remove(a); break;
      case 7: if (parent && !there) w.mkdir(a); break;
      case 8: {
        std::string d = std::vector<std::string>{"p", "q", "p/s"}[any(3)];
        std::string to = std::vector<std::string>{"p", "q", "p/s", "q/t"}[any(4)];
        if (!w.id(d) && w.id(d.substr(0, 1))) w.mkdir(d);
        else if (!w.id("p")) w.mkdir("p");
        else if (!w.id("q")) w.mkdir("q");
        else w.rename(d, to);
        break;
      }
    }
  }
}

}  // namespace somfs::replicator::test
