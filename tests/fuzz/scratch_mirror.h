// SPDX-License-Identifier: Apache-2.0
// A mirror that holds one epoch, made anew where a run may have changed it, so that every input meets the same one.
#pragma once

#include <filesystem>
#include <memory>

#include "replicator/mirror.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/replicator/mirror_model.h"

namespace somfs::fuzz {

inline replicator::model::State first_state() {
  replicator::model::State s;
  const ObjectId d = s.add(s.root, "d", Kind::dir);
  s.add(s.root, "a", Kind::file, "alpha");
  s.add(d, "inner", Kind::file, std::string(5000, 'i'));
  s.add(d, "link", Kind::symlink, "../a");
  s.add(s.root, "big", Kind::file, std::string(70000, 'b'));
  s.sweep();
  return s;
}

class ScratchMirror {
 public:
  ScratchMirror() { be_quiet(); }

  std::string path() const { return scratch_.path + "/m"; }
  Result<std::unique_ptr<replicator::Mirror>> open() const { return replicator::Mirror::open(path(), replicator::Mirror::Mode::create); }
  // Whatever happened to it: it opens, what it committed is applied, and nothing lies beside tree/.
  std::unique_ptr<replicator::Mirror> sound() const {
    auto m = open();
    if (!m) std::fprintf(stderr, "%s\n", m.error().line().c_str());
    demand(m.has_value(), "it cannot be opened again");
    demand((*m)->committed_epoch() == (*m)->applied_epoch(), "committed, and not applied");
    std::size_t beside = 0;
    for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator(path())) ++beside;
    demand(beside == 2, "something lies beside tree/");
    beside = 0;
    for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator(scratch_.path)) ++beside;
    demand(beside == 1, "something lies beside the mirror");
    return std::move(*m);
  }
  // With its first epoch and nothing else.
  std::unique_ptr<replicator::Mirror> anew() const {
    using namespace replicator;
    std::filesystem::remove_all(path());
    auto m = sound();
    model::State none;
    none.nodes.clear();
    demand(model::run(*m, model::begin(0, 1), model::plan(none, first_state())).has_value(), "the first epoch does not land");
    return m;
  }

 private:
  replicator::model::Scratch scratch_;
};

}  // namespace somfs::fuzz
