// SPDX-License-Identifier: Apache-2.0
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/verb.h"
#include "common/printable.h"

namespace somfs::cli {

void add_umount(Command& app, Run& run) {
  struct Options {
    std::string dir;
  };
  auto o = std::make_shared<Options>();
  Command sub = app.add_subcommand("umount", "Stop cleanly: flush, mark clean, unmount, leave nothing behind");
  sub.add_option("DIR", o->dir, "The protected directory or its mount point").required();
  sub.callback([o, &run] {
    run = [o](Terminal& t) -> Result<Exit> {
      SOMFS_TRY_ASSIGN(Mounted m, find_mounted(o->dir));
      SOMFS_TRY_ASSIGN(Connection c, connect_to(m));
      Fd process(static_cast<int>(::syscall(SYS_pidfd_open, m.pid, 0)));
      SOMFS_TRY(c.send({{"verb", "umount"}}));
      SOMFS_TRY_ASSIGN(Json answer, answer_of(c.receive()));
      // Done when the process is gone: the journal is marked clean then, and nothing of it is open any more.
      pollfd gone{process.get(), POLLIN, 0};
      if (process && ::poll(&gone, 1, 60'000) == 0)
        return fail(Exit::temporary, "still stopping:", printable(m.dir), "files in it are in use", "wait until they are closed");
      t.result({{"schema", 1}, {"dir", m.dir}, {"unmounted", true}}, "");
      return Exit::done;
    };
  });
}

}  // namespace somfs::cli
