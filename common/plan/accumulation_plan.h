// In which gradient buffer each micro-batch's backward writes, and what is added to what
// afterwards, so that a rank ends with the partial sums of its tree nodes (canonical_blocks.h).
// Pure.
//
// A micro-batch's gradient is always stored into a buffer of its own and then added, never
// accumulated inside a kernel (docs/numerics.md, rule b). Buffers are reused as soon as their sum
// has moved on; a rank with n blocks needs about log2(n) + 1 of them.

#ifndef DSRUN_COMMON_PLAN_ACCUMULATION_PLAN_H_
#define DSRUN_COMMON_PLAN_ACCUMULATION_PLAN_H_

#include <cstdint>
#include <vector>

#include "common/plan/canonical_blocks.h"

namespace dsrun {

// buffer[into] += buffer[from], element by element.
struct BufferAdd {
  int into;
  int from;
  friend bool operator==(const BufferAdd&, const BufferAdd&) = default;
};

struct AccumulationStep {
  int64_t micro_batch;          // logical index in the global batch
  int target;                   // the buffer that backward overwrites
  std::vector<BufferAdd> adds;  // to be done, in this order, once backward has finished
};

struct AccumulationPlan {
  int buffer_count = 0;
  std::vector<AccumulationStep> steps;  // the rank's micro-batches, in order
  std::vector<int> node_buffers;  // where BatchPlan::RankNodes(rank) stand in the end, in order
};

AccumulationPlan PlanAccumulation(const BatchPlan& batch, int64_t rank);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_ACCUMULATION_PLAN_H_
