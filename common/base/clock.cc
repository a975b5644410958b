#include "common/base/clock.h"

#include <time.h>

#include <chrono>

#include "absl/time/clock.h"

namespace dsrun {
namespace {

class RealClock : public Clock {
 public:
  absl::Time WallNow() const override { return absl::Now(); }
  SteadyTime SteadyNow() const override {
    return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  }
  // In this order: what passes between the two makes it less.
  absl::Duration Slept() const override {
    timespec since_boot = {};
    clock_gettime(CLOCK_BOOTTIME, &since_boot);
    return absl::DurationFromTimespec(since_boot) - SteadyNow();
  }
};

}  // namespace

Clock& Clock::Real() {
  static RealClock* const clock = new RealClock;
  return *clock;
}

}  // namespace dsrun
