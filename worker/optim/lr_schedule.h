// Learning rate by step: linear warm-up, then linear decay. Pure.

#ifndef DSRUN_WORKER_OPTIM_LR_SCHEDULE_H_
#define DSRUN_WORKER_OPTIM_LR_SCHEDULE_H_

#include <cstdint>

namespace dsrun::worker {

struct LrSchedule {
  double lr = 0;       // reached at the end of the warm-up
  double min_lr = 0;   // reached at the last step
  int64_t warmup = 0;  // steps
  int64_t steps = 1;   // of the whole run

  // The rate of update number `step`, counted from 0. Stays at min_lr beyond the last one.
  double At(int64_t step) const {
    if (step >= steps) return min_lr;
    if (step < warmup) return lr * static_cast<double>(step + 1) / static_cast<double>(warmup);
    const double left = static_cast<double>(steps - step) / static_cast<double>(steps - warmup);
    return min_lr + (lr - min_lr) * left;
  }
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_OPTIM_LR_SCHEDULE_H_
