// SPDX-License-Identifier: Apache-2.0
// Texts and files of keys, the list of peers, and pairing codes.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <set>
#include <vector>

#include "common/fd.h"
#include "replicator/key_file.h"
#include "replicator/keys.h"
#include "replicator/pairing.h"
#include "replicator/text_codes.h"
#include "replicator/wire.h"
#include "tests/unit/sync_calls.h"

namespace somfs::replicator {
namespace {

const Secret kPrivateKey(std::string(32, '\x07'));
const PublicKey kKey = public_key(kPrivateKey);

TEST(Keys, Texts) {
  // The worked example of docs/formats/channel.md.
  EXPECT_EQ(private_text(kPrivateKey), "somfs-private-1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwd/VInW");
  EXPECT_EQ(public_text(kKey), "somfs-public-1:E75P6uryBMf9M1j8nAByGIHRdCeBKCJ+xnTzf3/pe2290QlV");
  EXPECT_EQ(fingerprint(kKey), "HWTM-K2AF-WDKS-J7XT-AZRA");
  for (int i = 0; i < 100; ++i) {
    const KeyPair pair = KeyPair::generate();
    EXPECT_EQ(parse_private(private_text(pair.secret)).value(), pair.secret);
    EXPECT_EQ(parse_public(public_text(pair.shared)).value(), pair.shared);
    EXPECT_EQ(public_key(pair.secret), pair.shared);
    EXPECT_NE(fingerprint(pair.shared), fingerprint(kKey));
  }
}

TEST(Keys, OneKindIsNotTakenForAnother) {
  const std::string secret = private_text(kPrivateKey), shared = public_text(kKey);
  const std::string body = secret.substr(secret.find(':') + 1);
  for (const auto& r : {parse_public(secret), parse_public("somfs-public-1:" + body), parse_public(body)}) {
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().exit, Exit::configuration);
    EXPECT_EQ(r.error().line().find(body), std::string::npos) << "an error never repeats a key";
  }
  EXPECT_FALSE(parse_private(shared));
  EXPECT_FALSE(parse_private("somfs-private-1:" + shared.substr(shared.find(':') + 1)));
  EXPECT_FALSE(PairingCode::parse(shared));
  EXPECT_FALSE(PairingCode::parse("somfs-pair-1:" + body));
}

TEST(Keys, EveryMistypedCharacterIsNoticed) {
  const std::string text = public_text(kKey);
  for (std::size_t i = 0; i < text.size(); ++i)
    for (char c : std::string("Ab1+/=- \n\xff")) {
      std::string bad = text;
      if (bad[i] == c) continue;
      bad[i] = c;
      EXPECT_FALSE(parse_public(bad)) << bad;
    }
  for (std::size_t n = 0; n < text.size(); ++n) EXPECT_FALSE(parse_public(text.substr(0, n)));
  EXPECT_FALSE(parse_public(text + "="));
  EXPECT_FALSE(parse_public(text + "\n"));
}

class KeyFile : public ::testing::Test {
 protected:
  KeyFile() {
    char path[] = "/tmp/somfs-keys-XXXXXX";
    dir_ = ::mkdtemp(path);
    fd_ = Fd(::open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~KeyFile() override {
    test::on_sync({});
    for (const char* name : {"key", "link", "fifo", "sub/key"}) ::unlink((dir_ + "/" + name).c_str());
    ::rmdir((dir_ + "/sub").c_str());
    ::rmdir((dir_ + "/key").c_str());
    ::rmdir(dir_.c_str());
  }
  void refused(const char* name) {
    auto r = read_key_file(fd_.get(), name);
    ASSERT_FALSE(r) << name;
    EXPECT_EQ(r.error().exit, Exit::not_allowed) << r.error().line();
  }
  std::string dir_;
  Fd fd_;
};

TEST_F(KeyFile, IsPrivateAndMadeOnce) {
  for (mode_t mask : {0777, 0}) {
    ::unlinkat(fd_.get(), "key", 0);
    const mode_t old = ::umask(mask);
    const Status made = create_key_file(fd_.get(), "key", kPrivateKey);
    ::umask(old);
    ASSERT_TRUE(made);
    struct stat s;
    ASSERT_EQ(::fstatat(fd_.get(), "key", &s, 0), 0);
    EXPECT_EQ(s.st_mode & 07777, 0600u);
  }
  EXPECT_EQ(somfs::read_file(fd_.get(), "key", 1000).value(), private_text(kPrivateKey) + "\n");
  EXPECT_EQ(read_key_file(fd_.get(), "key").value(), kPrivateKey);
  auto again = create_key_file(fd_.get(), "key", Secret::random());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().exit, Exit::not_allowed);
  EXPECT_EQ(read_key_file(fd_.get(), "key").value(), kPrivateKey);
}

TEST_F(KeyFile, IsDurableAndSoIsItsName) {
  ASSERT_EQ(::mkdirat(fd_.get(), "sub", 0700), 0);
  std::vector<std::uint64_t> synced;
  test::on_sync([&](int fd, test::Sync) { synced.push_back(inode_of(fd).value().id.ino); });
  ASSERT_TRUE(create_key_file(fd_.get(), "sub/key", kPrivateKey));
  test::on_sync({});
  EXPECT_EQ(synced, (std::vector{inode_at(fd_.get(), "sub/key")->id.ino, inode_at(fd_.get(), "sub")->id.ino}));
}

TEST_F(KeyFile, IsRefusedWhenOthersMayTouchIt) {
  ASSERT_TRUE(create_key_file(fd_.get(), "key", kPrivateKey));
  for (mode_t mode : {0640, 0604, 0620, 0602, 0610, 0601, 0666}) {
    ASSERT_EQ(::fchmodat(fd_.get(), "key", mode, 0), 0);
    refused("key");
  }
  ASSERT_EQ(::fchmodat(fd_.get(), "key", 0400, 0), 0);
  EXPECT_TRUE(read_key_file(fd_.get(), "key"));
  if (::geteuid() == 0) {
    ASSERT_EQ(::fchownat(fd_.get(), "key", 12345, 0, 0), 0);
    refused("key");
  }
}

TEST_F(KeyFile, IsRefusedWhenItIsNotAFile) {
  ASSERT_TRUE(create_key_file(fd_.get(), "key", kPrivateKey));
  ASSERT_EQ(::symlinkat("key", fd_.get(), "link"), 0);
  refused("link");
  ASSERT_FALSE(create_key_file(fd_.get(), "link", kPrivateKey));
  ASSERT_EQ(::mkfifoat(fd_.get(), "fifo", 0600), 0);
  refused("fifo");
  ASSERT_EQ(::unlinkat(fd_.get(), "key", 0), 0);
  EXPECT_FALSE(read_key_file(fd_.get(), "key"));
  ASSERT_EQ(::mkdirat(fd_.get(), "key", 0700), 0);
  refused("key");
}

TEST_F(KeyFile, AListMayBeReadByOthersButNotWritten) {
  ASSERT_TRUE(replace_file(fd_.get(), "key", "text", 0644));
  EXPECT_EQ(read_own_file(fd_.get(), "key", 100, OthersMay::read).value(), "text");
  EXPECT_FALSE(read_own_file(fd_.get(), "key", 100, OthersMay::nothing));
  EXPECT_FALSE(read_own_file(fd_.get(), "key", 3, OthersMay::read));
  for (mode_t mode : {0664, 0646}) {
    ASSERT_EQ(::fchmodat(fd_.get(), "key", mode, 0), 0);
    EXPECT_FALSE(read_own_file(fd_.get(), "key", 100, OthersMay::read));
  }
}

TEST_F(KeyFile, IsRefusedWhenDamaged) {
  const std::string good = private_text(kPrivateKey) + "\n";
  for (std::string bad :
       {std::string(), good.substr(0, 30), good + good, "x" + good, public_text(kKey) + "\n", std::string(100000, 'x')}) {
    ASSERT_TRUE(replace_file(fd_.get(), "key", bad));
    auto r = read_key_file(fd_.get(), "key");
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().exit, Exit::configuration);
    EXPECT_EQ(r.error().on, "key");
  }
}

AllowList parsed(const std::string& text) {
  auto list = AllowList::parse(text, "peers");
  EXPECT_TRUE(list) << (list ? "" : list.error().line());
  return list ? *list : AllowList();
}

TEST(AllowList, SaysWhoMayDoWhat) {
  const PublicKey other = KeyPair::generate().shared, unknown = KeyPair::generate().shared;
  const AllowList list = parsed("# our sources\n\n" + public_text(kKey) + " data=push,migrate  mail=migrate # host a\n \t" +
                                public_text(other) + "\tdata=read-back,remove");
  EXPECT_TRUE(list.known(kKey) && list.known(other));
  EXPECT_TRUE(list.allow(kKey, "data", Right::push) && list.allow(kKey, "data", Right::migrate) &&
              list.allow(kKey, "mail", Right::migrate));
  EXPECT_TRUE(list.allow(other, "data", Right::read_back) && list.allow(other, "data", Right::remove));
  EXPECT_EQ(list.find(kKey)->comment, "host a");
  for (Status s :
       {list.known(unknown), list.allow(unknown, "data", Right::push), list.allow(kKey, "mail", Right::push),
        list.allow(kKey, "dat", Right::push), list.allow(kKey, "data", Right::read_back), list.allow(kKey, "data", Right::remove),
        list.allow(other, "data", Right::push), list.allow(kKey, "other", Right::push), list.allow(kKey, "", Right::push)}) {
    ASSERT_FALSE(s);
    EXPECT_EQ(s.error().exit, Exit::not_allowed);
  }
  EXPECT_FALSE(kSourceRights.has(Right::confirm) || kSourceRights.has(Right::read_back) || kSourceRights.has(Right::remove));
}

TEST(AllowList, SaysWhatAHelloMayWant) {
  const AllowList list = parsed(public_text(kKey) + " a=push b=migrate c=read-back d=remove,confirm e=push,migrate");
  const char* const wants[] = {kReplicate, kMigrate, kSync, kVerify};
  const std::map<std::string, std::string> may = {{"a", "yes no yes yes "}, {"b", "no yes yes yes "}, {"c", "no no no yes "},
                                                  {"d", "no no no no "},    {"e", "yes yes yes yes "}, {"f", "no no no no "}};
  for (const auto& [volume, expected] : may) {
    std::string got;
    for (const char* one : wants) {
      const Status s = list.admit(kKey, volume, one);
      got += s ? "yes " : "no ";
      if (!s) {
        EXPECT_EQ(s.error().exit, Exit::not_allowed);
      }
    }
    EXPECT_EQ(got, expected) << volume;
  }
  EXPECT_TRUE(list.admit(kKey, "a", "probe"));
  EXPECT_FALSE(list.admit(kKey, "b", "probe"));
  EXPECT_NE(list.admit(kKey, "b", kReplicate).error().line().find("may not replicate the volume b, that takes the right push"), std::string::npos);
  for (const char* unknown : {"", "Migrate", "everything", "sync\n"}) EXPECT_FALSE(list.admit(kKey, "e", unknown)) << unknown;
  EXPECT_FALSE(list.admit(KeyPair::generate().shared, "e", kVerify));
}

TEST(AllowList, IsWrittenAsItWasRead) {
  const std::string text = "# our sources\n\n" + public_text(kKey) + " data=push,migrate mail=migrate # host a\n# end\n";
  AllowList list = parsed(text);
  EXPECT_EQ(list.text(), text);
  const PublicKey other = KeyPair::generate().shared;
  ASSERT_TRUE(list.add({other, {{"data", kSourceRights}}, " new \x1b[31m\nhost\\ "}));
  EXPECT_EQ(list.text(), text + public_text(other) + " data=push,migrate # new ?[31m?host?\n");
  EXPECT_EQ(parsed(list.text()).text(), list.text());
  ASSERT_TRUE(list.add({kKey, {{"mail", {Right::push}}, {"web", {Right::remove}}}, ""}));
  EXPECT_TRUE(list.allow(kKey, "mail", Right::push) && list.allow(kKey, "mail", Right::migrate) &&
              list.allow(kKey, "web", Right::remove));
  EXPECT_TRUE(list.remove(other));
  EXPECT_FALSE(list.remove(other));
  EXPECT_FALSE(list.known(other));
  EXPECT_FALSE(list.add({other, {{"../data", kSourceRights}}, ""}));
  EXPECT_FALSE(list.add({other, {{"data", {}}}, ""}));
}

TEST(AllowList, MistakesAreNamedByTheirLine) {
  const std::string key = public_text(kKey);
  for (const std::string& line :
       {std::string("nonsense"), private_text(kPrivateKey) + " data=push", key + "x data=push", key + " data",
        key + " data=", key + " data=write", key + " data=push,push", key + " data=push data=migrate", key + " .data=push",
        key + " a/b=push", key + " =push", key + " data=push,,migrate", key + " " + std::string(65, 'v') + "=push",
        key + " data=PUSH", key + "data=push", key + " data=push\n" + key + " mail=push"}) {
    auto list = AllowList::parse("# first\n" + line + "\n", "peers");
    ASSERT_FALSE(list) << line;
    EXPECT_EQ(list.error().exit, Exit::configuration);
    EXPECT_TRUE(list.error().on == "peers:2" || list.error().on == "peers:3") << list.error().on;
    EXPECT_EQ(list.error().line().find(private_text(kPrivateKey)), std::string::npos);
  }
  EXPECT_FALSE(AllowList::parse(std::string(AllowList::kMaxBytes + 1, '\n'), "peers"));
}

const Grants kGrant{{"data", kSourceRights}};

TEST(Pairing, ACodeIsUsedOnce) {
  Invitations mirror;
  auto code = mirror.issue(kKey, kGrant, "host a", 1000, 2000);
  ASSERT_TRUE(code);
  auto other = mirror.issue(kKey, {{"mail", {Right::push}}}, "", 1000, 2000);
  EXPECT_EQ(mirror.text().find(code->text()), std::string::npos);
  EXPECT_EQ(mirror.text().find(hex(code->token())), std::string::npos) << "only a hash is kept";
  Invitations stored = Invitations::parse(mirror.text(), "codes").value();
  EXPECT_EQ(stored.text(), mirror.text());
  const PairingCode typed = PairingCode::parse(code->text()).value();
  auto granted = stored.redeem(typed.token(), 1999);
  ASSERT_TRUE(granted);
  EXPECT_EQ(granted->grants, kGrant);
  EXPECT_EQ(granted->comment, "host a");
  auto again = stored.redeem(typed.token(), 1999);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().exit, Exit::not_allowed);
  EXPECT_FALSE(Invitations::parse(stored.text(), "codes")->redeem(typed.token(), 1999));
  EXPECT_TRUE(stored.redeem(other->token(), 1500)) << "another code is not concerned";
}

