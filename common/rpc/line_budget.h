// LineBudget: how many lines somebody else's doing may put into a log: a few, and then one that
// says how many more there were. Pure; threads: one at a time.

#ifndef DSRUN_COMMON_RPC_LINE_BUDGET_H_
#define DSRUN_COMMON_RPC_LINE_BUDGET_H_

#include <cstdint>
#include <utility>

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace dsrun {

class LineBudget {
 public:
  // `lines` in every `period`.
  LineBudget(int lines, absl::Duration period) : lines_(lines), period_(period) {}

  // Whether a line may be written now. `left_out`: how many were not since the last one.
  bool Take(SteadyTime now, int64_t& left_out) {
    if (now >= renew_at_) {
      renew_at_ = now + period_;
      used_ = 0;
    }
    if (used_ == lines_) {
      ++left_out_;
      return false;
    }
    ++used_;
    left_out = std::exchange(left_out_, 0);
    return true;
  }

 private:
  const int lines_;
  const absl::Duration period_;
  SteadyTime renew_at_ = -absl::InfiniteDuration();
  int used_ = 0;
  int64_t left_out_ = 0;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_LINE_BUDGET_H_
