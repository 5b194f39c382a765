// SPDX-License-Identifier: Apache-2.0
// Files that their owner may write but not read, and files of others, in an ordinary user's volume: what cannot be kept of them is lost to
// the snapshots, and nothing else.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <grp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>

#include "tests/unit/snapshot/store_harness.h"

namespace somfs::snapshot::test {
namespace {

// As the mount does: the pre-image, then the change, through a descriptor that cannot be read from.
void overwrite(Volume& v, const std::string& path, const std::string& bytes) {
  Fd fd(::openat(v.root.get(), path.c_str() + 1, O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(fd);
  const ObjectId id = inode_of(fd.get())->id;
  v.store->before_attr(id, fd.get());
  v.store->before_data(id, fd.get(), {0, bytes.size()});
  ASSERT_EQ(pwrite_all(fd.get(), bytes, 0), 0);
}

Result<std::string> content(const Volume& v, const std::string& snapshot, const std::string& name) {
  SOMFS_TRY_ASSIGN(auto view, View::open(v.root.get(), v.dir.get(), snapshot));
  SOMFS_TRY_ASSIGN(auto root, view->root());
  SOMFS_TRY_ASSIGN(auto entries, view->list(root));
  for (const ViewEntry& e : entries) {
    if (e.name != name) continue;
    SOMFS_TRY_ASSIGN(auto file, view->open_in(root, e));
    std::string out(file.attr().size, '\0');
    SOMFS_TRY_ASSIGN(std::size_t got, file.read(out.data(), out.size(), 0));
    out.resize(got);
    return out;
  }
  return fail_errno("not there", name, ENOENT);
}

// In a child: as nobody when this is root, who may read everything.
int as_ordinary_user(const std::function<void()>& act) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (::geteuid() == 0 && (::setgroups(0, nullptr) != 0 || ::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0)) ::_exit(2);
    act();
    std::fflush(nullptr);
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Unreadable, OnlyItsContentIsLost) {
  EXPECT_EQ(as_ordinary_user([] {
    Volume v;
    v.open_store();
    v.create("/closed", "secret");
    v.create("/open", "before");
    v.chmod("/closed", 0200);
    v.snapshot("old");
    v.snapshot("new", 2);
    overwrite(v, "/closed", "over");
    overwrite(v, "/open", "after!");
    overwrite(v, "/closed", "again");
    ASSERT_EQ(v.store->list().size(), 2u) << v.store->dropped().front().reason;
    ASSERT_EQ(::chmod((v.base + "/v/closed").c_str(), 0600), 0);   // not told: what matters is that it can be read now
    for (const char* name : {"old", "new"}) {
      EXPECT_EQ(content(v, name, "open").value_or("?"), "before");
      auto lost = content(v, name, "closed");
      ASSERT_FALSE(lost) << *lost;
      EXPECT_EQ(lost.error().sys, EIO);
    }
    // It stays lost when the newer one goes, and when the store is opened again.
    ASSERT_TRUE(v.store->remove("new"));
    v.close_store();
    v.open_store();
    EXPECT_EQ(content(v, "old", "open").value_or("?"), "before");
    EXPECT_EQ(content(v, "old", "closed").map_error([](const Error& e) { return e.sys; }).error(), EIO);
  }), 0);
}

TEST(Unreadable, ADescriptorForWritingIsNoObstacle) {
  EXPECT_EQ(as_ordinary_user([] {
    Volume v;
    v.open_store();
    v.create("/f", "before");
    v.snapshot("s");
    overwrite(v, "/f", "after!");
    EXPECT_EQ(content(v, "s", "f").value_or("?"), "before");
  }), 0);
}

Result<ViewFile> open_in(View& view, const std::string& name) {
  SOMFS_TRY_ASSIGN(auto root, view.root());
  SOMFS_TRY_ASSIGN(auto ref, view.lookup(root, name));
  if (!ref) return fail_errno("not there", name, ENOENT);
  return view.open_in(root, {name, *ref});
}

TEST(Unreadable, AttributesThatCouldNotBeReadAreNotTakenForAbsent) {
  EXPECT_EQ(as_ordinary_user([] {
    Volume v;
    v.open_store();
    v.create("/f", "text");
    v.set_xattr("/f", "user.closed", "secret");
    v.chmod("/f", 0200);
    v.snapshot("s");
    for (int round = 0; round < 2; ++round) {
      auto view = View::open(v.root.get(), v.dir.get(), "s");
      ASSERT_TRUE(view) << view.error().line();
      auto file = open_in(**view, "f");
      ASSERT_TRUE(file) << file.error().line();
      EXPECT_EQ(file->xattrs().map_error([](const Error& e) { return e.sys; }).error(), EACCES);
      std::vector<std::string> unread;
      auto others = file->xattrs(&unread);
      ASSERT_TRUE(others);
      EXPECT_TRUE(std::none_of(others->begin(), others->end(), [](const auto& x) { return x.first.starts_with("user."); }));
      EXPECT_EQ(unread, std::vector<std::string>{"user.closed"});
      v.chmod("/f", 0600);   // in the second round it could be read, but was not when it changed
      if (round == 0) {
        v.close_store();
        v.open_store();
      }
    }
  }), 0);
}

TEST(Unreadable, WhatOthersOwnIsLostAlone) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to make a file of somebody else";
  std::string hardlinks = read_file(AT_FDCWD, "/proc/sys/fs/protected_hardlinks", 16).value_or("");
  if (hardlinks != "1\n") GTEST_SKIP() << "here everybody may link everything";
  Volume v;
  ::chmod(v.base.c_str(), 0755);
  for (const char* dir : {"/v", "/v/.somfs", "/v/.somfs/store"}) ASSERT_EQ(::chown((v.base + dir).c_str(), 65534, 65534), 0);
  for (const char* name : {"/v/removed", "/v/renamed"}) {
    Fd fd(::open((v.base + name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(write_all(fd.get(), "of another"), 0);
  }
  EXPECT_EQ(as_ordinary_user([&] {
    v.open_store();
    v.create("/own", "own");
    v.snapshot("s");
    v.unlink("/removed");
    v.rename("/renamed", "/elsewhere");
    v.unlink("/own");
    ASSERT_EQ(v.store->list().size(), 1u) << v.store->dropped().front().reason;
    EXPECT_EQ(content(v, "s", "own").value_or("?"), "own");
    auto view = View::open(v.root.get(), v.dir.get(), "s");
    ASSERT_TRUE(view);
    for (const char* name : {"removed", "renamed"}) {
      auto file = open_in(**view, name);
      ASSERT_TRUE(file) << file.error().line();
      EXPECT_EQ(file->attr().size, 10u);
      EXPECT_EQ(file->attr().nlink, 1u);
      char byte = 0;
      EXPECT_EQ(file->read(&byte, 1, 0).map_error([](const Error& e) { return e.sys; }).error(), EIO);
    }
  }), 0);
}

}  // namespace
}  // namespace somfs::snapshot::test
