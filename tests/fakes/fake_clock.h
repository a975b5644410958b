// FakeClock: time that moves when a test says so. Thread-safe.

#ifndef DSRUN_TESTS_FAKES_FAKE_CLOCK_H_
#define DSRUN_TESTS_FAKES_FAKE_CLOCK_H_

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"

namespace dsrun {

class FakeClock : public Clock {
 public:
  absl::Time WallNow() const override {
    MutexLock lock(mu_);
    return wall_;
  }
  SteadyTime SteadyNow() const override {
    MutexLock lock(mu_);
    return steady_;
  }
  absl::Duration Slept() const override {
    MutexLock lock(mu_);
    return slept_;
  }

  // ---- Test control

  void Advance(absl::Duration duration) {
    MutexLock lock(mu_);
    wall_ += duration;
    steady_ += duration;
  }
  // The machine is suspended: steady time stands still.
  void Sleep(absl::Duration duration) {
    MutexLock lock(mu_);
    wall_ += duration;
    slept_ += duration;
  }
  // The wall clock alone, as when somebody sets it.
  void JumpWall(absl::Duration duration) {
    MutexLock lock(mu_);
    wall_ += duration;
  }

 private:
  mutable Mutex mu_;
  absl::Time wall_ ABSL_GUARDED_BY(mu_) = absl::UnixEpoch() + absl::Hours(500'000);
  SteadyTime steady_ ABSL_GUARDED_BY(mu_) = absl::Hours(1);
  absl::Duration slept_ ABSL_GUARDED_BY(mu_);
};

}  // namespace dsrun

#endif  // DSRUN_TESTS_FAKES_FAKE_CLOCK_H_
