#include "common/plan/memory_plan.h"

#include "common/model/presets.h"
#include "common/plan/gradient_space.h"
#include "common/plan/shard_plan.h"
#include "common/plan/traffic_plan.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

MemoryInput Nano(int64_t width, int64_t rank) {
  MemoryInput input;
  input.model = *FindPreset("gpt2-nano");
  input.micro_batch_size = 4;
  input.micro_batches = 8;
  input.width = width;
  input.rank = rank;
  input.bucket_bytes = 1 << 20;
  return input;
}

TEST(MemoryPlanTest, OptimizerStatesAreSharedOut) {
  const FlatLayout layout(LogicalTensors(*FindPreset("gpt2-nano")));
  for (const int64_t width : {1, 2, 3, 8}) {
    int64_t moments = 0;
    for (int64_t rank = 0; rank < width; ++rank) {
      const MemoryPlan plan = PlanMemory(Nano(width, rank));
      EXPECT_EQ(plan.Find("parameters").elements, layout.size());
      moments += plan.Find("optimizer.exp_avg").elements;
      EXPECT_EQ(plan.Find("optimizer.exp_avg").elements,
                plan.Find("optimizer.exp_avg_sq").elements);
    }
    EXPECT_EQ(moments, layout.size()) << "width " << width;
  }
}

// However many micro-batches a rank has, if more than one: 4 bytes of the layer that is computed, 8
// of their sum, and 4 of what it owns of the result.
TEST(MemoryPlanTest, GradientsTakeAWindowAndTheirSums) {
  const ModelPlan model = PlanModel(*FindPreset("gpt2-nano"));
  const FlatLayout layout(model.tensors);
  const GradientSpace space(model, layout);
  for (const int64_t width : {1, 2, 4}) {
    MemoryInput input = Nano(width, 0);
    const MemoryPlan plan = PlanMemory(input);
    EXPECT_EQ(plan.Find("gradients").bytes(), 4 * space.largest_window());
    EXPECT_EQ(plan.Find("gradient_sums").bytes(), 8 * layout.size());
    EXPECT_EQ(plan.Find("reduced_gradients").elements, plan.Find("optimizer.exp_avg").elements);
    input.micro_batches_per_atom = 2;
    EXPECT_EQ(PlanMemory(input).Find("atom_gradients").bytes(), 4 * space.size());
  }
}

int64_t GradientBytes(const MemoryPlan& plan) {
  int64_t bytes = 0;
  for (const PlannedBuffer& buffer : plan.buffers) {
    const bool sums = buffer.name == "gradient_sums" || buffer.name == "gradient_slots" ||
                      buffer.name == "reduced_gradients";
    if (sums) bytes += buffer.bytes();
  }
  return bytes;
}

// 8 ranks, 8 micro-batches: slots for three buckets, sums for those that the tied embedding is in,
// and the owned share; less than the 8/N that sums of the owned share alone would take, beside
// them.
TEST(MemoryPlanTest, ARankWithOneMicroBatch_HoldsNoSumsButOfTiedTensors) {
  const ModelPlan model = PlanModel(*FindPreset("gpt2-nano"));
  const FlatLayout layout(model.tensors);
  MemoryInput input = Nano(8, 0);
  input.bucket_bytes = 256 << 10;
  const MemoryPlan plan = PlanMemory(input);
  const int64_t bucket = input.bucket_bytes / 4;
  EXPECT_EQ(plan.Find("gradient_slots").elements, 3 * bucket);
  const int64_t tied = layout.entries()[0].padded().size();
  EXPECT_GE(plan.Find("gradient_sums").elements, tied);
  EXPECT_LE(plan.Find("gradient_sums").elements, tied + bucket);
  EXPECT_LE(GradientBytes(plan), 8 * layout.size() / 8 + 8 * (tied + bucket) + 4 * 3 * bucket);
  input.width = 7;  // the first has two
  EXPECT_EQ(PlanMemory(input).Find("gradient_sums").elements, layout.size());
  input.rank = 6;
  EXPECT_EQ(PlanMemory(input).Find("gradient_sums").elements, plan.Find("gradient_sums").elements);
  input.atoms_of_ranks = {1, 1, 1, 1, 1, 1, 2};
  EXPECT_EQ(PlanMemory(input).Find("gradient_sums").elements, layout.size());
}

TEST(MemoryPlanTest, OneRankNeedsNoCommunication) {
  EXPECT_EQ(PlanMemory(Nano(1, 0)).Find("reduce_scratch").bytes(), 0);
  EXPECT_GT(PlanMemory(Nano(2, 0)).Find("reduce_scratch").bytes(), 0);
}

TEST(MemoryPlanTest, TotalIsTheSumOfItsLines) {
  const MemoryPlan plan = PlanMemory(Nano(2, 1));
  int64_t total = 0;
  for (const PlannedBuffer& buffer : plan.buffers) {
    EXPECT_FALSE(buffer.formula.empty()) << buffer.name;
    total += buffer.elements * BytesOf(buffer.dtype);
  }
  EXPECT_EQ(plan.total_bytes(), total);
}

TEST(MemoryPlanTest, ZeroStage0_HoldsGradientsAndSlotsOfAllOwners) {
  for (const int64_t width : {1, 3}) {
    MemoryInput input = Nano(width, 0);
    input.zero_stage = 0;
    const int64_t all = FlatLayout(LogicalTensors(input.model)).size();
    for (const MemoryPlan& plan : PlanMemoryOfRanks(input)) {
      EXPECT_EQ(plan.Find("optimizer.exp_avg").elements, all);
      EXPECT_EQ(plan.Find("optimizer.exp_avg_sq").elements, all);
      EXPECT_EQ(plan.Find("reduced_gradients").elements, all);
    }
  }
}

