// ExchangeTimeout: how long a rank waits for its peers in one exchange before it says that nobody
// answered. Ranks that hold more micro-batches, or a slower core, arrive later by a part of a step,
// so the limit grows with the steps: max(least, 10 x median of the last steps). Before the first
// step it comes from the work to be done at a rate that any machine reaches. Pure.

#ifndef DSRUN_WORKER_ENGINE_EXCHANGE_TIMEOUT_H_
#define DSRUN_WORKER_ENGINE_EXCHANGE_TIMEOUT_H_

#include <algorithm>
#include <cstddef>
#include <deque>
#include <vector>

#include "absl/time/time.h"

namespace dsrun::worker {

class ExchangeTimeout {
 public:
  static constexpr double kSlowestFlopsPerSecond = 1e9;
  static constexpr int kSteps = 10;
  static constexpr size_t kRemembered = 31;

  // `least`: Limits::collective_timeout. `step_flops`: of a whole step, if one rank did all of it.
  ExchangeTimeout(absl::Duration least, double step_flops)
      : least_(least), first_(absl::Seconds(step_flops / kSlowestFlopsPerSecond)) {}

  void StepTook(absl::Duration duration) {
    steps_.push_back(duration);
    if (steps_.size() > kRemembered) steps_.pop_front();
  }

  absl::Duration Current() const {
    if (steps_.empty()) return std::max(least_, first_);
    std::vector<absl::Duration> sorted(steps_.begin(), steps_.end());
    std::nth_element(sorted.begin(), sorted.begin() + sorted.size() / 2, sorted.end());
    return std::max(least_, kSteps * sorted[sorted.size() / 2]);
  }

 private:
  const absl::Duration least_;
  const absl::Duration first_;
  std::deque<absl::Duration> steps_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_EXCHANGE_TIMEOUT_H_
