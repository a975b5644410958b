#include "common/base/clock.h"

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
};

}  // namespace

Clock& Clock::Real() {
  static RealClock* const clock = new RealClock;
  return *clock;
}

}  // namespace dsrun
