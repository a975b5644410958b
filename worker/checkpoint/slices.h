// Slices: what a rank keeps of the logical tensors, cut out of its arenas. Pure; any thread.

#ifndef DSRUN_WORKER_CHECKPOINT_SLICES_H_
#define DSRUN_WORKER_CHECKPOINT_SLICES_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/format/layout_recipe.h"
#include "common/format/model_tensors.h"
#include "common/format/piece.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/shard_plan.h"

namespace dsrun::worker {

// The slots of a training state in files: each is a family of logical tensors,
// "<slot>/<parameter>". "model", then the optimizer's: "state/exp_avg", ...
std::vector<std::string> SlotsOf(const OptimizerPlan& optimizer);
// The same without prefix: "exp_avg", ... (OptimizerFacts::slots).
std::vector<std::string> SlotNames(const OptimizerPlan& optimizer);
// And a small one beside them, kSumExponents (common/format/model_tensors.h): a number for each
// tensor of the layout that trains, in its order. The first rank's.

// Elements [begin, end) of a logical tensor, and where they lie in an arena.
struct TensorRange {
  const LogicalTensor* tensor;  // of the layout
  int64_t begin;                // elements of the tensor
  int64_t end;
  int64_t arena_offset;  // elements from the start of the arena
};

enum class Arena {
  kWhole,    // the flat layout: element i at i
  kCompact,  // the owned ranges, concatenated
};

// The owned flat ranges cut at tensors, without padding. `layout` must outlive the result.
// REQUIRES: `owned` ascending, inside the layout.
std::vector<TensorRange> CutAtTensors(const FlatLayout& layout, std::span<const Range> owned,
                                      Arena arena);

// Elements [begin, end) of a logical tensor's shard with their values, for WriteShard.
struct Slice {
  std::string tensor;  // with prefix
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;
  const void* data = nullptr;
  Box shard = {};                        // without dimensions: the whole tensor
  ElementType type = ElementType::kF32;  // of what `data` points to
};

// `base` is the start of the arena; it must outlive the result.
std::vector<Slice> SlicesOf(const FlatLayout& layout, std::span<const Range> owned,
                            std::string_view prefix, Arena arena, const float* base);

// The recipe of what SlicesOf cuts by ShardPlan(layout, width, bucket_bytes), of
// SlotsOf(optimizer), with the exponents of sums beside them, and of fp16 the
// loss scale.
LayoutRecipe RecipeOf(const FlatLayout& layout, const OptimizerPlan& optimizer, int64_t width,
                      int64_t bucket_bytes, bool loss_scale = false);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_CHECKPOINT_SLICES_H_