// The owner's share of the sums alone, whoever adds what: of everything where a rank has several
// atoms; else of the buckets with the tied table, which gets two contributions.
TEST(MemoryPlanTest, ZeroStage2_SharesTheSumsOut) {
  const FlatLayout layout(LogicalTensors(*FindPreset("gpt2-nano")));
  const int64_t tied_end = layout.Find("wte.weight").padded().end;
  for (const int64_t width : {1, 2, 3, 8}) {
    MemoryInput input = Nano(width, 0);
    input.zero_stage = 2;
    int64_t expected = layout.size();
    if (width == 8) {
      expected = 0;
      const ShardPlan shards(layout, width, input.bucket_bytes);
      for (const Range& bucket : shards.buckets()) {
        if (bucket.begin < tied_end) expected += bucket.size();
      }
      EXPECT_LT(expected, layout.size());
    }
    int64_t sums = 0;
    for (const MemoryPlan& plan : PlanMemoryOfRanks(input)) {
      EXPECT_EQ(plan.Find("gradient_sums").dtype, DType::kI64);
      EXPECT_LE(plan.Find("gradient_slots").bytes(), 4 * input.bucket_bytes);
      sums += plan.Find("gradient_sums").elements;
    }
    EXPECT_EQ(sums, expected) << "width " << width;
  }
}

// Every atom's gradients go to their owners, those of the tied table once a use; who takes part in
// a round with nothing sends nothing.
TEST(TrafficPlanTest, ZeroStage2_SendsEveryAtom) {
  const ModelPlan model = PlanModel(*FindPreset("gpt2-nano"));
  const FlatLayout layout(model.tensors);
  const int64_t contributions = GradientSpace(model, layout).size();
  EXPECT_EQ(contributions, layout.size() + layout.Find("wte.weight").padded().size());
  for (const int64_t width : {1, 2, 3, 8}) {
    MemoryInput input = Nano(width, 0);
    input.zero_stage = 2;
    for (const bool fast : {false, true}) {
      input.fast_sums = fast;
      int64_t reduce = 0, gather = 0;
      for (const PlannedTraffic& sent : PlanTraffic(input)) {
        reduce += sent.reduce;
        gather += sent.gather;
      }
      EXPECT_EQ(gather, 4 * layout.size() * (width - 1));
      // Of three ranks the last has two atoms, not three.
      if (width != 3) {
        EXPECT_EQ(reduce, 8 / width * 4 * contributions * (width - 1));
      } else {
        EXPECT_LT(reduce, 3 * 4 * contributions * (width - 1));
        EXPECT_GT(reduce, 2 * 4 * contributions * (width - 1));
      }
    }
  }
}

// What leaves a rank arrives: all owners' shares at width - 1 others, all ranks' sums at owners.
TEST(TrafficPlanTest, TotalsOverRanks_AreThoseOfTheModel) {
  for (const int64_t width : {1, 2, 3}) {
    MemoryInput input = Nano(width, 0);
    const int64_t elements = FlatLayout(LogicalTensors(input.model)).size();
    input.fast_sums = true;
    for (const int stage : {0, 1}) {
      input.zero_stage = stage;
      PlannedTraffic total;
      for (const PlannedTraffic& sent : PlanTraffic(input)) {
        total.reduce += sent.reduce;
        total.gather += sent.gather;
        total.once += sent.once;
      }
      EXPECT_EQ(total.reduce, 4 * elements * (width - 1));
      EXPECT_EQ(total.gather, 4 * elements * (width - 1));
      EXPECT_EQ(total.once, stage == 0 ? 8 * elements * (width - 1) : 0);
    }
  }
}

// Everything that training costs beside parameters and activations covers the trainable share.
TEST(MemoryPlanTest, FrozenTensors_CostNoGradientsAndNoMoments) {
  for (const int64_t width : {1, 2, 3}) {
    MemoryInput input = Nano(width, 0);
    int64_t trained = 0;
    for (const LogicalTensor& tensor : LogicalTensors(input.model)) {
      if (tensor.name.starts_with("h.1.")) {
        trained += (tensor.size() + kLeafElements - 1) / kLeafElements * kLeafElements;
      } else {
        input.frozen.push_back(tensor.name);
      }
    }
    const FlatLayout layout(LogicalTensors(input.model));
    int64_t moments = 0, reduced = 0, saved = 0;
    for (const MemoryPlan& plan : PlanMemoryOfRanks(input)) {
      EXPECT_EQ(plan.Find("parameters").elements, layout.size());
      EXPECT_EQ(plan.Find("gradient_sums").bytes(), 8 * trained);
      EXPECT_EQ(plan.Find("optimizer.exp_avg_sq").elements,
                plan.Find("optimizer.exp_avg").elements);
      moments += plan.Find("optimizer.exp_avg").elements;
      reduced += plan.Find("reduced_gradients").elements;
      saved += plan.Find("save_snapshot").elements;
    }
    EXPECT_EQ(moments, trained);
    EXPECT_EQ(reduced, trained);
    EXPECT_EQ(saved, layout.size() + 2 * trained + 12 * width) << "12 tensors train";
  }
}

}  // namespace
}  // namespace dsrun
