#include "common/plan/memory_sweep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "common/model/model_plan.h"
#include "common/model/presets.h"
#include "common/plan/library_plan.h"
#include "common/plan/shard_plan.h"
#include "common/plan/zero_stage.h"

namespace dsrun {
namespace {

std::vector<int> BuiltStages() {
  std::vector<int> stages;
  for (const ZeroStage& stage : kZeroStages) {
    stages.push_back(stage.number);
  }
  return stages;
}

SweepInput Sweep(const std::string& preset, int64_t node_bytes) {
  SweepInput input;
  input.job.model = *FindPreset(preset);
  input.job.micro_batch_size = 2;
  input.job.micro_batches = 64;
  input.job.bucket_bytes = DefaultBucketBytes(ParameterCount(input.job.model));
  input.job.threads = 2;
  input.stages = BuiltStages();
  input.widths = {1, 2, 4, 16, 64};
  input.node_bytes = node_bytes;
  input.default_buckets = true;
  return input;
}

MemoryInput At(const SweepInput& input, const SweepCell& cell) {
  MemoryInput job = input.job;
  job.zero_stage = cell.zero_stage;
  job.width = cell.width;
  job.recompute = cell.recompute;
  return job;
}

// The plan that the engine allocates from, rank by rank, and nothing beside it but libraries.
TEST(MemorySweepTest, EveryCell_IsTheEnginesPlan) {
  SweepInput input = Sweep("gpt2-124m", int64_t{4} << 30);
  for (const int64_t of_node : {1, 3}) {
    input.ranks_of_node = of_node;
    for (const SweepCell& cell : PlanTable(input)) {
      MemoryInput job = At(input, cell);
      int64_t largest = 0;
      std::map<int64_t, int64_t> nodes;
      for (job.rank = 0; job.rank < job.width; ++job.rank) {
        const int64_t node = job.rank / of_node;
        const int64_t on_it = std::min(of_node, job.width - node * of_node);
        const int64_t bytes =
            PlanMemory(job).total_bytes() +
            LibraryBytes({.threads = 2, .width = job.width, .ranks_of_machine = on_it});
        largest = std::max(largest, bytes);
        nodes[node] += bytes;
      }
      int64_t fullest = 0;
      for (const auto& [node, bytes] : nodes) fullest = std::max(fullest, bytes);
      EXPECT_EQ(cell.rank_bytes, largest) << cell.zero_stage << " " << cell.width;
      EXPECT_EQ(cell.node_bytes, fullest) << cell.zero_stage << " " << cell.width;
      EXPECT_EQ(cell.fits, fullest <= input.node_bytes);
    }
  }
}

TEST(MemorySweepTest, LinesOfTheLargestRank_AddUpToIt) {
  const SweepInput input = Sweep("gpt2-124m", int64_t{4} << 30);
  for (const SweepCell& cell : PlanTable(input)) {
    int64_t total = 0;
    int64_t before = std::numeric_limits<int64_t>::max();
    for (const PlannedBuffer& line : LargestRank(input, cell)) {
      EXPECT_LE(line.bytes(), before) << line.name;
      before = line.bytes();
      total += line.bytes();
    }
    EXPECT_EQ(total, cell.rank_bytes);
  }
}

// Against all settings that there are, one by one.
TEST(MemorySweepTest, SmallestThatFits_HasNoneBeforeIt) {
  for (const int64_t mebibytes : {1100, 1600, 2000, 2600, 3600, 6000}) {
    const SweepInput input = Sweep("gpt2-124m", mebibytes << 20);
    const std::vector<SweepCell> table = PlanTable(input);
    const auto smallest = SmallestThatFits(input, table);
    bool any = false;
    for (const SweepCell& cell : table) {
      const bool with_all = PlanSetting(input, cell.zero_stage, cell.width, {.every = 1}).fits;
      any = any || cell.fits || with_all;
      if (!cell.fits && !with_all) continue;
      ASSERT_TRUE(smallest.has_value());
      EXPECT_LE(smallest->width, cell.width);
      if (cell.width == smallest->width && cell.fits) {
        EXPECT_FALSE(smallest->recompute.any());
        EXPECT_LE(smallest->zero_stage, cell.zero_stage);
      }
    }
    EXPECT_EQ(any, smallest.has_value()) << mebibytes;
    if (!smallest) continue;
    const SweepCell again =
        PlanSetting(input, smallest->zero_stage, smallest->width, smallest->recompute);
    EXPECT_TRUE(again.fits);
    EXPECT_EQ(again.rank_bytes, smallest->rank_bytes);
    if (smallest->recompute.budget_bytes > 0) {  // with room for one more that is kept it does not
      const Recompute more = {.budget_bytes = smallest->recompute.budget_bytes + (200 << 20)};
      EXPECT_FALSE(PlanSetting(input, smallest->zero_stage, smallest->width, more).fits);
    }
  }
}

TEST(MemorySweepTest, NothingFits_NamesWhatTakesLeast) {
  const SweepInput input = Sweep("gpt2-124m", 1 << 20);
  const std::vector<SweepCell> table = PlanTable(input);
  EXPECT_FALSE(SmallestThatFits(input, table).has_value());
  const SweepCell roomiest = Roomiest(input, table);
  for (const SweepCell& cell : table) EXPECT_LE(roomiest.node_bytes, cell.node_bytes);
  EXPECT_FALSE(LargestPreset(input, roomiest).has_value());
  EXPECT_FALSE(LargestOfFamily(input, roomiest).has_value());
}

TEST(MemorySweepTest, LargestModels_FitAndTheNextDoNot) {
  for (const char* preset : {"gpt2-350m", "llama-1b"}) {
    const SweepInput input = Sweep(preset, int64_t{24} << 30);
    const SweepCell setting = Roomiest(input, PlanTable(input));
    const auto fits = [&](const ModelSpec& model) {
      SweepInput other = input;
      other.job.model = model;
      other.job.bucket_bytes = DefaultBucketBytes(ParameterCount(model));
      return PlanSetting(other, setting.zero_stage, setting.width, setting.recompute).fits;
    };
    const auto largest = LargestPreset(input, setting);
    ASSERT_TRUE(largest.has_value());
    EXPECT_TRUE(fits(*largest));
    for (const std::string& name : PresetNames()) {
      if (ParameterCount(*FindPreset(name)) > ParameterCount(*largest)) {
        EXPECT_FALSE(fits(*FindPreset(name))) << name;
      }
    }
    const auto scaled = LargestOfFamily(input, setting);
    ASSERT_TRUE(scaled.has_value());
    EXPECT_TRUE(fits(*scaled));
    EXPECT_FALSE(fits(Scaled(input.job.model, HeadUnits(*scaled) + 1)));
  }
}

TEST(MemorySweepTest, Scaled_KeepsTheFamilysProportions) {
  for (const std::string& name : PresetNames()) {
    const ModelSpec like = *FindPreset(name);
    ModelSpec same = Scaled(like, HeadUnits(like));
    same.preset = name;
    EXPECT_EQ(same, like) << name;
    for (const int64_t units : {1, 2, 7}) {
      const ModelSpec other = Scaled(like, units);
      EXPECT_EQ(Validate(other), absl::OkStatus()) << name << " " << units;
      EXPECT_EQ(other.head_size(), like.head_size()) << name << " " << units;
      EXPECT_EQ(HeadUnits(other), units) << name;
    }
  }
}

// ---- Against published formulas

struct Rate {
  double whole = 0;
  double shared = 0;
};

Rate SumOf(const std::vector<StateRate>& rates, const std::vector<std::string>& without = {}) {
  Rate sum;
  for (const StateRate& rate : rates) {
    if (std::count(without.begin(), without.end(), rate.name) > 0) continue;
    sum.whole += rate.whole;
    sum.shared += rate.shared;
  }
  return sum;
}

Rate Of(const std::vector<StateRate>& rates, const std::string& name) {
  for (const StateRate& rate : rates) {
    if (rate.name == name) return {rate.whole, rate.shared};
  }
  return {};
}

// DeepSpeed's model-state formulas (Rajbhandari et al., 2020, section 3; the estimators of its
// documentation) are of parameters, gradients and optimizer's state, each held by all or by its
// owner. In bytes for each parameter, and by stage:
//
//   stage 0   w + g + s      stage 1   w + g + s/N      stage 2   w + (g + s)/N     stage 3   (w +
//   g + s)/N
//
// with mixed precision w = g = 2 and s = 12: 16, 4 + 12/N, 2 + 14/N, 16/N. Megatron's for fp32 has
// w = g = 4 and s = 8: 16, 8 + 8/N. Here w, g and s are those of the plan's own lines, so that a
// precision changes them and not the test. Ours differ, and these are all the differences:
//   - beside the sums there is what they are rounded to, once, before the update: of an owner's
//   part
//     (under stage 0 of all of it), `reduced_gradients`;
//   - what a checkpoint is written from, while training goes on: `save_snapshot`, of an owner's
//   part;
//   - tensors that stay gathered under stage 3 are held by all: `persistent_parameters`;
//   - sums of a stage whose table row says so lie with all ranks, whatever the formula has
//     (zero_stage.h).
TEST(MemorySweepTest, FastSums_AreDeepSpeedsFormulasButForStatedDifferences) {
  MemoryInput job;
  job.model = *FindPreset("gpt2-1558m");
  job.micro_batch_size = 1;
  job.micro_batches = 64;
  job.bucket_bytes = 25 << 20;
  job.fast_sums = true;
  MemoryInput one_rank = job;
  one_rank.width = 1;
  const MemoryPlan plan = PlanMemory(one_rank);
  const auto w = static_cast<double>(BytesOf(plan.Find("parameters").dtype));
  const auto g = static_cast<double>(BytesOf(plan.Find("gradient_sums").dtype));
  double s = 0;
  for (const PlannedBuffer& line : plan.buffers) {
    if (line.group == "optimizer") s += static_cast<double>(BytesOf(line.dtype));
  }
  EXPECT_EQ(s, 8) << "AdamW's two moments";
  for (const int number : BuiltStages()) {
    const ZeroStage stage = ZeroStageOf(number);
    const std::vector<StateRate> rates = StateRates(job, number, /*atoms=*/2);
    const auto published = [](double bytes, ZeroPart part) {
      return part == ZeroPart::kAll ? Rate{bytes, 0} : Rate{0, bytes};
    };
    Rate expected;
    for (const Rate& rate :
         {published(w, stage.parameters), published(g, stage.sums), published(s, stage.slots)}) {
      expected.whole += rate.whole;
      expected.shared += rate.shared;
    }
    const Rate ours = SumOf(rates, {"reduced_gradients", "save_snapshot", "persistent_parameters"});
    EXPECT_NEAR(ours.whole, expected.whole, 0.02) << "stage " << number;
    EXPECT_NEAR(ours.shared, expected.shared, 0.02) << "stage " << number;

    const Rate reduced = Of(rates, "reduced_gradients");
    EXPECT_NEAR(reduced.whole, number == 0 ? 4 : 0, 0.01);
    EXPECT_NEAR(reduced.shared, number == 0 ? 0 : 4, 0.01);
    const Rate snapshot = Of(rates, "save_snapshot");
    EXPECT_NEAR(snapshot.whole, 0, 0.01);
    EXPECT_NEAR(snapshot.shared, 4 + s, 0.02);
    EXPECT_LT(Of(rates, "persistent_parameters").whole, 0.1);
  }
}

// DeepSpeed's estimate_zero3 has one layer beside the shares, in its parameters and its gradients.
// Ours has one that is gathered ahead of it, too, with what packing leaves between them, and one
// layer's fresh gradient.
TEST(MemorySweepTest, LiveWorkingSetOfStage3_IsAFewLayers) {
  MemoryInput job;
  job.model = *FindPreset("llama-7b");
  job.micro_batch_size = 1;
  job.micro_batches = 64;
  job.bucket_bytes = 25 << 20;
  job.width = 64;
  job.zero_stage = 3;
  const ModelPlan model = PlanModel(job.model);
  int64_t largest = 0;
  for (const LayerPlan& layer : model.layers) {
    int64_t elements = 0;
    for (const size_t tensor : layer.uses) elements += model.tensors[tensor].size();
    largest = std::max(largest, elements);
  }
  const MemoryPlan plan = PlanMemory(job);
  EXPECT_GE(plan.Find("gathered_parameters").elements, largest - 100'000);
  EXPECT_LE(plan.Find("gathered_parameters").elements, 3 * largest);
  EXPECT_NEAR(static_cast<double>(plan.Find("gradients").elements), static_cast<double>(largest),
              0.001 * static_cast<double>(largest));
}

// 8 and 4 more of it: what exact sums cost is a line.
TEST(MemorySweepTest, ExactSums_TakeFourBytesMore_AndOneAtomNone) {
  MemoryInput job;
  job.model = *FindPreset("gpt2-1558m");
  job.micro_batch_size = 1;
  job.micro_batches = 64;
  job.bucket_bytes = 25 << 20;
  EXPECT_NEAR(Of(StateRates(job, 1, 2), "gradient_sums").whole, 8, 0.01);
  EXPECT_NEAR(Of(StateRates(job, 1, 1), "gradient_sums").whole, 0, 0.01);
  job.fast_sums = true;
  EXPECT_NEAR(Of(StateRates(job, 1, 2), "gradient_sums").whole, 4, 0.01);
}

// The rates are those of the whole model: at two widths, with what does not grow taken away.
TEST(MemorySweepTest, Rates_AreThoseOfDeepModels) {
  for (const char* preset : {"gpt2-350m", "llama-135m"}) {
    for (const int stage : BuiltStages()) {
      MemoryInput job;
      job.model = *FindPreset(preset);
      job.micro_batch_size = 1;
      job.micro_batches = 64;
      job.bucket_bytes = 1 << 20;
      job.zero_stage = stage;
      job.width = 8;
      const auto states = [](const MemoryInput& of) {
        int64_t bytes = 0;
        for (const PlannedBuffer& line : PlanMemory(of).buffers) {
          if (line.group != "activations" && line.group != "workspace") bytes += line.bytes();
        }
        return bytes;
      };
      MemoryInput deeper = job;
      deeper.model.num_layers *= 2;
      const int64_t more = FlatLayout(LogicalTensors(deeper.model)).size() -
                           FlatLayout(LogicalTensors(job.model)).size();
      const Rate rate = SumOf(StateRates(job, stage, /*atoms=*/2));
      EXPECT_NEAR(static_cast<double>(states(deeper) - states(job)) / static_cast<double>(more),
                  rate.whole + rate.shared / 8, 0.1)
          << preset << " " << stage;
    }
  }
}

}  // namespace
}  // namespace dsrun
