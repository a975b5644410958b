// The one door to time. Wall time (may jump) is for what people read; steady time (never goes back)
// is for durations and deadlines. Pure rooms never hold a Clock: `now` comes in as an argument.
//
// Steady time stands still while the machine is suspended, and so do all who run on it: none of
// their deadlines among themselves passes meanwhile, which is what training wants. Elsewhere time
// goes on. Whoever promised another machine to be gone by then (the lease of a program's ranks) has
// to ask how long this one slept. Thread-safe.

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
  // How long the machine has been suspended, altogether; only differences mean something. Never
  // more than the truth: a reading may be late by as long as this thread did not run in it.
  virtual absl::Duration Slept() const = 0;

  // The real clock; never destroyed.
  static Clock& Real();
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_CLOCK_H_
