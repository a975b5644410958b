// How long to wait, as the system and libraries want it told: poll(2) in an int of milliseconds,
// the standard library and Gloo in a chrono duration that they add to their clock. Both overflow
// where an absl::Duration saturates, and a wait that should last for ever would end at once. So
// these saturate first. Pure.

#ifndef DSRUN_COMMON_BASE_WAITS_H_
#define DSRUN_COMMON_BASE_WAITS_H_

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "absl/time/time.h"

namespace dsrun {

// Added to the clock of a machine it stays far from the end of 64-bit nanoseconds (292 years).
inline constexpr absl::Duration kLongestWait = absl::Hours(24 * 365);
// The longest that poll(2) can be told, and then some: 12 days.
inline constexpr int64_t kLongestPollMilliseconds = int64_t{1} << 30;

// Within [0, kLongestWait], rounded up to whole units: a wait does not end before its time.
inline std::chrono::nanoseconds ChronoNanoseconds(absl::Duration wait) {
  wait = std::clamp(wait, absl::ZeroDuration(), kLongestWait);
  return absl::ToChronoNanoseconds(absl::Ceil(wait, absl::Nanoseconds(1)));
}
inline std::chrono::milliseconds ChronoMilliseconds(absl::Duration wait) {
  wait = std::clamp(wait, absl::ZeroDuration(), kLongestWait);
  return absl::ToChronoMilliseconds(absl::Ceil(wait, absl::Milliseconds(1)));
}

// For poll(2) and its kin: within [0, kLongestPollMilliseconds], rounded up. Whoever waits for
// longer looks at the clock and waits again.
inline int PollMilliseconds(absl::Duration wait) {
  wait = std::clamp(wait, absl::ZeroDuration(), absl::Milliseconds(kLongestPollMilliseconds));
  return static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1))));
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_WAITS_H_
