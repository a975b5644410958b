// ShardedState: what a rank keeps from step to step under ZeRO (Rajbhandari et al., 2020): all
// parameters, or under ZeRO-3 its part of them, and the optimizer's slots of the elements that it
// owns.
//
// Threads: none of its own; the caller's.

#ifndef DSRUN_WORKER_PARALLEL_SHARDED_STATE_H_
#define DSRUN_WORKER_PARALLEL_SHARDED_STATE_H_

#include <cstdint>
#include <vector>

namespace dsrun::worker {

struct ShardedState {
  // What the optimizer updates, in fp32; of a model that computes in 16 bits the masters of what
  // its layers read. (layout.size()), the whole arena; partitioned: (stored size), the ranges that
  // the rank stores, one after the other, ascending, so that those it owns come first.
  float* parameters = nullptr;
  bool partitioned = false;
  // By OptimizerPlan::slots, each what of the owned ranges has the slot
  // (common/plan/slot_places.h), one after the other, ascending. Under ZeRO-0 those of the other
  // owners follow (share_gather.h).
  std::vector<float*> slots;
  int64_t step = 0;     // finished steps
  int64_t skipped = 0;  // of them, in which a gradient overflowed: nothing was updated
  int64_t samples = 0;  // consumed: the data position
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_SHARDED_STATE_H_
