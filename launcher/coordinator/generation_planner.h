// Who takes part in the next generation, and as which rank. Pure.
//
// Ranks go by node, then slot, over the live nodes: survivors keep their order, and a job that
// lost nobody keeps every rank. Train: never wider than the batch has atoms
// (docs/numerics.md): a rank without one would have nothing to do.

#ifndef DSRUN_LAUNCHER_COORDINATOR_GENERATION_PLANNER_H_
#define DSRUN_LAUNCHER_COORDINATOR_GENERATION_PLANNER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/ids.h"
#include "proto/worker.pb.h"

namespace dsrun::launcher {

struct PlannedNode {
  NodeId id;
  std::string host;
  std::vector<Slot> slots;  // ascending
};

// `nodes`: the live ones, ascending. `max_width` 0: no limit. The plan has no members when there is
// no slot left.
proto::GenerationPlan PlanGeneration(Generation generation, const std::vector<PlannedNode>& nodes,
                                     int64_t max_width);

// The rank of a worker in `plan`; absent when it has none.
std::optional<Rank> RankOf(const proto::GenerationPlan& plan, WorkerId worker);
WorkerId WorkerOf(const proto::GenerationPlan& plan, Rank rank);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_GENERATION_PLANNER_H_
