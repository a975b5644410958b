#include "launcher/coordinator/generation_planner.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/status_macros.h"
#include "common/topology/placement.h"
#include "common/topology/plan_places.h"

namespace dsrun::launcher {

absl::StatusOr<proto::GenerationPlan> PlanGeneration(Generation generation,
                                                     const std::vector<PlannedNode>& nodes,
                                                     int64_t max_width, const MeshShape& shape) {
  proto::GenerationPlan plan;
  plan.set_generation(generation.value());
  std::vector<NodeSlots> slots;
  std::map<NodeId, const std::string*> hosts;
  for (const PlannedNode& node : nodes) {
    hosts[node.id] = &node.host;
    if (!node.slots.empty()) slots.push_back({node.id, node.slots, node.of});
  }
  ASSIGN_OR_RETURN(const Placement placement, PlaceRanks(std::move(slots), shape, max_width));
  PutPlacement(placement, plan);
  for (proto::Member& member : *plan.mutable_members()) {
    member.set_host(*hosts[NodeId(member.node())]);
  }
  return plan;
}

std::optional<Rank> RankOf(const proto::GenerationPlan& plan, WorkerId worker) {
  // Members are sorted, so a large job is searched in a few steps.
  const auto key = [](const proto::Member& member) {
    return WorkerId{NodeId(member.node()), Slot(member.slot())};
  };
  const auto found = std::lower_bound(
      plan.members().begin(), plan.members().end(), worker,
      [&](const proto::Member& member, const WorkerId& id) { return key(member) < id; });
  if (found == plan.members().end() || key(*found) != worker) return std::nullopt;
  return Rank(static_cast<int32_t>(found - plan.members().begin()));
}

WorkerId WorkerOf(const proto::GenerationPlan& plan, Rank rank) {
  const proto::Member& member = plan.members(rank.value());
  return {NodeId(member.node()), Slot(member.slot())};
}

}  // namespace dsrun::launcher
