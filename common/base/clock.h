// The one door to time. Wall time (may jump) is for what people read; steady time (never goes back)
// is for durations and deadlines. Pure rooms never hold a Clock: `now` comes in as an argument.
// Thread-safe.

#ifndef DSRUN_COMMON_BASE_CLOCK_H_
#define DSRUN_COMMON_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace dsrun {

// Steady time: nanoseconds since some fixed point of this machine's boot, as a Duration. Comparable
// only on one machine.
using SteadyTime = absl::Duration;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time WallNow() const = 0;
  virtual SteadyTime SteadyNow() const = 0;

  // The real clock; never destroyed.
  static Clock& Real();
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_CLOCK_H_
