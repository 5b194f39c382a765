// SPDX-License-Identifier: Apache-2.0
// treecmp: exact comparison of two trees. Exit 0: equal, 1: they differ, 75: cannot be read.
#include <cstdio>

#include <CLI/CLI.hpp>

#include "tests/tools/tree_compare.h"

int main(int argc, char** argv) {
  using namespace somfs::tools;
  CLI::App app{"Compares two trees in everything but ctime, atime, birth time and inode numbers."};
  std::string a, b;
  CompareOptions options;
  app.add_option("A", a)->required();
  app.add_option("B", b)->required();
  std::vector<std::string> skip, ignore;
  app.add_option("--skip", skip, "a name in the top directory that is left out")->allow_extra_args(false);
  app.add_option("--ignore", ignore, "what is not compared")
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"mtime", "dir-mtime", "owner", "mode", "xattrs", "links", "content"}));
  app.add_option("--most", options.most, "differences, then it ends");
  CLI11_PARSE(app, argc, argv);
  options.skip = {skip.begin(), skip.end()};
  options.ignore = {ignore.begin(), ignore.end()};
  auto differences = compare_trees(a, b, options);
  if (!differences) {
    std::fprintf(stderr, "treecmp: %s\n", differences.error().line().c_str());
    return 75;
  }
  for (const Difference& d : *differences) std::printf("%s\n", line(d).c_str());
  return differences->empty() ? 0 : 1;
}
