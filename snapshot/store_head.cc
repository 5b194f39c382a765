// SPDX-License-Identifier: Apache-2.0
#include "snapshot/store_head.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <utility>

namespace somfs::snapshot {

namespace {
constexpr char kMagic[8] = {'S', 'O', 'M', 'S', 'T', 'O', 'R', 'E'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kPage = 4096;
}  // namespace

StoreHead::StoreHead(StoreHead&& o) noexcept
    : fd_(std::move(o.fd_)), page_(std::exchange(o.page_, nullptr)), fresh_(o.fresh_) {}

StoreHead& StoreHead::operator=(StoreHead&& o) noexcept {
  std::swap(fd_, o.fd_);
  std::swap(page_, o.page_);
  std::swap(fresh_, o.fresh_);
  return *this;
}

StoreHead::~StoreHead() {
  if (page_ != nullptr) ::munmap(page_, kPage);
}

Result<StoreHead> StoreHead::open_writer(int dir_fd) {
  StoreHead h;
  h.fd_ = Fd(::openat(dir_fd, "head", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!h.fd_) return fail_errno("cannot open the store's", "head");
  if (::flock(h.fd_.get(), LOCK_EX | LOCK_NB) != 0)
    return fail(Exit::locked, "cannot open the snapshot store", {}, "another process uses it");
  // Allocated, so that storing into the mapping cannot meet a full file system.
  if (int e = ::posix_fallocate(h.fd_.get(), 0, kPage); e != 0) return fail_errno("cannot allocate the store's", "head", e);
  void* p = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, h.fd_.get(), 0);
  if (p == MAP_FAILED) return fail_errno("cannot map the store's", "head");
  h.page_ = static_cast<Page*>(p);
  if (std::memcmp(h.page_->magic, kMagic, sizeof kMagic) != 0 || h.page_->version != kVersion) {
    h.fresh_ = true;
    std::memset(static_cast<void*>(h.page_), 0, kPage);
    h.page_->version = kVersion;
    h.page_->next_seq = 1;
    std::memcpy(h.page_->magic, kMagic, sizeof kMagic);
  }
  h.page_->untold = 0;
  return h;
}

Result<StoreHead> StoreHead::open_reader(int dir_fd) {
  StoreHead h;
  h.fd_ = Fd(::openat(dir_fd, "head", O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!h.fd_) return fail_errno("cannot open the store's", "head");
  struct stat st;
  if (::fstat(h.fd_.get(), &st) != 0 || static_cast<std::size_t>(st.st_size) < kPage)
    return fail(Exit::configuration, "cannot use the snapshot store", {}, "its head is too short");
  void* p = ::mmap(nullptr, kPage, PROT_READ, MAP_SHARED, h.fd_.get(), 0);
  if (p == MAP_FAILED) return fail_errno("cannot map the store's", "head");
  h.page_ = static_cast<Page*>(p);
  if (std::memcmp(h.page_->magic, kMagic, sizeof kMagic) != 0 || h.page_->version != kVersion)
    return fail(Exit::configuration, "cannot use the snapshot store", {}, "its head is not of a known format");
  return h;
}

Uuid StoreHead::boot() const {
  return Uuid::from_raw({reinterpret_cast<const char*>(page_->boot), sizeof page_->boot});
}

bool StoreHead::synced() const { return page_->synced != 0; }

Status StoreHead::begin(const Uuid& boot) {
  page_->synced = 0;
  std::memcpy(page_->boot, boot.bytes.data(), sizeof page_->boot);
  if (::msync(page_, kPage, MS_SYNC) != 0 || ::fsync(fd_.get()) != 0) return fail_errno("cannot sync the store's", "head");
  return {};
}

Status StoreHead::mark_synced() {
  page_->synced = 1;
  if (::msync(page_, kPage, MS_SYNC) != 0 || ::fsync(fd_.get()) != 0) {
    page_->synced = 0;
    return fail_errno("cannot sync the store's", "head");
  }
  return {};
}

std::uint64_t StoreHead::next_seq() { return page_->next_seq++; }

}  // namespace somfs::snapshot
