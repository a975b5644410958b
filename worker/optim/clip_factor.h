// Clipping by the gradient norm. Pure.

#ifndef DSRUN_WORKER_OPTIM_CLIP_FACTOR_H_
#define DSRUN_WORKER_OPTIM_CLIP_FACTOR_H_

namespace dsrun::worker {

// What gradients are multiplied with so that their norm is at most `max_norm`: 1, or max_norm /
// norm. `max_norm` <= 0 means no clipping. A norm that is not finite gives 1: whether such a step
// is taken at all is the caller's decision.
double ClipFactor(double norm, double max_norm);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_OPTIM_CLIP_FACTOR_H_
