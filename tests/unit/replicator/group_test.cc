// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "replicator/group.h"
#include "replicator/wire.h"

namespace somfs::replicator {
namespace {

ObjectRecord sample() {
  ObjectRecord o;
  o.id = {12, 34};
  o.flags = kNew | kAttr | kXattr;
  o.attr.kind = Kind::file;
  o.attr.mode = 0644;
  o.attr.uid = 1000;
  o.attr.size = 5;
  o.attr.mtime = {-7, 999999999};
  o.parent = {2, 3};
  o.name = "a\nb";
  o.xattrs = {{"user.a", "1"}, {"user.b", ""}};
  return o;
}

std::string every_record() {
  std::string s;
  RecordWriter w(s);
  w.object(sample());
  w.data(4096, "hello");
  w.hole(1u << 20, 1u << 30);
  w.delta("piece");
  w.reuse(std::string(32, 'h'));
  w.name({{2, 3}, "gone", {}});
  return s;
}

TEST(Group, RoundTrip) {
  std::string s = every_record();
  RecordReader r(s);
  Record got;
  ASSERT_TRUE(r.next(&got));
  EXPECT_EQ(got.object.id, (ObjectId{12, 34}));
  EXPECT_EQ(got.object.flags, kNew | kAttr | kXattr);
  EXPECT_EQ(got.object.attr, sample().attr);
  EXPECT_EQ(got.object.name, "a\nb");
  EXPECT_EQ(got.object.xattrs, sample().xattrs);
  ASSERT_TRUE(r.next(&got));
  EXPECT_EQ(got.off, 4096u);
  EXPECT_EQ(got.bytes, "hello");
  ASSERT_TRUE(r.next(&got));
  EXPECT_EQ(got.len, 1u << 30);
  ASSERT_TRUE(r.next(&got));
  EXPECT_EQ(got.bytes, "piece");
  ASSERT_TRUE(r.next(&got));
  EXPECT_EQ(got.bytes, std::string(32, 'h'));
  ASSERT_TRUE(r.next(&got));
  EXPECT_EQ(got.name.name, "gone");
  EXPECT_FALSE(got.name.object);
  EXPECT_FALSE(r.next(&got));
  EXPECT_TRUE(r.ok());
}

TEST(Group, EveryTruncationIsEitherAtARecordOrRefused) {
  std::string s = every_record();
  int whole = 0;
  for (std::size_t n = 0; n < s.size(); ++n) {
    RecordReader r(std::string_view(s).substr(0, n));
    Record got;
    while (r.next(&got)) {
    }
    if (r.ok()) ++whole;
  }
  EXPECT_EQ(whole, 6);
}

bool accepts(const ObjectRecord& o) {
  std::string s;
  RecordWriter(s).object(o);
  RecordReader r(s);
  Record got;
  return r.next(&got);
}

TEST(Group, HostileObjectsAreRefused) {
  EXPECT_TRUE(accepts(sample()));
  for (const char* name : {"", ".", "..", "a/b", "/etc"}) {
    ObjectRecord o = sample();
    o.name = name;
    EXPECT_FALSE(accepts(o)) << name;
  }
  ObjectRecord o = sample();
  o.name = std::string(256, 'x');
  EXPECT_FALSE(accepts(o));
  o = sample();
  o.parent = {};
  EXPECT_FALSE(accepts(o));
  o = sample();
  o.attr.kind = Kind::symlink;
  EXPECT_FALSE(accepts(o));
  o.target = std::string("a\0b", 3);
  EXPECT_FALSE(accepts(o));
  o.target = "fine";
  EXPECT_TRUE(accepts(o));
  o.attr.mode = 0100644;
  EXPECT_FALSE(accepts(o));
  std::string s;
  RecordWriter(s).data(0x7fffffffffffffffull, "xx");
  RecordReader r(s);
  Record got;
  EXPECT_FALSE(r.next(&got));
  EXPECT_FALSE(r.ok());
}

TEST(Group, ArbitraryBytesNeverCrashTheReader) {
  rc::check([](const std::string& bytes) {
    RecordReader r(bytes);
    Record got;
    while (r.next(&got)) {
    }
  });
}

TEST(Bodies, RoundTrip) {
  Hello h;
  h.volume = Uuid::random();
  h.ancestors = {Uuid::random(), Uuid::random()};
  h.wants = "migrate";
  h.host = "here";
  Hello h2;
  ASSERT_TRUE(decode(encode(h), &h2));
  EXPECT_EQ(h2.ancestors, h.ancestors);
  EXPECT_EQ(h2.host, "here");
  h.protocol = 99;
  ASSERT_TRUE(decode(encode(h), &h2));
  EXPECT_EQ(h2.protocol, 99u);
  EXPECT_FALSE(decode(encode(Hello{}) + "x", &h2));

  Begin b;
  b.epoch = 9;
  b.brake_share = 0.25;
  b.replace_all = true;
  b.excludes = "a\nb";
  Begin b2;
  ASSERT_TRUE(decode(encode(b), &b2));
  EXPECT_DOUBLE_EQ(b2.brake_share, 0.25);
  EXPECT_TRUE(b2.replace_all);
  EXPECT_EQ(b2.excludes, "a\nb");

  InspectRow row;
  row.path = {"a", "b"};
  row.attr.kind = Kind::file;
  row.content = sha256("x");
  std::vector<InspectRow> rows;
  ASSERT_TRUE(decode(encode(std::vector<InspectRow>{row, row}), &rows));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].path, row.path);

  ListRow l;
  l.name = "n";
  l.kind = Kind::dir;
  std::vector<ListRow> list;
  ObjectId dir;
  ASSERT_TRUE(decode(encode(std::vector<ListRow>{l}, ObjectId{5, 6}), &list, &dir));
  EXPECT_EQ(dir, (ObjectId{5, 6}));
  EXPECT_EQ(list.at(0).name, "n");
}

TEST(Bodies, Hashes) {
  // FIPS 180-2, appendix B.1: SHA-256 of "abc" begins ba7816bf 8f01cfea.
  EXPECT_EQ(hash64("abc"), 0xeacf018fbf1678baull);
  Attr a;
  a.mode = 0644;
  Attr b = a;
  b.mtime = {1, 2};
  EXPECT_EQ(attr_hash(a, {}, ""), attr_hash(b, {}, ""));
  b.uid = 1;
  EXPECT_NE(attr_hash(a, {}, ""), attr_hash(b, {}, ""));
  EXPECT_NE(attr_hash(a, {}, ""), attr_hash(a, {{"user.x", ""}}, ""));
}

}  // namespace
}  // namespace somfs::replicator
