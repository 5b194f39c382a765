// SPDX-License-Identifier: Apache-2.0
// Records into a scratch mirror, through staging, commit and apply.
#include "replicator/mirror.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/scratch_mirror.h"

using namespace somfs;
using namespace somfs::replicator;

namespace {

// Runs that were given up leave what an interrupted one leaves, and find what those before them left: so many meet one mirror.
constexpr unsigned kRunsPerMirror = 50;

class Target {
 public:
  void run(std::string_view records, bool whole, bool commit) {
    if (!mirror_ || ++runs_ % kRunsPerMirror == 0) renew();
    fuzz::demand(mirror_->greet(model::hello()).has_value(), "it does not greet");
    Begin b = model::begin(whole ? 0 : 1, 2);
    fuzz::demand(mirror_->begin(b).has_value(), "it does not begin");
    Status took = mirror_->receive(records);
    if (!took || !commit) {
      mirror_->abort();
      if (runs_ % 16 != 0) return;
    } else {
      (void)mirror_->commit();
      runs_ = kRunsPerMirror - 1;
    }
    mirror_.reset();
    mirror_ = scratch_.sound();
  }

 private:
  void renew() {
    mirror_.reset();
    mirror_ = scratch_.anew();
  }

  fuzz::ScratchMirror scratch_;
  unsigned runs_ = 0;
  std::unique_ptr<Mirror> mirror_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Target target;
  if (size == 0) return 0;
  target.run(fuzz::view(data, size).substr(1), (data[0] & 4) != 0, data[0] % 4 != 0);
  return 0;
}
