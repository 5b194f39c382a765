// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <iostream>

#include "cli/verb_bench.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  return somfs::cli::bench_main(argc, argv, std::cout, std::cerr);
}
