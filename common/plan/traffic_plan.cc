#include "common/plan/traffic_plan.h"

#include <cstddef>

#include "common/model/model_plan.h"
#include "common/plan/batch_plan.h"
#include "common/plan/gather_plan.h"
#include "common/plan/gradient_space.h"
#include "common/plan/matrix_plan.h"
#include "common/plan/optimizer_plan.h"
#include "common/plan/recompute_plan.h"
#include "common/plan/shard_plan.h"
#include "common/plan/slot_places.h"
#include "common/plan/step_rounds.h"
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
  const int64_t passes =
      StepRounds(SizesOfAtoms(batch), ZeroStageOf(input.zero_stage).sums).AllPasses();
  std::vector<int64_t> times(layout.entries().size());
  const std::vector<Range> segments = RecomputedSegments(
      model, input.micro_batch_size * input.model.seq_length, /*slots=*/1, input.recompute);
  for (const GatherPlan::Gather& gather :
       PlanGathers(model, layout, lowest_layer, PassKind::kTraining, zero, segments).gathers) {
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
  const ZeroStage& stage = ZeroStageOf(input.zero_stage);
  const SumPlaces places(layout, shards, space, 1, stage.sums);
  const std::vector<int64_t> atoms =
      input.atoms_of_ranks.empty()
          ? BatchPlan(input.micro_batches, input.micro_batches_per_atom, input.width).AtomCounts()
          : input.atoms_of_ranks;
  const bool all = stage.slots == ZeroPart::kAll;
  MatrixPlan matrices;
  if (OrthogonalisesMatrices(input.optimizer)) matrices = PlanMatrices(layout, input.width);
  std::vector<int64_t> gathers;
  if (input.zero_stage == 3) gathers = GathersOfStep(input, model, layout, space.lowest_layer());
  std::vector<PlannedTraffic> traffic;
  for (int64_t rank = 0; rank < input.width; ++rank) {
    PlannedTraffic sent;
    const int64_t contributions = atoms[static_cast<size_t>(rank)];
    for (const SumPlaces::Part& part : places.parts()) {
      int64_t others = part.range.size();
      for (const Range& mine : shards.Owned(rank, part.range)) others -= mine.size();
      if (places.of_owners()) {
        sent.reduce += contributions * others * 4;
      } else {
        const bool floats =
            input.fast_sums || (contributions == 1 && places.used_once(part.bucket));
        sent.reduce += others * (floats ? 4 : 8);
      }
    }
    const int64_t copies = shards.OwnedSize(rank) * (input.width - 1);
    // Stage 0 gathers gradients, which are fp32; the others parameters, as layers read them.
    const int64_t bytes = all ? 4 : BytesOf(input.precision);
    sent.gather = bytes * copies;
    if (input.zero_stage == 3) {
      sent.gather = bytes * (input.width - 1) * ElementsOf(rank, gathers, layout, shards);
    }
    for (const OptimizerSlot& slot : input.optimizer.slots) {
      if (!all) continue;
      sent.once += BytesOf(slot.dtype) * (input.width - 1) *
                   ElementsWithSlot(layout, slot, shards.Owned(rank));
    }
    sent.matrices = MatrixBytes(matrices, layout, shards, rank, all);
    traffic.push_back(sent);
  }
  return traffic;
}

}  // namespace dsrun
