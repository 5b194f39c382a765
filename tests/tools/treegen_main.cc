// SPDX-License-Identifier: Apache-2.0
// treegen: reproducible trees.
#include <cstdio>
#include <map>
#include <string>

#include "cli/arguments.h"
#include "tests/tools/tree_make.h"

int main(int argc, char** argv) {
  using namespace somfs::tools;
  somfs::cli::CommandLine app{"Fills a directory with a tree that depends on nothing but the options."};
  std::string dir;
  std::uint64_t seed = 1, files = 100;
  const auto number = [](Profile p) { return static_cast<int>(p); };
  int profile = number(Profile::mixed);
  const std::map<std::string, int> profiles{{"mixed", number(Profile::mixed)}, {"small", number(Profile::small)}, {"big", number(Profile::big)},
                                            {"odd", number(Profile::odd)}, {"sparse", number(Profile::sparse)}};
  app.add_option("DIR", dir).required();
  app.add_option("--seed", seed);
  app.add_option("--files", files);
  app.add_choice("--profile", profile, profiles);
  if (const auto code = app.parse_and_tell(argc, argv)) return *code;
  somfs::Status made = make_tree(dir, seed, files, static_cast<Profile>(profile));
  if (made) return 0;
  std::fprintf(stderr, "treegen: %s\n", made.error().line().c_str());
  return static_cast<int>(made.error().exit);
}
