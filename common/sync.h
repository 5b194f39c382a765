// SPDX-License-Identifier: Apache-2.0
// Mutex and condition variable with clang's thread-safety annotations (-Wthread-safety). Lock order is written at the mutex.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <shared_mutex>

#if defined(__clang__)
#define SOMFS_TSA(x) __attribute__((x))
#else
#define SOMFS_TSA(x)
#endif
#define CAPABILITY(x) SOMFS_TSA(capability(x))
#define SCOPED_CAPABILITY SOMFS_TSA(scoped_lockable)
#define GUARDED_BY(x) SOMFS_TSA(guarded_by(x))
#define REQUIRES(...) SOMFS_TSA(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) SOMFS_TSA(requires_shared_capability(__VA_ARGS__))
#define ACQUIRE(...) SOMFS_TSA(acquire_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) SOMFS_TSA(acquire_shared_capability(__VA_ARGS__))
#define RELEASE(...) SOMFS_TSA(release_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) SOMFS_TSA(release_shared_capability(__VA_ARGS__))
#define RELEASE_GENERIC(...) SOMFS_TSA(release_generic_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) SOMFS_TSA(try_acquire_capability(__VA_ARGS__))
#define EXCLUDES(...) SOMFS_TSA(locks_excluded(__VA_ARGS__))
#define NO_THREAD_SAFETY_ANALYSIS SOMFS_TSA(no_thread_safety_analysis)

namespace somfs {

class CAPABILITY("mutex") Mutex {
 public:
  void lock() ACQUIRE() { m_.lock(); }
  void unlock() RELEASE() { m_.unlock(); }
  bool try_lock() TRY_ACQUIRE(true) { return m_.try_lock(); }

 private:
  friend class CondVar;
  std::mutex m_;
};

class CAPABILITY("shared mutex") SharedMutex {
 public:
  void lock() ACQUIRE() { m_.lock(); }
  void unlock() RELEASE() { m_.unlock(); }
  void lock_shared() ACQUIRE_SHARED() { m_.lock_shared(); }
  void unlock_shared() RELEASE_SHARED() { m_.unlock_shared(); }

 private:
  std::shared_mutex m_;
};

class SCOPED_CAPABILITY Lock {
 public:
  explicit Lock(Mutex& m) ACQUIRE(m) : m_(m) { m_.lock(); }
  ~Lock() RELEASE() { m_.unlock(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  Mutex& m_;
};

class SCOPED_CAPABILITY WriteLock {
 public:
  explicit WriteLock(SharedMutex& m) ACQUIRE(m) : m_(m) { m_.lock(); }
  ~WriteLock() RELEASE() { m_.unlock(); }
  WriteLock(const WriteLock&) = delete;
  WriteLock& operator=(const WriteLock&) = delete;

 private:
  SharedMutex& m_;
};

class SCOPED_CAPABILITY ReadLock {
 public:
  explicit ReadLock(SharedMutex& m) ACQUIRE_SHARED(m) : m_(m) { m_.lock_shared(); }
  ~ReadLock() RELEASE_GENERIC() { m_.unlock_shared(); }
  ReadLock(const ReadLock&) = delete;
  ReadLock& operator=(const ReadLock&) = delete;

 private:
  SharedMutex& m_;
};

// Waits always re-check their condition in a loop at the caller: while (!cond) cv.wait(mutex).
class CondVar {
 public:
  void wait(Mutex& m) REQUIRES(m) NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> l(m.m_, std::adopt_lock);
    cv_.wait(l);
    l.release();
  }
  // False when the time passed first.
  bool wait_until(Mutex& m, std::chrono::steady_clock::time_point t) REQUIRES(m) NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> l(m.m_, std::adopt_lock);
    bool in_time = cv_.wait_until(l, t) == std::cv_status::no_timeout;
    l.release();
    return in_time;
  }
  void notify_one() { cv_.notify_one(); }
  void notify_all() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace somfs