TEST(Pairing, ACodeEnds) {
  Invitations mirror;
  auto code = mirror.issue(kKey, kGrant, "", 1000, 2000);
  auto late = mirror.redeem(code->token(), 2000);
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().exit, Exit::not_allowed);
  EXPECT_FALSE(mirror.redeem(code->token(), 1500)) << "and does not come back with the clock";
  (void)mirror.issue(kKey, kGrant, "", 1000, 2000);
  (void)mirror.issue(kKey, kGrant, "", 3000, 4000);
  EXPECT_EQ(mirror.size(), 1u) << "what nobody can use any more is forgotten";
}

TEST(Pairing, WrongTokensAreRefused) {
  Invitations mirror;
  auto code = mirror.issue(kKey, kGrant, "", 1000, 2000);
  const std::string token(code->token());
  for (std::size_t bit = 0; bit < token.size() * 8; ++bit) {
    std::string bad = token;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_FALSE(mirror.redeem(bad, 1500));
  }
  EXPECT_FALSE(mirror.redeem({}, 1500));
  EXPECT_FALSE(mirror.redeem(token.substr(1), 1500));
  EXPECT_FALSE(mirror.redeem(token + "x", 1500));
  EXPECT_TRUE(mirror.redeem(token, 1500)) << "a guess uses nothing up";
}

