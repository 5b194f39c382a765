// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <cstdlib>

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fd.h"
#include "common/printable.h"
#include "tests/tools/recording_device.h"

namespace somfs::tools {
namespace {

int wait_for(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

int run_quietly(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t pid = fork();
  if (pid < 0) return 127;
  if (pid == 0) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd : {0, 1, 2}) dup2(null, fd);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  return wait_for(pid);
}

Result<RecordedVolume> RecordedVolume::start(const std::string& scratch, const std::vector<std::string>& make,
                                             std::uint64_t bytes) {
  RecordedVolume volume(scratch);
  std::string device = scratch + "/device";
  if (mkdir(device.c_str(), 0700) != 0 || mkdir(volume.dir().c_str(), 0700) != 0)
    return fail_errno("cannot make a directory", printable(scratch));
  {
    Fd image(open(volume.image().c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!image || ftruncate(image.get(), static_cast<off_t>(bytes)) != 0)
      return fail_errno("cannot make the image", printable(volume.image()));
  }
  std::vector<std::string> command = make;
  command.push_back(volume.image());
  if (int code = run_quietly(command); code != 0)
    return fail(Exit::temporary, "mkfs failed", make[0], "exit status " + std::to_string(code));

  volume.recorder_ = fork();
  if (volume.recorder_ < 0) return fail_errno("cannot fork");
  if (volume.recorder_ == 0) {
    for (int fd = 3; fd < 256; ++fd) close(fd);
    _exit(run_recorder({volume.image(), volume.log(), device}) ? 0 : 1);
  }
  std::string disk = device + "/disk";
  for (int tries = 0; access(disk.c_str(), F_OK) != 0; ++tries) {
    if (tries == 2000 || waitpid(volume.recorder_, nullptr, WNOHANG) == volume.recorder_)
      return fail(Exit::temporary, "the recorder did not start", printable(device));
    poll(nullptr, 0, 5);
  }
  if (int code = run_quietly({"mount", "-o", "loop", disk, volume.dir()}); code != 0)
    return fail(Exit::temporary, "cannot mount", printable(disk), "exit status " + std::to_string(code));
  return volume;
}

RecordedVolume::RecordedVolume(RecordedVolume&& other) noexcept
    : scratch_(std::move(other.scratch_)), recorder_(std::exchange(other.recorder_, -1)) {}

RecordedVolume::~RecordedVolume() { stop(); }

std::uint64_t RecordedVolume::entries() const {
  Fd fd(open((scratch_ + "/device/entries").c_str(), O_RDONLY | O_CLOEXEC));
  char text[32] = {};
  std::size_t got = 0;
  return fd && read_all(fd.get(), text, sizeof text - 1, &got) == 0 ? std::strtoull(text, nullptr, 10) : 0;
}

void RecordedVolume::stop() {
  if (recorder_ < 0) return;
  if (umount2(dir().c_str(), UMOUNT_NOFOLLOW) != 0) umount2(dir().c_str(), MNT_DETACH);
  // The loop device lets go of the file a moment after the unmount; until then the recorder's mount is busy.
  std::string device = scratch_ + "/device";
  for (int tries = 0; umount2(device.c_str(), UMOUNT_NOFOLLOW) != 0 && errno == EBUSY; ++tries) {
    if (tries == 2000) {
      umount2(device.c_str(), MNT_DETACH);
      kill(recorder_, SIGKILL);
      break;
    }
    poll(nullptr, 0, 5);
  }
  wait_for(std::exchange(recorder_, -1));
}

Result<MountedImage> MountedImage::mount(const std::string& image, const std::string& dir, const std::string& options) {
  std::string with = options.empty() ? "loop" : "loop," + options;
  if (int code = run_quietly({"mount", "-o", with, image, dir}); code != 0)
    return fail(Exit::temporary, "cannot mount", printable(image), "exit status " + std::to_string(code));
  return MountedImage(dir);
}

MountedImage::~MountedImage() {
  if (!dir_.empty() && umount2(dir_.c_str(), UMOUNT_NOFOLLOW) != 0) umount2(dir_.c_str(), MNT_DETACH);
}

}  // namespace somfs::tools
