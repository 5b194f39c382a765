// SPDX-License-Identifier: Apache-2.0
// treecmp: exact comparison of two trees. Exit 0: equal, 1: they differ, 75: cannot be read.
#include <cstdio>

#include "cli/arguments.h"
#include "tests/tools/tree_compare.h"

int main(int argc, char** argv) {
  using namespace somfs::tools;
  somfs::cli::CommandLine app{"Compares two trees in everything but ctime, atime, birth time and inode numbers."};
  std::string a, b;
  CompareOptions options;
  app.add_option("A", a).required();
  app.add_option("B", b).required();
  std::vector<std::string> skip, ignore;
  app.add_option("--skip", skip, "a name in the top directory that is left out").allow_extra_args(false);
  app.add_option("--ignore", ignore, "what is not compared")
      .allow_extra_args(false)
      .one_of({"mtime", "dir-mtime", "owner", "mode", "xattrs", "links", "content"});
  app.add_option("--most", options.most, "differences, then it ends");
  if (const auto code = app.parse_and_tell(argc, argv)) return *code;
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
