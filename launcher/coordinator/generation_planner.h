// Who takes part in the next generation, and as which rank. Pure.
//
// Ranks are placed by common/topology/placement.h: survivors keep their order, and a job that lost
// nobody keeps every rank. Train: never wider than the batch has atoms (docs/numerics.md): a
// replica without one would have nothing to do.

#ifndef DSRUN_LAUNCHER_COORDINATOR_GENERATION_PLANNER_H_
#define DSRUN_LAUNCHER_COORDINATOR_GENERATION_PLANNER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/topology/mesh.h"
#include "proto/worker.pb.h"

namespace dsrun::launcher {

struct PlannedNode {
  NodeId id;
  std::string host;
  std::vector<Slot> slots;  // ascending
  int32_t of = 0;           // NodeSlots
};

// `nodes`: the live ones, ascending; those without slots are left out. `max_width`: the most
// replicas; 0: no limit. Errors: those of PlaceRanks; RESOURCE_EXHAUSTED is the one that may come
// after a loss.
absl::StatusOr<proto::GenerationPlan> PlanGeneration(Generation generation,
                                                     const std::vector<PlannedNode>& nodes,
                                                     int64_t max_width,
                                                     const MeshShape& shape = {});

// The rank of a worker in `plan`; absent when it has none.
std::optional<Rank> RankOf(const proto::GenerationPlan& plan, WorkerId worker);
WorkerId WorkerOf(const proto::GenerationPlan& plan, Rank rank);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_GENERATION_PLANNER_H_
