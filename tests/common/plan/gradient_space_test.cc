#include "common/plan/gradient_space.h"

#include <vector>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

// Three layers over four tensors; the last uses the first's second tensor again.
ModelPlan Tied() {
  ModelPlan plan;
  for (const int64_t size : {1000, 1025, 3000, 10}) {
    plan.tensors.push_back({.name = "t" + std::to_string(plan.tensors.size()), .shape = {size}});
  }
  const auto layer = [&](std::vector<size_t> uses) {
    plan.layers.push_back({.kind = LayerKind::kMlp,
                           .name = "layer",
                           .uses = std::move(uses),
                           .kept = {},
                           .workspace = {},
                           .flops_of_token = 0});
  };
  layer({0, 1});
  layer({2});
  layer({3, 1});
  return plan;
}

TEST(GradientSpaceTest, EveryUseHasAPlaceOfWholeLeavesInItsLayersWindow) {
  const ModelPlan plan = Tied();
  const FlatLayout layout(plan.tensors);
  const GradientSpace space(plan, layout);
  ASSERT_EQ(space.layers(), 3u);
  const std::vector<std::vector<int64_t>> offsets = {{0, 1024}, {0}, {0, 1024}};
  const std::vector<int64_t> begins = {0, 3072, 6144};
  for (size_t layer = 0; layer < 3; ++layer) {
    EXPECT_EQ(space.window_begin(layer), begins[layer]) << layer;
    ASSERT_EQ(space.uses(layer).size(), plan.layers[layer].uses.size());
    for (size_t use = 0; use < space.uses(layer).size(); ++use) {
      EXPECT_EQ(space.uses(layer)[use].tensor, plan.layers[layer].uses[use]);
      EXPECT_EQ(space.uses(layer)[use].offset, offsets[layer][use]) << layer << " " << use;
    }
  }
  EXPECT_EQ(space.size(), 9216);
  EXPECT_EQ(space.largest_window(), 3072);
}

// What the head has done of a tied tensor is not the last of it.
TEST(GradientSpaceTest, ATensorIsFinalAfterTheLowestLayerThatUsesIt) {
  const ModelPlan plan = Tied();
  const FlatLayout layout(plan.tensors);
  const GradientSpace space(plan, layout);
  EXPECT_EQ(space.FinalFrom(2), layout.Find("t3").offset);
  EXPECT_EQ(space.FinalFrom(1), layout.Find("t2").offset);
  EXPECT_EQ(space.FinalFrom(0), 0);
}

TEST(GradientSpaceTest, EveryUseOfEveryAtomIsAContribution) {
  const ModelPlan plan = Tied();
  const FlatLayout layout(plan.tensors);
  EXPECT_EQ(GradientSpace(plan, layout).Contributions(6), (std::vector<int64_t>{6, 12, 6, 6}));
}

TEST(GradientSpaceTest, FrozenTensors_HaveNoPlaceAndTheirLayersAreNotReached) {
  ModelPlan plan = Tied();
  // The order that PlanModel gives: t2, t3 train, t0 and t1 do not.
  const std::vector<LogicalTensor> before = plan.tensors;
  plan.tensors = {before[2], before[3], before[0], before[1]};
  plan.tensors[2].trainable = plan.tensors[3].trainable = false;
  plan.layers[0].uses = {2, 3};
  plan.layers[1].uses = {0};
  plan.layers[2].uses = {1, 3};
  const FlatLayout layout(plan.tensors);
  const GradientSpace space(plan, layout);
  EXPECT_EQ(space.lowest_layer(), 1u);
  EXPECT_TRUE(space.uses(0).empty());
  ASSERT_EQ(space.uses(2).size(), 1u);
  EXPECT_EQ(space.uses(2)[0].tensor, 1u);
  EXPECT_EQ(space.uses(2)[0].use, 0u);
  EXPECT_EQ(space.planned_uses(2), 2u);
  EXPECT_EQ(space.Contributions(6), (std::vector<int64_t>{6, 6}));
  EXPECT_EQ(space.size(), 3072 + 1024);
  EXPECT_EQ(space.FinalFrom(1), 0);
}

}  // namespace
}  // namespace dsrun
