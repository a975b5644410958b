// How a model starts: every element is a function of (seed, tensor name, index in the tensor), so
// any rank can fill any range alone and all layouts start from the same bits (docs/numerics.md,
// rule g).

#ifndef DSRUN_WORKER_MODEL_INIT_H_
#define DSRUN_WORKER_MODEL_INIT_H_

#include <cstdint>

#include "common/base/range.h"
#include "common/plan/shard_plan.h"
#include "worker/device/cpu/thread_pool.h"

namespace dsrun::worker {

// Fills the whole parameter arena, padding with zeros. `pool` may be null: one thread.
void InitParameters(const FlatLayout& layout, uint64_t seed, float* arena,
                    ThreadPool* pool = nullptr);

// The same for flat range `range` alone; `out` stands at its first element.
void InitParameterRange(const FlatLayout& layout, uint64_t seed, Range range, float* out);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_MODEL_INIT_H_
