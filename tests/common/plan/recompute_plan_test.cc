#include "common/plan/recompute_plan.h"

#include <string>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

// Embedding, then attention and MLP of each block, then the head: 12 layers.
ModelPlan FiveBlocks() { return PlanModel({"", 5, 48, 4, 40, 300}); }

TEST(RecomputePlanTest, Every_CutsAllBlocksIntoSegments) {
  const ModelPlan model = FiveBlocks();
  const auto segments = [&](int64_t every) {
    return RecomputedSegments(model, 40, 1, {.every = every});
  };
  EXPECT_EQ(segments(0), std::vector<Range>());
  EXPECT_EQ(segments(1), (std::vector<Range>{{1, 3}, {3, 5}, {5, 7}, {7, 9}, {9, 11}}));
  EXPECT_EQ(segments(2), (std::vector<Range>{{1, 5}, {5, 9}, {9, 11}}));
  EXPECT_EQ(segments(5), (std::vector<Range>{{1, 11}}));
  EXPECT_EQ(segments(int64_t{1} << 62), (std::vector<Range>{{1, 11}}));
  EXPECT_EQ(BlocksOf(model, segments(2)), 5);
}

// For every budget: it fits, and with one block less it would not.
TEST(RecomputePlanTest, Budget_IsMetByTheFewestBlocks) {
  const ModelPlan model = FiveBlocks();
  for (const int64_t slots : {1, 3}) {
    const int64_t most = KeptBytes(model, 40, slots, {});
    const int64_t least =
        KeptBytes(model, 40, slots, RecomputedSegments(model, 40, slots, {.every = 1}));
    ASSERT_LT(least, most);
    for (int64_t budget = least; budget <= most + 64; budget += 61) {
      const Recompute recompute{.budget_bytes = budget};
      EXPECT_EQ(CheckRecompute(model, 40, slots, recompute), absl::OkStatus());
      std::vector<Range> segments = RecomputedSegments(model, 40, slots, recompute);
      EXPECT_LE(KeptBytes(model, 40, slots, segments), budget);
      if (segments.empty()) continue;
      segments.pop_back();
      EXPECT_GT(KeptBytes(model, 40, slots, segments), budget);
    }
    EXPECT_FALSE(CheckRecompute(model, 40, slots, {.budget_bytes = least - 1}).ok());
  }
}

TEST(RecomputePlanTest, BothKinds_AreRefused) {
  EXPECT_FALSE(CheckRecompute(FiveBlocks(), 40, 1, {.every = 1, .budget_bytes = 1 << 30}).ok());
  EXPECT_FALSE(CheckRecompute(FiveBlocks(), 40, 1, {.every = -1}).ok());
  EXPECT_EQ(CheckRecompute(FiveBlocks(), 40, 1, {}), absl::OkStatus());
}

TEST(RecomputePlanTest, Flops_AreThoseOfTheSegmentsForward) {
  const ModelPlan model = FiveBlocks();
  const auto of = [&](int64_t every) {
    return RecomputedFlopsOfToken(model, RecomputedSegments(model, 40, 1, {.every = every}));
  };
  EXPECT_EQ(of(0), 0);
  EXPECT_EQ(of(1), of(5));
  double forward = 0;
  for (const LayerPlan& layer : model.layers) forward += layer.flops_of_token;
  EXPECT_EQ(of(1),
            forward - model.layers.back().flops_of_token - model.layers.front().flops_of_token);
}

}  // namespace
}  // namespace dsrun
