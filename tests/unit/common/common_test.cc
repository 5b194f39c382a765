// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

#include "common/bytes.h"
#include "common/change.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/printable.h"
#include "common/result.h"
#include "common/sync.h"
#include "common/uuid.h"

namespace somfs {
namespace {

TEST(Bytes, RoundTrip) {
  std::string s;
  ByteWriter w(s);
  w.u8(7);
  w.u16(0xBEEF);
  w.u32(0xDEADBEEF);
  w.u64(~0ull);
  w.varint(0);
  w.varint(127);
  w.varint(128);
  w.varint(~0ull);
  w.text("a\0b");
  ByteReader r(s);
  EXPECT_EQ(r.u8(), 7);
  EXPECT_EQ(r.u16(), 0xBEEF);
  EXPECT_EQ(r.u32(), 0xDEADBEEF);
  EXPECT_EQ(r.u64(), ~0ull);
  EXPECT_EQ(r.varint(), 0u);
  EXPECT_EQ(r.varint(), 127u);
  EXPECT_EQ(r.varint(), 128u);
  EXPECT_EQ(r.varint(), ~0ull);
  EXPECT_EQ(r.text(10), "a");
  EXPECT_TRUE(r.at_end());
}

TEST(Bytes, NeverReadsPastTheEndOrBelievesALength) {
  std::string s;
  ByteWriter w(s);
  w.varint(1000);
  w.raw("short");
  ByteReader r(s);
  EXPECT_EQ(r.text(2000), "");
  EXPECT_FALSE(r.ok());
  EXPECT_EQ(r.u64(), 0u);
  ByteReader over(s);
  EXPECT_EQ(over.bounded(999), 0u);
  EXPECT_FALSE(over.ok());
  ByteReader endless(std::string_view("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11));
  endless.varint();
  EXPECT_FALSE(endless.ok());
}

TEST(Bytes, Crc32cVector) {  // RFC 3720 B.4
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
}

TEST(Bytes, AttrRoundTripAndBadNanoseconds) {
  Attr a{Kind::file, 06755, 1000, 0xfffffffe, 0, 1ull << 40, {-5, 999999999}, {1700000000, 1}, 3};
  std::string s;
  ByteWriter w(s);
  put_attr(w, a);
  ByteReader r(s);
  EXPECT_EQ(get_attr(r), a);
  EXPECT_TRUE(r.at_end());
  a.mtime.nsec = 1000000000;
  s.clear();
  put_attr(w, a);
  ByteReader bad(s);
  get_attr(bad);
  EXPECT_FALSE(bad.ok());
}

TEST(Printable, NothingControlsTheTerminal) {
  EXPECT_EQ(printable("plain"), "plain");
  EXPECT_EQ(printable("new\nline"), "new\\x0aline");
  EXPECT_EQ(printable("\x1b[31m"), "\\x1b[31m");
  EXPECT_EQ(printable("\xff\xc3\xa9"), "\\xff\xc3\xa9");
  EXPECT_EQ(printable("\xc2\x9b"), "\\xc2\\x9b");
  EXPECT_EQ(printable("a\\b"), "a\\x5cb");
}

TEST(Names, OnlySingleComponents) {
  EXPECT_TRUE(valid_name("a"));
  EXPECT_TRUE(valid_name(std::string(255, 'x')));
  EXPECT_TRUE(valid_name("..."));
  for (std::string bad : {std::string(), std::string("."), std::string(".."), std::string("a/b"), std::string(256, 'x'), std::string("a\0b", 3)})
    EXPECT_FALSE(valid_name(bad)) << printable(bad);
}

TEST(Uuid, TextAndBack) {
  Uuid u = Uuid::random();
  EXPECT_EQ(*Uuid::parse(u.text()), u);
  EXPECT_EQ(Uuid::from_raw(u.raw()), u);
  EXPECT_FALSE(Uuid::parse("not one"));
  EXPECT_FALSE(Uuid::parse(u.text() + "00"));
  EXPECT_TRUE(boot_id());
}

TEST(Error, OneLine) {
  Error e = fail_errno("cannot open the journal", "/x", ENOENT, "mount it first").value();
  EXPECT_EQ(e.line(), "cannot open the journal /x: No such file or directory; mount it first");
  EXPECT_EQ(fail_errno("w", "f", ENOSPC).value().exit, Exit::no_space);
}

TEST(Files, InodeHandleAndReplace) {
  char dir[] = "/tmp/somfs-common-XXXXXX";
  ASSERT_NE(::mkdtemp(dir), nullptr);
  Fd d(::open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_TRUE(replace_file(d.get(), "f", "one"));
  auto first = inode_at(d.get(), "f");
  ASSERT_TRUE(first);
  EXPECT_EQ(first->attr.kind, Kind::file);
  EXPECT_EQ(first->attr.size, 3u);
  ASSERT_TRUE(replace_file(d.get(), "f", "two!"));
  auto second = inode_at(d.get(), "f");
  EXPECT_NE(first->id, second->id);
  EXPECT_EQ(*read_file(d.get(), "f", 100), "two!");
  EXPECT_FALSE(read_file(d.get(), "f", 3));
  ASSERT_TRUE(replace_file(d.get(), "f", ""));
  EXPECT_EQ(*read_file(d.get(), "f", 100), "");
  ::unlinkat(d.get(), "f", 0);
  ::rmdir(dir);
}

TEST(Files, OfProcAreReadThoughTheyTellNoSize) {
  EXPECT_EQ(read_file(AT_FDCWD, "/proc/self/status", 16384).value_or("").substr(0, 5), "Name:");
  EXPECT_GT(std::atoll(read_file(AT_FDCWD, "/proc/sys/fs/nr_open", 64).value_or("").c_str()), 0);
}

}  // namespace
}  // namespace somfs
