// SPDX-License-Identifier: Apache-2.0
// The backup site. With --stdio it serves one peer on standard input and output: what ssh:// spawns.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <iostream>

#include <CLI/CLI.hpp>

#include "cli/version.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/printable.h"
#include "replicator/mirror.h"
#include "replicator/wire.h"

int main(int argc, char** argv) {
  using namespace somfs;
  std::signal(SIGPIPE, SIG_IGN);
  CLI::App app("The mirror's side of somfs.", "somfs-mirrord");
  bool stdio = false, create = false;
  std::string store;
  app.add_flag("--stdio", stdio, "Serve one peer on standard input and output");
  app.add_option("--store", store, "The mirror directory");
  app.add_flag("--create", create, "Make the mirror when there is none");
  app.set_version_flag("--version", std::string("somfs-mirrord ") + cli::kVersion);
  auto complain = [](const Error& e) {
    std::cerr << "somfs-mirrord: " << e.line() << std::endl;
    return static_cast<int>(e.exit);
  };
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    return complain({Exit::usage, 0, e.what(), {}, {}, "see somfs-mirrord --help"});
  }
  if (!stdio || store.empty())
    return complain({Exit::usage, 0, "--stdio and --store DIR are needed", {}, "this version serves one peer on standard input and output", "see somfs-mirrord(8)"});
  // Nothing else may write into the conversation: standard output becomes standard error for everybody but the transport.
  int out = ::fcntl(1, F_DUPFD_CLOEXEC, 3), in = ::fcntl(0, F_DUPFD_CLOEXEC, 3);
  int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (out < 0 || in < 0 || null < 0 || ::dup2(2, 1) < 0 || ::dup2(null, 0) < 0)
    return complain({Exit::temporary, errno, "cannot set up standard input and output", {}, {}, {}});
  auto transport = replicator::make_stream(in, out);
  auto mode = create ? replicator::Mirror::Mode::create : replicator::Mirror::Mode::existing;
  Status served = replicator::serve(*transport, [&] { return replicator::Mirror::open(store, mode); });
  transport->close();
  if (!served) return complain(served.error());
  return 0;
}
