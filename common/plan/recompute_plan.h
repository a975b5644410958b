// Which layers backward plays forward again instead of keeping what they computed (Chen et al.,
// 2016, "Training Deep Nets with Sublinear Memory Cost"). Pure. docs/design/0023-recomputation.md.
//
//   A block is one of the model's num_layers: its attention and its MLP, two layers of ModelPlan.
//   Embedding and head are never played again: the one keeps nothing, the other is the first that
//   backward needs.
//   A segment is a run of blocks. From forward to backward only its input, the stream, is kept;
//   before its backward it is played forward again, from the first layer to the last.
//
// The same kernels on the same inputs: no bit of loss or gradients depends on it.

#ifndef DSRUN_COMMON_PLAN_RECOMPUTE_PLAN_H_
#define DSRUN_COMMON_PLAN_RECOMPUTE_PLAN_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "common/base/range.h"
#include "common/model/model_plan.h"

namespace dsrun {

// What a job asks for. All 0: nothing is computed again.
struct Recompute {
  int64_t every = 0;         // blocks of a segment, and all blocks are in one
  int64_t budget_bytes = 0;  // if every is 0: as few blocks as let KeptBytes fit into it
  bool any() const { return every > 0 || budget_bytes > 0; }
};

// Layers of model.layers, ascending. By budget: the lowest blocks, each a segment, so that what the
// others keep is free again when these are played; all blocks, where no number of them fits.
// `rows`: tokens of one micro-batch; `slots`: micro-batches in flight.
std::vector<Range> RecomputedSegments(const ModelPlan& model, int64_t rows, int64_t slots,
                                      const Recompute& recompute);

// Bytes that lie from forward to backward: the stream between layers, and what layers keep, but of
// segments.
int64_t KeptBytes(const ModelPlan& model, int64_t rows, int64_t slots,
                  const std::vector<Range>& segments);

// Of forward, for each token, that is computed again; what LayerPlan::flops_of_token counts.
double RecomputedFlopsOfToken(const ModelPlan& model, const std::vector<Range>& segments);

int64_t BlocksOf(const ModelPlan& model, const std::vector<Range>& segments);

// A budget by which the `blocks` lowest blocks are computed again. REQUIRES: at most num_layers.
Recompute BudgetForBlocks(const ModelPlan& model, int64_t rows, int64_t slots, int64_t blocks);

// The fewest blocks of `most` for which `fits` holds, which holds for all above them, too;
// nullopt: not even for all.
std::optional<int64_t> FewestBlocks(int64_t most, const std::function<bool(int64_t)>& fits);

// Errors: INVALID_ARGUMENT: a number below 0, both kinds at once, or a budget that the inputs of
// all blocks do not fit into.
absl::Status CheckRecompute(const ModelPlan& model, int64_t rows, int64_t slots,
                            const Recompute& recompute);

}  // namespace dsrun

#endif  // DSRUN_COMMON_PLAN_RECOMPUTE_PLAN_H_
