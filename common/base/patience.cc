#include "common/base/patience.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace dsrun {
namespace {

constexpr absl::Duration kNap = absl::Milliseconds(20);

}  // namespace

bool Patience::IsLeft() const {
  if (over_ || waited_ >= limits_.total) return false;
  return !began_.has_value() || clock_.SteadyNow() - *began_ < limits_.total;
}

bool Patience::Again() {
  if (!began_.has_value()) began_ = clock_.SteadyNow();
  if (!IsLeft()) return false;
  const absl::Duration wait = std::min(next_, limits_.total - waited_);
  next_ = std::min(2 * next_, limits_.most);
  waited_ += wait;
  over_ = !wait_(wait);
  return !over_;
}

bool SleepUnless(absl::Duration duration, const std::function<bool()>& cancelled) {
  const SteadyTime until = Clock::Real().SteadyNow() + duration;
  while (true) {
    if (cancelled && cancelled()) return false;
    const absl::Duration left = until - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return true;
    std::this_thread::sleep_for(absl::ToChronoNanoseconds(std::min(left, kNap)));
  }
}

}  // namespace dsrun
