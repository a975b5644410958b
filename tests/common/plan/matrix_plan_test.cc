// Which rank orthogonalises which matrix: every one once, in rounds, with bytes that add up.

#include "common/plan/matrix_plan.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/model/model_plan.h"
#include "common/model/presets.h"
#include "common/plan/memory_plan.h"
#include "common/plan/optimizer_settings.h"
#include "common/plan/slot_places.h"
#include "common/plan/traffic_plan.h"

namespace dsrun {
namespace {

FlatLayout LayoutOf(const char* preset, const std::vector<std::string>& frozen = {}) {
  return FlatLayout(PlanModel(*FindPreset(preset), frozen).tensors);
}

MemoryInput Input(int64_t width, int stage) {
  MemoryInput input;
  input.model = *FindPreset("gpt2-nano");
  input.micro_batch_size = 4;
  input.micro_batches = 8;
  input.width = width;
  input.bucket_bytes = 1 << 20;
  input.zero_stage = stage;
  input.optimizer = PlanOf(*FindOptimizer("muon"), {});
  return input;
}

TEST(MatrixPlanTest, EveryHiddenMatrix_HasOneRank_AndARankOneInARound) {
  for (const char* const preset : {"gpt2-nano", "llama-nano"}) {
    const FlatLayout layout = LayoutOf(preset);
    std::set<size_t> hidden;
    for (size_t i = 0; i < layout.entries().size(); ++i) {
      const LogicalTensor& tensor = layout.entries()[i].tensor;
      if (tensor.hidden_matrix) hidden.insert(i);
    }
    for (const int64_t width : {1, 2, 3, 7, 100}) {
      const MatrixPlan plan = PlanMatrices(layout, width);
      std::set<size_t> seen;
      std::set<std::pair<int64_t, int64_t>> places;
      int64_t last = plan.matrices.front().shape.size();
      for (const MatrixPlan::Matrix& matrix : plan.matrices) {
        EXPECT_TRUE(seen.insert(matrix.tensor).second);
        EXPECT_TRUE(places.insert({matrix.round, matrix.rank}).second);
        EXPECT_LT(matrix.rank, width);
        EXPECT_LT(matrix.round, plan.rounds);
        EXPECT_LE(matrix.shape.size(), last) << "the largest come first";
        last = matrix.shape.size();
        EXPECT_LE(matrix.padded.size(), plan.MatrixElements(matrix.rank));
        EXPECT_LE(NewtonSchulzScratch(matrix.shape), plan.ScratchElements(matrix.rank));
      }
      EXPECT_EQ(seen, hidden);
      const auto count = static_cast<int64_t>(hidden.size());
      EXPECT_EQ(plan.rounds, (count + width - 1) / width);
    }
  }
}

TEST(MatrixPlanTest, EmbeddingsHeadsAndVectors_AreNone_NorAreFrozenMatrices) {
  const auto names = [](const FlatLayout& layout) {
    std::set<std::string> names;
    for (const MatrixPlan::Matrix& matrix : PlanMatrices(layout, 1).matrices) {
      names.insert(layout.entries()[matrix.tensor].tensor.name);
    }
    return names;
  };
  const std::set<std::string> gpt2 = names(LayoutOf("gpt2-nano"));
  EXPECT_EQ(gpt2.size(), 4u * 4);
  for (const char* const kind :
       {"attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}) {
    EXPECT_TRUE(gpt2.contains(std::string("h.2.") + kind)) << kind;
  }
  for (const std::string& name : names(LayoutOf("llama-nano"))) {
    EXPECT_NE(name.find("_proj.weight"), std::string::npos) << name;
  }
  EXPECT_EQ(names(LayoutOf("gpt2-nano", {"h.0.mlp.c_fc.weight"})).size(), 15u);
}

TEST(MatrixPlanTest, BytesOfAStep_AreThoseOfTheMatrices) {
  for (const int64_t width : {1, 2, 3, 8}) {
    for (const int stage : {0, 1, 3}) {
      const MemoryInput input = Input(width, stage);
      const FlatLayout layout = LayoutOf("gpt2-nano");
      const ShardPlan shards(layout, width, input.bucket_bytes);
      int64_t there = 0, back = 0;
      for (const MatrixPlan::Matrix& matrix : PlanMatrices(layout, width).matrices) {
        const auto owned = [&](Range of) {
          int64_t mine = 0;
          for (const Range& part : shards.Owned(matrix.rank, of)) mine += part.size();
          return mine;
        };
        const Range flat = layout.entries()[matrix.tensor].flat();
        there += matrix.padded.size() - owned(matrix.padded);
        back += stage == 0 ? flat.size() * (width - 1) : flat.size() - owned(flat);
      }
      int64_t sent = 0;
      for (const PlannedTraffic& of_rank : PlanTraffic(input)) sent += of_rank.matrices;
      EXPECT_EQ(sent, 4 * ((stage == 0 ? 0 : there) + back)) << width << ", stage " << stage;
    }
  }
}

TEST(MatrixPlanTest, MemoryIsOfTheLargestMatrix_AndNoneOfOtherOptimizers) {
  MemoryInput input = Input(3, 1);
  const MatrixPlan plan = PlanMatrices(LayoutOf("gpt2-nano"), 3);
  for (input.rank = 0; input.rank < 3; ++input.rank) {
    const MemoryPlan memory = PlanMemory(input);
    EXPECT_EQ(memory.Find("muon_matrix").elements, plan.MatrixElements(input.rank));
    EXPECT_EQ(memory.Find("muon_scratch").elements, plan.ScratchElements(input.rank));
    EXPECT_GE(memory.Find("leaf_squares").elements * kLeafElements,
              plan.MatrixElements(input.rank));
  }
  EXPECT_EQ(plan.MatrixElements(0), 192 * 768);
  EXPECT_EQ(plan.ScratchElements(0), 192 * 768 + 4 * 192 * 192);
  input.rank = 0;
  input.optimizer = kAdamW;
  for (const PlannedBuffer& line : PlanMemory(input).buffers) {
    EXPECT_FALSE(line.name.starts_with("muon")) << line.name;
  }
}

// Hidden matrices have a momentum; the second moment is of the others alone.
TEST(MatrixPlanTest, SlotsAreOfTheTensorsThatKeepThem) {
  const FlatLayout layout = LayoutOf("gpt2-nano");
  int64_t matrices = 0;
  for (const FlatLayout::Entry& entry : layout.entries()) {
    if (entry.tensor.hidden_matrix) matrices += entry.padded().size();
  }
  for (const int64_t width : {1, 3}) {
    for (const int stage : {0, 1}) {
      int64_t first = 0, second = 0, saved = 0, once = 0;
      for (const MemoryPlan& memory : PlanMemoryOfRanks(Input(width, stage))) {
        first += memory.Find("optimizer.exp_avg").elements;
        second += memory.Find("optimizer.exp_avg_sq").elements;
        saved += memory.Find("save_snapshot").elements;
      }
      for (const PlannedTraffic& sent : PlanTraffic(Input(width, stage))) once += sent.once;
      const int64_t copies = stage == 0 ? width : 1;
      EXPECT_EQ(first, copies * layout.size());
      EXPECT_EQ(second, copies * (layout.size() - matrices));
      const auto tensors = static_cast<int64_t>(layout.entries().size());
      EXPECT_EQ(saved, 3 * layout.size() - matrices + width * tensors);
      EXPECT_EQ(once, stage == 1 ? 0 : 4 * (2 * layout.size() - matrices) * (width - 1));
    }
  }
}

TEST(SlotPlacesTest, PartsOfASlot_AreMaximal_AndOfItsTensors) {
  const FlatLayout layout({{.name = "a", .shape = {2000}},
                           {.name = "b", .shape = {10}},
                           {.name = "w", .shape = {40, 40}, .hidden_matrix = true},
                           {.name = "c", .shape = {3000}}});
  const OptimizerSlot& all = muon_optimizer::kSlots[0];
  const OptimizerSlot& others = muon_optimizer::kSlots[1];
  const std::vector<Range> ranges = {{0, 1024}, {2048, 8192}};  // b whole, w whole, part of c
  EXPECT_EQ(PartsWithSlot(layout, all, ranges), ranges);
  EXPECT_EQ(PartsWithSlot(layout, others, ranges),
            (std::vector<Range>{{0, 1024}, {2048, 3072}, {5120, 8192}}));
  EXPECT_EQ(ElementsWithSlot(layout, others, ranges), 1024 + 1024 + 3072);
  EXPECT_TRUE(KeepsAll(kAdamW));
  EXPECT_FALSE(KeepsAll(PlanOf(*FindOptimizer("muon"), {})));
}

TEST(MatrixPlanTest, Gram_TakesLessArithmeticOfLongMatrices) {
  const auto ratio = [](MatrixShape shape) {
    return NewtonSchulzFlops(NsMethod::kGram, shape) /
           NewtonSchulzFlops(NsMethod::kStandard, shape);
  };
  EXPECT_EQ(ratio({64, 64}), 1);
  EXPECT_LT(ratio({64, 256}), 0.7);
  EXPECT_EQ(ratio({64, 256}), ratio({256, 64}));
}

}  // namespace
}  // namespace dsrun
