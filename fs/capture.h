// SPDX-License-Identifier: Apache-2.0
// The layer that tells a ChangeSink what is about to change and what did.
#pragma once

#include "fs/filter.h"

namespace somfs::fs {

class Capture : public Layer {
 public:
  explicit Capture(ChangeSink& sink) : sink_(sink) {}
  const char* name() const noexcept override { return "capture"; }
  void before(const Operation& op) noexcept override;
  void after(const Operation& op) noexcept override;

 private:
  void object_change(ChangeKind what, const Operation& op) noexcept;
  void name_change(const NameChange& n) noexcept;

  ChangeSink& sink_;
};

}  // namespace somfs::fs
