#include "common/plan/traffic_plan.h"

#include <algorithm>
#include <cstddef>

#include "common/model/model_plan.h"
#include "common/plan/batch_plan.h"
#include "common/plan/gather_plan.h"
#include "common/plan/gradient_space.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/shard_plan.h"
#include "common/plan/sum_places.h"
#include "common/plan/zero_stage.h"

namespace dsrun {

namespace {

// Elements of the tensors in `gathered` (how often, by entry of the layout) that `rank` has.
int64_t ElementsOf(int64_t rank, const std::vector<int64_t>& gathered, const FlatLayout& layout,
                   const ShardPlan& shards) {
  int64_t elements = 0;
  for (const Range& range : shards.Stored(rank)) {
    layout.ForTensors(
        range, [&](size_t tensor, Range part) { elements += gathered[tensor] * part.size(); });
  }
  return elements;
}

// How often a step of ZeRO-3 gathers each tensor, by entry of the layout.
std::vector<int64_t> GathersOfStep(const MemoryInput& input, const ModelPlan& model,
                                   const FlatLayout& layout, size_t lowest_layer) {
  const ZeroSettings zero = WithDefaults(input.zero, model, layout);
  const BatchPlan batch(input.micro_batches, input.micro_batches_per_atom, input.width);
  int64_t passes = 0;
  for (int64_t rank = 0; rank < input.width; ++rank) {
    passes = std::max(passes, batch.RankMicroBatches(rank).size());
  }
  std::vector<int64_t> times(layout.entries().size());
  for (const GatherPlan::Gather& gather :
       PlanGathers(model, layout, lowest_layer, PassKind::kTraining, zero).gathers) {
    for (const GatherPlan::Place& place : gather.tensors) times[place.tensor] += passes;
  }
  for (const size_t tensor : PersistentTensors(layout, zero.persistence_threshold)) ++times[tensor];
  return times;
}

}  // namespace

std::vector<PlannedTraffic> PlanTraffic(const MemoryInput& input) {
  const ModelPlan model = ModelOf(input);
  const FlatLayout layout(model.tensors);
  const ShardPlan shards(layout, input.width, input.bucket_bytes);
  const GradientSpace space(model, layout);
  const SumPlaces places(layout, shards, space, 1);
  const std::vector<int64_t> atoms =
      input.atoms_of_ranks.empty()
          ? BatchPlan(input.micro_batches, input.micro_batches_per_atom, input.width).AtomCounts()
          : input.atoms_of_ranks;
  const bool all = ZeroStageOf(input.zero_stage).slots == ZeroPart::kAll;
  std::vector<int64_t> gathers;
  if (input.zero_stage == 3) gathers = GathersOfStep(input, model, layout, space.lowest_layer());
  std::vector<PlannedTraffic> traffic;
  for (int64_t rank = 0; rank < input.width; ++rank) {
    PlannedTraffic sent;
    for (size_t bucket = 0; bucket < shards.buckets().size(); ++bucket) {
      const Range range = shards.buckets()[bucket];
      int64_t others = range.size();
      for (const Range& mine : shards.Owned(rank, range)) others -= mine.size();
      const bool floats =
          input.fast_sums || (atoms[static_cast<size_t>(rank)] == 1 && places.used_once(bucket));
      sent.reduce += others * (floats ? 4 : 8);
    }
    const int64_t copies = shards.OwnedSize(rank) * (input.width - 1);
    sent.gather = 4 * copies;
    if (input.zero_stage == 3) {
      sent.gather = 4 * (input.width - 1) * ElementsOf(rank, gathers, layout, shards);
    }
    for (const OptimizerSlot& slot : input.optimizer.slots) {
      if (all) sent.once += BytesOf(slot.dtype) * copies;
    }
    traffic.push_back(sent);
  }
  return traffic;
}

}  // namespace dsrun
