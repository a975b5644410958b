#include "common/plan/activation_plan.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

using Pieces = std::vector<std::pair<int64_t, int64_t>>;  // begin, end

int64_t Bytes(const PlannedActivation& activation, const ActivationInput& input, int64_t rows) {
  int64_t count = rows;
  if (activation.per == PlannedActivation::Per::kHeadRow) count = std::min(rows, kHeadRows);
  if (activation.per == PlannedActivation::Per::kThread) count = input.threads;
  return count * activation.elements * activation.element_bytes;
}

void ExpectApart(Pieces pieces, int64_t total) {
  std::sort(pieces.begin(), pieces.end());
  int64_t end = 0;
  for (const auto& [begin, stop] : pieces) {
    EXPECT_EQ(begin % 64, 0);
    EXPECT_GE(begin, end);
    EXPECT_GT(stop, begin);
    end = stop;
  }
  EXPECT_LE(end, total);
}

// What lives at the same time lies apart: all slots, and with them one layer's workspace.
TEST(ActivationPlanTest, NothingThatLivesTogetherOverlaps) {
  const ModelPlan model = PlanModel({"", 3, 48, 4, 200, 300});
  for (const ActivationInput input : {ActivationInput{1, 1, 1}, ActivationInput{5, 2, 3}}) {
    const ActivationPlan plan(model, input);
    const int64_t rows = input.micro_batch_size * model.spec.seq_length;
    const int64_t stream = rows * model.spec.hidden_size * 4;
    Pieces always = {{plan.stream_gradient(), plan.stream_gradient() + stream}};
    for (int64_t index = 0; index < input.slots; ++index) {
      const ActivationPlan::Slot& slot = plan.slot(static_cast<size_t>(index));
      always.push_back({slot.tokens, slot.tokens + rows * 4});
      always.push_back({slot.targets, slot.targets + rows * 4});
      ASSERT_EQ(slot.streams.size() + 1, model.layers.size());
      for (const int64_t at : slot.streams) always.push_back({at, at + stream});
      for (size_t layer = 0; layer < model.layers.size(); ++layer) {
        ASSERT_EQ(slot.kept[layer].size(), model.layers[layer].kept.size());
        for (size_t i = 0; i < slot.kept[layer].size(); ++i) {
          const int64_t at = slot.kept[layer][i];
          always.push_back({at, at + Bytes(model.layers[layer].kept[i], input, rows)});
        }
      }
    }
    for (size_t layer = 0; layer < model.layers.size(); ++layer) {
      Pieces now = always;
      ASSERT_EQ(plan.workspace(layer).size(), model.layers[layer].workspace.size());
      for (size_t i = 0; i < plan.workspace(layer).size(); ++i) {
        const int64_t at = plan.workspace(layer)[i];
        now.push_back({at, at + Bytes(model.layers[layer].workspace[i], input, rows)});
      }
      ExpectApart(now, plan.total_bytes());
    }
  }
}

TEST(ActivationPlanTest, LinesAddUpToTheArena) {
  const ModelPlan model = PlanModel({"", 3, 48, 4, 20, 300});
  const ActivationPlan plan(model, {.micro_batch_size = 3, .threads = 2, .slots = 2});
  int64_t total = 0;
  std::vector<std::string> names;
  for (const PlannedBuffer& line : plan.lines()) {
    EXPECT_EQ(std::count(names.begin(), names.end(), line.name), 0) << line.name;
    EXPECT_FALSE(line.formula.empty()) << line.name;
    names.push_back(line.name);
    total += line.bytes();
  }
  EXPECT_EQ(total, plan.total_bytes());
}

// The whole matrix of logits never exists: beyond kHeadRows rows it does not grow.
TEST(ActivationPlanTest, LogitsDoNotGrowWithTheMicroBatch) {
  const ModelPlan model = PlanModel({"", 1, 8, 1, 1024, 50257});
  const auto workspace = [&](int64_t batch) {
    const ActivationPlan plan(model, {.micro_batch_size = batch});
    for (const PlannedBuffer& line : plan.lines()) {
      if (line.name == "workspace.layer") return line.bytes();
    }
    return int64_t{0};
  };
  const int64_t stream = 1024 * 8 * 4;  // more of the head's dnormed
  EXPECT_GE(workspace(1), kHeadRows * 50257 * 4);
  EXPECT_EQ(workspace(4), workspace(1) + 3 * stream);
}

}  // namespace
}  // namespace dsrun
