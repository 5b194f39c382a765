// SPDX-License-Identifier: Apache-2.0
// treegen: reproducible trees.
#include <cstdio>
#include <map>

#include <CLI/CLI.hpp>

#include "tests/tools/tree_make.h"

int main(int argc, char** argv) {
  using namespace somfs::tools;
  CLI::App app{"Fills a directory with a tree that depends on nothing but the options."};
  std::string dir;
  std::uint64_t seed = 1, files = 100;
  Profile profile = Profile::mixed;
  const std::map<std::string, Profile> profiles{{"mixed", Profile::mixed}, {"small", Profile::small}, {"big", Profile::big},
                                                {"odd", Profile::odd}, {"sparse", Profile::sparse}};
  app.add_option("DIR", dir)->required();
  app.add_option("--seed", seed);
  app.add_option("--files", files);
  app.add_option("--profile", profile)->transform(CLI::CheckedTransformer(profiles));
  CLI11_PARSE(app, argc, argv);
  somfs::Status made = make_tree(dir, seed, files, profile);
  if (made) return 0;
  std::fprintf(stderr, "treegen: %s\n", made.error().line().c_str());
  return static_cast<int>(made.error().exit);
}
