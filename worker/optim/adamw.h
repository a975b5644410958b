// AdamW over the flat layout: knows which tensors decay and what the step's corrections are, and
// calls the fused kernel over maximal ranges of one kind. Stateless; moments live in arenas of the
// caller.

#ifndef DSRUN_WORKER_OPTIM_ADAMW_H_
#define DSRUN_WORKER_OPTIM_ADAMW_H_

#include <cstdint>
#include <vector>

#include "common/base/range.h"
#include "common/plan/shard_plan.h"
#include "common/schedule/lr_schedule.h"
#include "worker/device/kernels.h"

namespace dsrun::worker {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;  // of tensors whose LogicalTensor::weight_decay is set
};

class AdamW {
 public:
  // `kernels` and `layout` must outlive this.
  AdamW(Kernels& kernels, const FlatLayout& layout, const AdamWOptions& options);

  // Update number `step` (from 1) of flat range `range`, with the schedule's rate, and its betas
  // where it sets them. All four pointers stand at the element of
  // range.begin. grad_scale: ClipFactor (clip_factor.h) / tokens.
  // REQUIRES: range lies in [0, layout.size()).
  void Step(int64_t step, const ScheduledRates& rates, double grad_scale, Range range,
            const float* grad, float* param, float* m, float* v);

 private:
  struct Piece {
    Range flat;  // padded
    bool decay;
  };

  Kernels& kernels_;
  const AdamWOptions options_;
  std::vector<Piece> pieces_;  // ascending, adjacent, maximal runs of one kind
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_OPTIM_ADAMW_H_
