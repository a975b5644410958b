// Each setting changes the list of gathers, the pool and the traffic to what is predicted by hand.

#include "common/plan/gather_plan.h"

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace dsrun {
namespace {

constexpr int64_t kK = 1024;  // a leaf

// Four layers: a table and a bias; two blocks of one matrix each; a head of its own matrix and of
// the table again. Leaves: table 8, bias 1 (of 100 elements), blocks 4 and 4, head 2.
ModelPlan Tied() {
  ModelPlan plan;
  for (const int64_t size : {8 * kK, int64_t{100}, 4 * kK, 4 * kK, 2 * kK}) {
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
  layer({0, 1});  // 9 leaves
  layer({2});     // 4
  layer({3});     // 4
  layer({4, 0});  // 10
  return plan;
}

// Nothing ahead, nothing kept but from one position to the next, nothing persistent.
ZeroSettings Least() {
  return {.prefetch = 0,
          .persistence_threshold = 0,
          .max_live_parameters = 0,
          .max_reuse_distance = 0,
          .sub_group_size = 1};
}

GatherPlan Plan(const ZeroSettings& settings, PassKind kind = PassKind::kTraining,
                size_t lowest_layer = 0, const std::vector<Range>& segments = {}) {
  const ModelPlan model = Tied();
  return PlanGathers(model, FlatLayout(model.tensors), lowest_layer, kind, settings, segments);
}

// Layers in the order in which they are played, "b" before those that are played backward.
std::string Positions(const GatherPlan& plan) {
  std::string text;
  for (const GatherPlan::Position& position : plan.positions) {
    text += (position.backward ? "b" : "") + std::to_string(position.layer);
  }
  return text;
}

// "at>for:tensors", in order.
std::string Gathers(const GatherPlan& plan) {
  std::string text;
  for (const GatherPlan::Gather& gather : plan.gathers) {
    text += (text.empty() ? "" : " ") + std::to_string(gather.at) + ">" +
            std::to_string(gather.for_) + ":";
    for (const GatherPlan::Place& place : gather.tensors) text += std::to_string(place.tensor);
  }
  return text;
}

// No two tensors that live together share bytes, by the plan's own offsets.
void ExpectPlacesApart(const GatherPlan& plan) {
  const ModelPlan model = Tied();
  const FlatLayout layout(model.tensors);
  std::vector<int> owner(static_cast<size_t>(plan.pool_elements), -1);
  size_t next = 0;
  for (size_t at = 0; at < plan.positions.size(); ++at) {
    // A gather overwrites what was there; what a position uses must be what was gathered last.
    for (; next < plan.gathers.size() && plan.gathers[next].at == at; ++next) {
      for (const GatherPlan::Place& place : plan.gathers[next].tensors) {
        const int64_t size = layout.entries()[place.tensor].padded().size();
        ASSERT_LE(place.offset + size, plan.pool_elements);
        EXPECT_EQ(place.offset % kLeafElements, 0);
        for (int64_t i = 0; i < size; ++i) {
          owner[static_cast<size_t>(place.offset + i)] = static_cast<int>(place.tensor);
        }
      }
    }
    const GatherPlan::Position& position = plan.positions[at];
    for (size_t use = 0; use < position.offsets.size(); ++use) {
      if (position.offsets[use] < 0) continue;
      const size_t tensor = model.layers[position.layer].uses[use];
      for (int64_t i = 0; i < layout.entries()[tensor].padded().size(); ++i) {
        ASSERT_EQ(owner[static_cast<size_t>(position.offsets[use] + i)], static_cast<int>(tensor))
            << "position " << at;
      }
    }
  }
  EXPECT_EQ(next, plan.gathers.size());
}

TEST(GatherPlanTest, WithTheLeastOfEverything_EveryLayerIsGatheredWhenItPlays) {
  const GatherPlan plan = Plan(Least());
  // Positions 0 to 3 forward, 4 to 7 backward; the head stays from 3 to 4.
  EXPECT_EQ(Gathers(plan), "0>0:01 1>1:2 2>2:3 3>3:40 5>5:3 6>6:2 7>7:01");
  EXPECT_EQ(plan.gathered_elements, (9 + 4 + 4 + 10 + 4 + 4 + 9) * kK);
  EXPECT_EQ(plan.most_live, 10 * kK);
  EXPECT_EQ(plan.pool_elements, 10 * kK);
  ExpectPlacesApart(plan);
}

TEST(GatherPlanTest, Prefetch_EnqueuesEarlierWithinItsBoundAndCostsThePool) {
  ZeroSettings settings = Least();
  settings.max_live_parameters = 100 * kK;
  settings.prefetch = 4 * kK;  // a block, not the table
  GatherPlan plan = Plan(settings);
  EXPECT_EQ(Gathers(plan), "0>0:01 0>1:2 1>2:3 3>3:40 3>5:3 5>6:2 7>7:01");
  EXPECT_EQ(plan.gathered_elements, 44 * kK);  // as without
  EXPECT_EQ(plan.most_live, 14 * kK);          // the head and the block behind it
  EXPECT_EQ(plan.pool_elements, 14 * kK);
  ExpectPlacesApart(plan);
  settings.prefetch = 8 * kK;  // both blocks
  plan = Plan(settings);
  EXPECT_EQ(Gathers(plan), "0>0:01 0>1:2 0>2:3 3>3:40 3>5:3 3>6:2 7>7:01");
  EXPECT_EQ(plan.most_live, 18 * kK);
  ExpectPlacesApart(plan);
}

TEST(GatherPlanTest, MaxLiveParameters_BoundsWhatIsAhead) {
  ZeroSettings settings = Least();
  settings.prefetch = 100 * kK;
  settings.max_live_parameters = 13 * kK;
  const GatherPlan plan = Plan(settings);
  // 9 + 4 fit together, and block beside block; a block beside the head's 10 does not.
  EXPECT_EQ(Gathers(plan), "0>0:01 0>1:2 1>2:3 3>3:40 5>5:3 5>6:2 6>7:01");
  EXPECT_EQ(plan.most_live, 13 * kK);
  EXPECT_EQ(plan.gathered_elements, 44 * kK);
  ExpectPlacesApart(plan);
}

TEST(GatherPlanTest, MaxReuseDistance_SavesTrafficWhereTheBoundAllowsIt) {
  ZeroSettings settings = Least();
  settings.max_live_parameters = 100 * kK;
  settings.max_reuse_distance = 8 * kK;  // the blocks between the table's first use and the head
  GatherPlan plan = Plan(settings);
  EXPECT_EQ(Gathers(plan), "0>0:01 1>1:2 2>2:3 3>3:4 5>5:3 6>6:2 7>7:1");
  EXPECT_EQ(plan.gathered_elements, (9 + 4 + 4 + 2 + 4 + 4 + 1) * kK);
  EXPECT_EQ(plan.most_live, 12 * kK);
  ExpectPlacesApart(plan);
  settings.max_reuse_distance = 100 * kK;
  plan = Plan(settings);  // all is gathered once
  EXPECT_EQ(plan.gathered_elements, 19 * kK);
  EXPECT_EQ(plan.most_live, 19 * kK);
  EXPECT_EQ(plan.pool_elements, 19 * kK);
  ExpectPlacesApart(plan);
  settings.max_live_parameters = 11 * kK;  // nothing of 4 beside the table and a block: 12
  EXPECT_EQ(Gathers(Plan(settings)), "0>0:01 1>1:2 2>2:3 3>3:40 5>5:3 6>6:2 7>7:0");
}

TEST(GatherPlanTest, PersistenceThreshold_TakesTensorsOutOfPoolAndTraffic) {
  const ModelPlan model = Tied();
  const FlatLayout layout(model.tensors);
  EXPECT_EQ(PersistentTensors(layout, 100), std::vector<size_t>());
  EXPECT_EQ(PersistentTensors(layout, 101), std::vector<size_t>({1}));
  EXPECT_EQ(PersistentElements(layout, 101), kK);
  ZeroSettings settings = Least();
  settings.persistence_threshold = 101;
  GatherPlan plan = Plan(settings);
  EXPECT_EQ(Gathers(plan), "0>0:0 1>1:2 2>2:3 3>3:40 5>5:3 6>6:2 7>7:0");
  EXPECT_EQ(plan.gathered_elements, 42 * kK);
  EXPECT_EQ(plan.positions[0].offsets[1], -1);
  settings.persistence_threshold = 1 << 20;
  plan = Plan(settings);
  EXPECT_EQ(Gathers(plan), "");
  EXPECT_EQ(plan.pool_elements, 0);
  EXPECT_EQ(PersistentElements(layout, 1 << 20), 19 * kK);
}

TEST(GatherPlanTest, ForwardOnlyAndFrozenLayers_HaveShorterPasses) {
  EXPECT_EQ(Gathers(Plan(Least(), PassKind::kForwardOnly)), "0>0:01 1>1:2 2>2:3 3>3:40");
  EXPECT_EQ(Plan(Least(), PassKind::kForwardOnly).positions.size(), 5u);
  const GatherPlan plan = Plan(Least(), PassKind::kTraining, /*lowest_layer=*/2);
  EXPECT_EQ(Gathers(plan), "0>0:01 1>1:2 2>2:3 3>3:40 5>5:3");
}

TEST(GatherPlanTest, RecomputedSegments_AreGatheredForTheirSecondForwardAndStayForBackward) {
  GatherPlan plan = Plan(Least(), PassKind::kTraining, 0, {{1, 3}});
  EXPECT_EQ(Positions(plan), "0123b312b2b1b0");
  // Position 5 plays layer 1 again, 6 layer 2, whose matrix stays for its backward at 7.
  EXPECT_EQ(Gathers(plan), "0>0:01 1>1:2 2>2:3 3>3:40 5>5:2 6>6:3 8>8:2 9>9:01");
  EXPECT_EQ(plan.gathered_elements, (9 + 4 + 4 + 10 + 4 + 4 + 4 + 9) * kK);
  ExpectPlacesApart(plan);

  plan = Plan(Least(), PassKind::kTraining, 0, {{1, 2}, {2, 3}});
  EXPECT_EQ(Positions(plan), "0123b32b21b1b0");
  EXPECT_EQ(plan.gathered_elements, 44 * kK);  // as without: each stays for its backward
  ExpectPlacesApart(plan);

  // Backward ends in the segment, which is played as a whole; below the lowest layer none is.
  EXPECT_EQ(Positions(Plan(Least(), PassKind::kTraining, 2, {{1, 3}})), "0123b312b2");
  EXPECT_EQ(Positions(Plan(Least(), PassKind::kTraining, 3, {{1, 3}})), "0123b3");
  EXPECT_EQ(Positions(Plan(Least(), PassKind::kForwardOnly, 0, {{1, 3}})), "01233");

  // Kept where the settings allow it: the segment's first layer from its second forward to its
  // backward, at distance 8; the table, at 16 now, is gathered for the embedding again.
  ZeroSettings settings = Least();
  settings.max_live_parameters = 100 * kK;
  settings.max_reuse_distance = 8 * kK;
  plan = Plan(settings, PassKind::kTraining, 0, {{1, 3}});
  EXPECT_EQ(Gathers(plan), "0>0:01 1>1:2 2>2:3 3>3:4 5>5:2 6>6:3 9>9:01");
  ExpectPlacesApart(plan);
  settings.prefetch = 8 * kK;
  plan = Plan(settings, PassKind::kTraining, 0, {{1, 3}});
  ExpectPlacesApart(plan);
}

TEST(GatherPlanTest, Defaults_FollowTheModelAndKeepWhatIsSaid) {
  const ModelPlan model = Tied();
  const FlatLayout layout(model.tensors);
  const ZeroSettings all = WithDefaults({}, model, layout);
  EXPECT_EQ(all.persistence_threshold, 8 * kK / 64);
  EXPECT_EQ(all.prefetch, 10 * kK);
  EXPECT_EQ(all.max_live_parameters, 20 * kK);
  EXPECT_EQ(all.max_reuse_distance, 10 * kK);
  ZeroSettings least = Least();
  for (const auto& [said, whole] : {std::pair<int64_t, int64_t>(1, kK), {kK, kK}, {3000, 3 * kK}}) {
    least.sub_group_size = said;
    ZeroSettings expected = least;
    expected.sub_group_size = whole;  // leaves
    EXPECT_EQ(WithDefaults(least, model, layout), expected);
  }
}

}  // namespace
}  // namespace dsrun
