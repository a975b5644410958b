// What a model keeps while it computes: every activation and workspace buffer of one micro-batch,
// as a list that depends on shapes alone. The model lays its arena out from this very list
// (worker/model), and the memory plan prints it, so the two cannot disagree. Pure.
//
// Each buffer's elements are rounded up to 64 bytes, so buffers laid one after the other stay
// aligned.

#ifndef DSRUN_COMMON_PLAN_ACTIVATION_PLAN_H_
#define DSRUN_COMMON_PLAN_ACTIVATION_PLAN_H_

#include <cstdint>
#include <vector>

#include "common/model/model_spec.h"
#include "common/plan/planned_buffer.h"

namespace dsrun {

// A tile of attention scores: constants of the model, never of the memory at hand
// (docs/numerics.md, rule f).
inline constexpr int64_t kAttentionQueries = 32;
inline constexpr int64_t kAttentionKeys = 256;

// Floats that attention needs per thread: two tiles, two operands by column, and two numbers per
// query.
constexpr int64_t AttentionScratch(int64_t head_size) {
  return 2 * kAttentionQueries * (kAttentionKeys + head_size + 1);
}

// Elements from one row of logits to the next: rows begin on 64 bytes.
int64_t LogitsStride(const ModelSpec& spec);

// REQUIRES: spec is valid, micro_batch_size >= 1, threads >= 1.
std::vector<PlannedBuffer> PlanActivations(const ModelSpec& spec, int64_t micro_batch_size,
                                           int64_t threads);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_ACTIVATION_PLAN_H_
