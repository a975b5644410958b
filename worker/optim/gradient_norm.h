// The gradient norm: sums over elements by the second tree of docs/numerics.md (leaves in order,
// then tensors in name order), and clipping by it. Pure.

#ifndef DSRUN_WORKER_OPTIM_GRADIENT_NORM_H_
#define DSRUN_WORKER_OPTIM_GRADIENT_NORM_H_

#include <span>

#include "common/plan/shard_plan.h"

namespace dsrun::worker {

// Sum over all elements from the sums of all leaves (layout.leaf_count() of them): leaves of a
// tensor in order, then tensors in name order. Leaf values come from Kernels::LeafSquares.
double SumLeaves(const FlatLayout& layout, std::span<const double> leaves);

// What gradients are multiplied with so that their norm is at most `max_norm`: 1, or max_norm /
// norm. `max_norm` <= 0 means no clipping. A norm that is not finite gives 1: whether such a step
// is taken at all is the caller's decision.
double ClipFactor(double norm, double max_norm);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_OPTIM_GRADIENT_NORM_H_
