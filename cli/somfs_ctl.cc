// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <iostream>

#include "cli/verb.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  return somfs::cli::control_main(argc, argv, std::cout, std::cerr);
}
