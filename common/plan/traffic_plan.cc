#include "common/plan/traffic_plan.h"

#include <cstddef>

#include "common/model/model_plan.h"
#include "common/plan/batch_plan.h"
#include "common/plan/gradient_space.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/shard_plan.h"
#include "common/plan/sum_places.h"
#include "common/plan/zero_stage.h"

namespace dsrun {

std::vector<PlannedTraffic> PlanTraffic(const MemoryInput& input) {
  const ModelPlan model = PlanModel(input.model, input.frozen);
  const FlatLayout layout(model.tensors);
  const ShardPlan shards(layout, input.width, input.bucket_bytes);
  const SumPlaces places(layout, shards, GradientSpace(model, layout), 1);
  const std::vector<int64_t> atoms =
      input.atoms_of_ranks.empty()
          ? BatchPlan(input.micro_batches, input.micro_batches_per_atom, input.width).AtomCounts()
          : input.atoms_of_ranks;
  const bool all = ZeroStageOf(input.zero_stage).slots == ZeroPart::kAll;
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
    for (const OptimizerSlot& slot : kAdamW.slots) {
      if (all) sent.once += ElementBytes(slot.dtype) * copies;
    }
    traffic.push_back(sent);
  }
  return traffic;
}

}  // namespace dsrun
