// Mutex, MutexLock, CondVar: std::mutex with clang's thread-safety annotations (absl::Mutex in
// Debian is not instrumented for TSan). Members guarded by a mutex say ABSL_GUARDED_BY(mu_);
// helpers that need it held end in Locked and say ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_). No callback,
// RPC or flush runs under a lock.

#ifndef DSRUN_COMMON_BASE_MUTEX_H_
#define DSRUN_COMMON_BASE_MUTEX_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/waits.h"

namespace dsrun {

class ABSL_LOCKABLE Mutex {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mu_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mu_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mu_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mu) ABSL_EXCLUSIVE_LOCK_FUNCTION(mu) : mu_(mu) { mu_.Lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mu_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mu_;
};

class CondVar {
 public:
  // Waits for a notification (or a spurious wake-up). REQUIRES: `mu` held by this thread.
  void Wait(Mutex& mu) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    std::unique_lock<std::mutex> lock(mu.mu_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }
  // The same, for `timeout` of steady time at most; any duration, also an infinite one, which may
  // end after a year. False: the time ran out. REQUIRES: `mu` held.
  bool WaitFor(Mutex& mu, absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    std::unique_lock<std::mutex> lock(mu.mu_, std::adopt_lock);
    // wait_until(steady_clock) keeps TSan informed and does not follow wall-clock jumps.
    const bool notified =
        cv_.wait_until(lock, std::chrono::steady_clock::now() + ChronoNanoseconds(timeout)) ==
        std::cv_status::no_timeout;
    lock.release();
    return notified;
  }
  // The same, until `deadline` on the real clock (Clock::SteadyNow). False, at once: it has passed.
  //   while (!done && changed.WaitUntil(mu, deadline)) continue;
  bool WaitUntil(Mutex& mu, SteadyTime deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    WaitFor(mu, left);
    return true;
  }
  void NotifyOne() { cv_.notify_one(); }
  void NotifyAll() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_MUTEX_H_
