// SPDX-License-Identifier: Apache-2.0
// Records into a scratch mirror, through staging, commit and apply. Whatever came, the mirror can be opened again, what it committed
// is applied, and nothing appears beside tree/.
#include <unistd.h>

#include <filesystem>

#include "common/log.h"
#include "replicator/mirror.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/replicator/mirror_model.h"

using namespace somfs;
using namespace somfs::replicator;

namespace {

constexpr unsigned kRunsPerMirror = 200;

class Target {
 public:
  Target() : dir_("/dev/shm/somfs-fuzz-" + std::to_string(::getpid())) { renew(); }
  ~Target() { clear(); }

  void run(std::string_view records, bool commit) {
    if (++runs_ % kRunsPerMirror == 0) renew();
    fuzz::demand(mirror_->greet(model::hello()).has_value(), "it does not greet");
    const std::uint64_t at = mirror_->committed_epoch();
    Begin b = model::begin(at, at + 1);
    b.brake_share = 1;
    fuzz::demand(mirror_->begin(b).has_value(), "it does not begin");
    Status took = mirror_->receive(records);
    if (took && commit) {
      auto committed = mirror_->commit();
      if (!committed) reopen();
    } else {
      mirror_->abort();
    }
    if (runs_ % 16 == 0) reopen();
    fuzz::demand(mirror_->committed_epoch() == mirror_->applied_epoch(), "committed, and not applied");
  }

 private:
  void reopen() {
    mirror_.reset();
    auto m = Mirror::open(dir_ + "/m", Mirror::Mode::create);
    if (!m) std::fprintf(stderr, "%s\n", m.error().line().c_str());
    fuzz::demand(m.has_value(), "it cannot be opened again");
    mirror_ = std::move(*m);
    std::size_t beside = 0;
    for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator(dir_ + "/m")) ++beside;
    fuzz::demand(beside == 2, "something lies beside tree/");
  }
  void clear() {
    mirror_.reset();
    std::error_code ec;
    std::filesystem::remove_all(dir_, ec);
  }
  void renew() {
    clear();
    std::filesystem::create_directory(dir_);
    reopen();
    model::State none, state;
    none.nodes.clear();
    ObjectId d = state.add(state.root, "d", Kind::dir);
    state.add(state.root, "a", Kind::file, "alpha");
    state.add(d, "inner", Kind::file, std::string(5000, 'i'));
    state.add(d, "link", Kind::symlink, "../a");
    state.sweep();
    fuzz::demand(model::run(*mirror_, model::begin(0, 1), model::plan(none, state)).has_value(), "the first epoch does not land");
  }

  const std::string dir_;
  unsigned runs_ = 0;
  std::unique_ptr<Mirror> mirror_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Target target;
  if (size == 0) return 0;
  target.run(fuzz::view(data, size).substr(1), data[0] % 4 != 0);
  return 0;
}
