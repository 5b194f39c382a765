// SPDX-License-Identifier: Apache-2.0
// The layer that keeps what is about to change for the newest snapshot.
#pragma once

#include "fs/filter.h"

namespace somfs::fs {

class Cow : public Layer {
 public:
  explicit Cow(PreImages& pre_images) : pre_images_(pre_images) {}
  const char* name() const noexcept override { return "cow"; }
  void before(const Operation& op) noexcept override;
  void after(const Operation&) noexcept override {}

 private:
  PreImages& pre_images_;
};

}  // namespace somfs::fs
