#include "common/plan/accumulation_plan.h"

#include <string>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

// Sum over a block's micro-batches, in order: "m0+m1+m2".
std::string BlockSum(const BatchPlan& batch, int64_t block) {
  std::string sum;
  const Range micro_batches = batch.BlockMicroBatches(block);
  for (int64_t i = micro_batches.begin; i < micro_batches.end; ++i) {
    sum = sum.empty() ? "m" + std::to_string(i) : "(" + sum + "+m" + std::to_string(i) + ")";
  }
  return sum;
}

std::string NodeSum(const BatchPlan& batch, Range node) {
  if (node.size() == 1) return BlockSum(batch, node.begin);
  return "(" + NodeSum(batch, LeftChild(node)) + "+" + NodeSum(batch, RightChild(node)) + ")";
}

TEST(AccumulationPlanTest, EveryRankEndsWithTheSumsOfItsNodes) {
  for (int64_t micro_batches = 1; micro_batches <= 14; ++micro_batches) {
    for (int64_t blocks = 1; blocks <= micro_batches; ++blocks) {
      for (int64_t width = 1; width <= blocks; ++width) {
        const BatchPlan batch(micro_batches, blocks, width);
        for (int64_t rank = 0; rank < width; ++rank) {
          const AccumulationPlan plan = PlanAccumulation(batch, rank);
          std::vector<std::string> buffers(static_cast<size_t>(plan.buffer_count), "unset");
          for (const AccumulationStep& step : plan.steps) {
            buffers[static_cast<size_t>(step.target)] = "m" + std::to_string(step.micro_batch);
            for (const BufferAdd& add : step.adds) {
              std::string& into = buffers[static_cast<size_t>(add.into)];
              into = "(" + into + "+" + buffers[static_cast<size_t>(add.from)] + ")";
            }
          }
          const std::vector<Range> nodes = batch.RankNodes(rank);
          ASSERT_EQ(plan.node_buffers.size(), nodes.size());
          for (size_t i = 0; i < nodes.size(); ++i) {
            EXPECT_EQ(buffers[static_cast<size_t>(plan.node_buffers[i])], NodeSum(batch, nodes[i]));
          }
        }
      }
    }
  }
}

TEST(AccumulationPlanTest, BuffersGrowWithTheLogarithmOfTheBlocks) {
  EXPECT_EQ(PlanAccumulation(BatchPlan(1, 1, 1), 0).buffer_count, 1);
  EXPECT_EQ(PlanAccumulation(BatchPlan(2, 2, 1), 0).buffer_count, 2);
  EXPECT_EQ(PlanAccumulation(BatchPlan(4, 4, 1), 0).buffer_count, 3);
  EXPECT_EQ(PlanAccumulation(BatchPlan(64, 64, 1), 0).buffer_count, 7);
  EXPECT_EQ(PlanAccumulation(BatchPlan(64, 64, 64), 63).buffer_count, 1);
}

}  // namespace
}  // namespace dsrun
