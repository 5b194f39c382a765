// SPDX-License-Identifier: Apache-2.0
#include "cli/peers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <sstream>

#include <boost/filesystem.hpp>

#include "common/fd.h"
#include "common/printable.h"
#include "replicator/key_file.h"
#include "replicator/keys.h"

namespace somfs::cli {
namespace {

constexpr std::size_t kMostMirrors = 1u << 20;   // bytes of the list
constexpr const char* kKey = "key";
constexpr const char* kMirrors = "mirrors";

Result<Fd> open_directory(bool make) {
  const std::string dir = keys_directory();
  if (make) {
    boost::system::error_code e;
    const mode_t before = ::umask(077);
    boost::filesystem::create_directories(dir, e);
    ::umask(before);
    if (e) return fail(Exit::configuration, "cannot make", printable(dir), e.message());
  }
  Fd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd && errno != ENOENT) return fail_errno("cannot open", printable(dir));
  return fd;
}

Result<std::string> read_mirrors(const Fd& dir) {
  if (!dir || ::faccessat(dir.get(), kMirrors, F_OK, AT_SYMLINK_NOFOLLOW) != 0) return std::string();
  return replicator::read_own_file(dir.get(), kMirrors, kMostMirrors, replicator::OthersMay::read);
}

}  // namespace

std::string keys_directory() {
  auto set = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
  };
  if (std::string dir = set("SOMFS_CONFIG_DIR"); !dir.empty()) return dir;
  if (::geteuid() == 0) return "/etc/somfs";
  if (std::string dir = set("XDG_CONFIG_HOME"); !dir.empty()) return dir + "/somfs";
  return set("HOME") + "/.config/somfs";
}

Result<replicator::PublicKey> make_own_key() {
  SOMFS_TRY_ASSIGN(const Fd dir, open_directory(true));
  if (::faccessat(dir.get(), kKey, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
    return fail(Exit::usage, "there is a key already", printable(keys_directory() + "/" + kKey), "mirrors know this host by it",
                "move it away first, and pair again with every mirror");
  const replicator::KeyPair pair = replicator::KeyPair::generate();
  SOMFS_TRY(replicator::create_key_file(dir.get(), kKey, pair.secret));
  return pair.shared;
}

Result<replicator::Secret> own_key() {
  SOMFS_TRY_ASSIGN(const Fd dir, open_directory(false));
  if (!dir || ::faccessat(dir.get(), kKey, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
    return fail(Exit::not_allowed, "this host has no key", printable(keys_directory() + "/" + kKey), {}, "pair first: somfs-ctl pair TARGET CODE");
  return replicator::read_key_file(dir.get(), kKey);
}

Result<replicator::PublicKey> key_of_mirror(const replicator::Address& mirror) {
  SOMFS_TRY_ASSIGN(const Fd dir, open_directory(false));
  SOMFS_TRY_ASSIGN(const std::string all, read_mirrors(dir));
  std::istringstream lines(all);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string address, key;
    if (words >> address >> key && address == mirror.text()) return replicator::parse_public(key);
  }
  return fail(Exit::not_allowed, "not paired with", printable(mirror.text()), {}, "pair first: somfs-ctl pair somfs://" + printable(mirror.text()) + "/VOLUME CODE");
}

Status remember_mirror(const replicator::Address& mirror, const replicator::PublicKey& key) {
  SOMFS_TRY_ASSIGN(const Fd dir, open_directory(true));
  SOMFS_TRY_ASSIGN(const std::string all, read_mirrors(dir));
  std::istringstream lines(all);
  std::string now;
  for (std::string line; std::getline(lines, line);)
    if (line.substr(0, line.find(' ')) != mirror.text()) now += line + "\n";
  now += mirror.text() + " " + replicator::public_text(key) + "\n";
  return replace_file(dir.get(), kMirrors, now, 0644);
}

}  // namespace somfs::cli
