// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fs/cow.h"

namespace somfs::fs {
namespace {

class Recorder : public PreImages {
 public:
  bool on = true;
  std::vector<std::string> calls;
  bool wanted() const noexcept override { return on; }
  void before_data(const ObjectId& o, int, Extent e) noexcept override {
    calls.push_back("data " + std::to_string(o.ino) + " " + std::to_string(e.off) + "+" + std::to_string(e.len));
  }
  void before_attr(const ObjectId& o, int) noexcept override { calls.push_back("attr " + std::to_string(o.ino)); }
  void before_name(const ObjectId& parent, int, std::string_view name, const ObjectId& child, const Handle*, int,
                   bool last) noexcept override {
    calls.push_back("name " + std::to_string(parent.ino) + "/" + std::string(name) + " " + std::to_string(child.ino) +
                    (last ? " last" : ""));
  }
  std::uint32_t own_links(const ObjectId&) const noexcept override { return 0; }
};

using Calls = std::vector<std::string>;

TEST(Cow, AsksNothingWithoutASnapshot) {
  Recorder r;
  r.on = false;
  Operation op;
  op.object = {7, 1};
  op.extent = {0, 10};
  Cow(r).before(op);
  EXPECT_TRUE(r.calls.empty());
}

TEST(Cow, KeepsAttributesBeforeData) {
  Recorder r;
  Operation op;
  op.verb = Verb::write;
  op.object = {7, 1};
  op.extent = {100, 10};
  Cow(r).before(op);
  EXPECT_EQ(r.calls, (Calls{"attr 7", "data 7 100+10"}));
}

TEST(Cow, KeepsBothNamesOfARename) {
  Recorder r;
  Operation op;
  op.verb = Verb::rename;
  op.name_count = 2;
  op.names[0].parent = {1, 1};
  op.names[0].name = "a";
  op.names[0].before = {7, 1};
  op.names[1].parent = {2, 1};
  op.names[1].name = "b";
  op.names[1].before = {8, 1};
  op.names[1].before_fd = 0;
  op.names[1].last = true;
  Cow(r).before(op);
  EXPECT_EQ(r.calls, (Calls{"attr 1", "name 1/a 7", "attr 2", "attr 8", "name 2/b 8 last"}));
}

}  // namespace
}  // namespace somfs::fs
