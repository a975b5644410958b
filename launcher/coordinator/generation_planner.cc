#include "launcher/coordinator/generation_planner.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace dsrun::launcher {

proto::GenerationPlan PlanGeneration(Generation generation, const std::vector<PlannedNode>& nodes,
                                     int64_t max_width) {
  proto::GenerationPlan plan;
  plan.set_generation(generation.value());
  for (const PlannedNode& node : nodes) {
    int32_t local_rank = 0;
    for (const Slot slot : node.slots) {
      if (max_width > 0 && plan.members_size() >= max_width) return plan;
      proto::Member* member = plan.add_members();
      member->set_node(node.id.value());
      member->set_slot(slot.value());
      member->set_local_rank(local_rank++);
      member->set_host(node.host);
    }
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
