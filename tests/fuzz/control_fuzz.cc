// SPDX-License-Identifier: Apache-2.0
// What comes over a control socket: lines of JSON in any pieces, as requests and as answers; and what a mirror daemon kept of its sources.
// The first byte chooses.
#include <sys/socket.h>

#include "cli/control.h"
#include "cli/source_watch.h"
#include "tests/fuzz/fuzz.h"

using namespace somfs;
using namespace somfs::cli;
using fuzz::demand;

namespace {

void lines(std::string_view bytes) {
  int pair[2];
  demand(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "no sockets");
  Connection here{Fd(pair[0])};
  {
    const Fd there(pair[1]);
    demand(write_all(there.get(), bytes) == 0, "a small line does not fit");
  }
  for (;;) {
    std::vector<Fd> fds;
    auto line = here.receive(&fds);
    demand(fds.empty(), "descriptors out of nowhere");
    if (!line && line.error().exit == Exit::link_down) return;
    if (!line) continue;
    demand(line->is_object(), "something that is no object is taken for a request");
    try {
      auto answer = answer_of(*line);
      demand(answer || !answer.error().line().empty(), "an error without a line");
    } catch (const Json::exception&) {   // of another shape: whoever asked says so
    }
  }
}

void sources(std::string_view bytes) {
  const auto kept = nlohmann::json::parse(bytes, nullptr, false);
  FakeClock clock;
  SourceWatch watch(Silence(), clock), again(Silence(), clock);
  const auto all = [](const std::string&) { return true; };
  if (!watch.restore(kept, all)) {
    demand(watch.all().empty(), "something was taken of a list that is not sound");
    return;
  }
  demand(watch.look().empty(), "news out of a file");
  demand(again.restore(watch.encode(), all) && again.encode() == watch.encode(), "a list of sources does not read what it wrote");
  clock.advance_ms(3'600'000);
  for (const auto& change : watch.look()) demand(change.after == SourceState::lost, "an hour of silence is a loss, or nothing");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::view(data + 1, size - 1);
  if (data[0] % 2 == 0) lines(bytes);
  else sources(bytes);
  return 0;
}
