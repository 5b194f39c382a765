// SPDX-License-Identifier: Apache-2.0
// What each stage of this process takes: on the wall and of the processor, and the bytes that go in and come out.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "replicator/pipeline.h"

namespace somfs::replicator {

// Thread-safe.
class StageMeter {
 public:
  class Run {                                                            // from here to the end of its life, on this thread
   public:
    Run(StageMeter& meter, Stage stage, std::uint64_t bytes_in);
    ~Run();
    Run(const Run&) = delete;
    Run& operator=(const Run&) = delete;
    void produced(std::uint64_t bytes) { bytes_out_ = bytes; }           // else as many as came in

   private:
    StageMeter& meter_;
    const Stage stage_;
    const std::uint64_t bytes_in_;
    std::uint64_t bytes_out_;
    const std::int64_t wall_, cpu_;
  };
  void add(Stage stage, std::int64_t wall_ns, std::int64_t cpu_ns, std::uint64_t bytes_in, std::uint64_t bytes_out);
  StageSums sums() const;

 private:
  struct Cell {
    std::atomic<std::int64_t> wall{0}, cpu{0};
    std::atomic<std::uint64_t> in{0}, out{0};
  };
  std::array<Cell, kStages> cells_;
};

}  // namespace somfs::replicator
