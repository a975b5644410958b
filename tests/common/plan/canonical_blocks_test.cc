#include "common/plan/canonical_blocks.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(EvenPartTest, PartsAreConsecutiveAndDifferByAtMostOne) {
  for (int64_t total = 0; total <= 20; ++total) {
    for (int64_t count = 1; count <= 20; ++count) {
      int64_t next = 0;
      for (int64_t index = 0; index < count; ++index) {
        const Range part = EvenPart(total, count, index);
        EXPECT_EQ(part.begin, next);
        EXPECT_GE(part.size(), total / count);
        EXPECT_LE(part.size(), total / count + 1);
        next = part.end;
      }
      EXPECT_EQ(next, total);
    }
  }
}

// The sum as an expression, e.g. "((0+1)+2)": what the fixed tree means, written down independently
// of ranks.
std::string Expression(Range node) {
  if (node.size() == 1) return std::to_string(node.begin);
  return "(" + Expression(LeftChild(node)) + "+" + Expression(RightChild(node)) + ")";
}

TEST(TreeTest, LeftChildHasTheLargestPowerOfTwoBelow) {
  EXPECT_EQ(Expression({0, 1}), "0");
  EXPECT_EQ(Expression({0, 3}), "((0+1)+2)");
  EXPECT_EQ(Expression({0, 4}), "((0+1)+(2+3))");
  EXPECT_EQ(Expression({0, 6}), "(((0+1)+(2+3))+(4+5))");
}

TEST(BatchPlanTest, AnyWidthAddsInTheSameTree) {
  for (int64_t blocks = 1; blocks <= 24; ++blocks) {
    const std::string whole = Expression({0, blocks});
    for (int64_t width = 1; width <= blocks; ++width) {
      const BatchPlan plan(blocks, blocks, width);
      const std::vector<Range> nodes = plan.AllNodes();
      int64_t next = 0;
      std::vector<std::string> slots;
      for (const Range& node : nodes) {
        EXPECT_EQ(node.begin, next);
        next = node.end;
        slots.push_back(Expression(node));
      }
      EXPECT_EQ(next, blocks);
      for (const TreeAdd& add : JoinOrder(nodes, blocks)) {
        std::string& into = slots[static_cast<size_t>(add.into)];
        into = "(" + into + "+" + slots[static_cast<size_t>(add.from)] + ")";
      }
      EXPECT_EQ(slots[0], whole) << "blocks " << blocks << " width " << width;
    }
  }
}

TEST(BatchPlanTest, MicroBatchesArePartitionedInOrder) {
  for (int64_t micro_batches = 1; micro_batches <= 13; ++micro_batches) {
    for (int64_t blocks = 1; blocks <= micro_batches; ++blocks) {
      for (int64_t width = 1; width <= blocks; ++width) {
        const BatchPlan plan(micro_batches, blocks, width);
        int64_t next = 0;
        for (int64_t rank = 0; rank < width; ++rank) {
          const Range mine = plan.RankMicroBatches(rank);
          EXPECT_EQ(mine.begin, next);
          EXPECT_FALSE(mine.empty());
          next = mine.end;
        }
        EXPECT_EQ(next, micro_batches);
      }
    }
  }
}

TEST(BatchPlanTest, PowerOfTwoWidthsSendOnePartialSum) {
  for (const int64_t width : {1, 2, 4, 8, 16}) {
    const BatchPlan plan(16, 16, width);
    for (int64_t rank = 0; rank < width; ++rank) EXPECT_EQ(plan.RankNodes(rank).size(), 1u);
  }
}

TEST(DefaultCanonicalBlocksTest, DoNotDependOnTheWidthUpToFourRanks) {
  for (const int64_t width : {1, 2, 3, 4}) {
    EXPECT_EQ(DefaultCanonicalBlocks(128, width), 16);
    EXPECT_EQ(DefaultCanonicalBlocks(8, width), 8);
  }
  EXPECT_EQ(DefaultCanonicalBlocks(128, 8), 32);
  EXPECT_EQ(DefaultCanonicalBlocks(24, 8), 24);
}

TEST(ValidateBatchPlanTest, WidthBeyondTheMicroBatches_IsToldWhatWouldFit) {
  const std::string text(ValidateBatchPlan(2, 2, 5).message());
  EXPECT_NE(text.find("width 5 is more than the 2 micro-batches"), std::string::npos) << text;
  EXPECT_NE(text.find("use at most 2 ranks"), std::string::npos) << text;
}

TEST(ValidateBatchPlanTest, RefusalsCarryTheNumbers) {
  EXPECT_TRUE(ValidateBatchPlan(8, 8, 4).ok());
  const absl::Status wide = ValidateBatchPlan(8, 4, 6);
  EXPECT_EQ(wide.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(wide.message()).find("width 6 is more than the 4 canonical blocks"),
            std::string::npos);
  EXPECT_EQ(ValidateBatchPlan(4, 8, 2).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ValidateBatchPlan(0, 1, 1).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace dsrun