TEST(Pairing, CodesAreRandomAndBounded) {
  std::set<std::string> tokens;
  Invitations mirror;
  for (std::size_t i = 0; i < Invitations::kMost; ++i)
    tokens.insert(std::string(mirror.issue(kKey, kGrant, "", 1, 2).value().token()));
  EXPECT_EQ(tokens.size(), Invitations::kMost);
  EXPECT_FALSE(mirror.issue(kKey, kGrant, "", 1, 2));
  EXPECT_FALSE(mirror.issue(kKey, {}, "", 3, 4));
  EXPECT_FALSE(mirror.issue(kKey, kGrant, "", 3, 3));
  EXPECT_FALSE(mirror.issue(kKey, {{"a/b", kSourceRights}}, "", 3, 4));
}

TEST(Pairing, TheCodeNamesItsMirror) {
  const PairingCode code = PairingCode::make(kKey);
  EXPECT_TRUE(code.check_mirror(kKey));
  auto other = code.check_mirror(KeyPair::generate().shared);
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().exit, Exit::not_allowed);
}

TEST(Pairing, ADamagedListIsNamedByItsLine) {
  Invitations mirror;
  (void)mirror.issue(kKey, kGrant, "host", 1000, 2000);
  const std::string good = mirror.text();
  for (const std::string& bad : {std::string("x\n"), good.substr(1), good.substr(0, 70),
                                 good.substr(0, 63) + "G" + good.substr(64), good.substr(0, 64) + "\n", std::string("\n")}) {
    auto r = Invitations::parse(good + bad, "codes");
    ASSERT_FALSE(r) << bad;
    EXPECT_EQ(r.error().on, "codes:2");
    EXPECT_EQ(r.error().exit, Exit::configuration);
  }
}

}  // namespace
}  // namespace somfs::replicator
