// Who takes part in a generation, and how a job ends that has fewer slots left than a replica
// needs.

#include "launcher/coordinator/generation_planner.h"

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/launcher/coordinator/cell_bench.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;

PlannedNode NodeOf(int id, std::vector<Slot> slots) {
  return {NodeId(id), "host-" + std::to_string(id), std::move(slots), 2};
}

TEST(PlanGeneration, PutsHostsAndRanksInOrder) {
  const auto plan = PlanGeneration(
      Generation(3), {NodeOf(0, {Slot(0), Slot(1)}), NodeOf(1, {}), NodeOf(2, {Slot(1)})},
      /*max_width=*/0);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->generation(), 3);
  ASSERT_EQ(plan->members_size(), 3);
  EXPECT_EQ(plan->members(2).host(), "host-2");
  EXPECT_EQ(WorkerOf(*plan, Rank(2)), (WorkerId{NodeId(2), Slot(1)}));
  EXPECT_EQ(RankOf(*plan, {NodeId(2), Slot(1)}), Rank(2));
}

TEST(PlanGeneration, FewerSlotsThanAReplicaNeeds_IsAnErrorAndNoEmptyPlan) {
  const auto plan =
      PlanGeneration(Generation(2), {NodeOf(0, {Slot(0)})}, /*max_width=*/0, {.pp = 2});
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("2 slots are needed"));
}

// How the job ended.
Report ReportOf(const std::vector<Action>& actions) {
  for (const Action& action : actions) {
    if (const auto* const end = std::get_if<EndJob>(&action)) return end->report;
  }
  ADD_FAILURE() << "the job goes on";
  return {};
}

// Only alpha has slots.
CoordinatorConfig OneWithSlots() {
  CoordinatorConfig config = Bench::Config(/*train=*/true);
  config.nodes[1].slots.clear();
  return config;
}

TEST(CoordinatorWithoutPlaces, ALossThatLeavesNoReplica_EndsTheJobWithWhatIsMissing) {
  Bench bench(OneWithSlots());
  ASSERT_TRUE(bench.DriveTo(Coordinator::State::kRunning));
  bench.Feed(NodeSilent{NodeId(0)});
  ASSERT_EQ(bench.coordinator().state(), Coordinator::State::kPreparing);
  bench.Feed(bench.Spoke(1, Kind::kPrepared));
  ASSERT_EQ(bench.coordinator().state(), Coordinator::State::kEnding);
  EXPECT_EQ(bench.coordinator().generation(), Generation(2)) << "claimed, and never begun";
  const Report report = ReportOf(bench.Feed(bench.Spoke(1, Kind::kJobEnded)));
  EXPECT_EQ(report.exit_code, kExitNoNodesLeft);
  EXPECT_THAT(report.verdict, HasSubstr("cannot go on: no slot to place a rank on"));
  EXPECT_THAT(report.verdict, HasSubstr("alpha")) << "and what was lost";
}

TEST(CoordinatorWithoutPlaces, NodesThatNeverHoldAReplica_StartNothing) {
  CoordinatorConfig config = OneWithSlots();
  config.nodes[0].slots.clear();
  Bench bench(config);
  bench.Feed(Start{});
  for (const int node : {0, 1}) bench.Feed(bench.Spoke(node, Kind::kOpened));
  for (const int node : {0, 1}) bench.Feed(bench.Spoke(node, Kind::kPrepared));
  bench.Feed(bench.Spoke(0, Kind::kJobEnded));
  const Report report = ReportOf(bench.Feed(bench.Spoke(1, Kind::kJobEnded)));
  EXPECT_EQ(report.exit_code, kExitPreflight);
  EXPECT_THAT(report.verdict, HasSubstr("no rank was started, because no slot"));
}

}  // namespace
}  // namespace dsrun::launcher
