// The rank table in messages: a placement as the coordinator writes it into a generation's plan,
// and as agents and workers read it back. Pure.

#ifndef DSRUN_COMMON_TOPOLOGY_PLAN_PLACES_H_
#define DSRUN_COMMON_TOPOLOGY_PLAN_PLACES_H_

#include <vector>

#include "absl/status/statusor.h"
#include "common/topology/mesh.h"
#include "common/topology/placement.h"
#include "proto/worker.pb.h"

namespace dsrun {

// Sets mesh and members; hosts are the caller's to fill in.
void PutPlacement(const Placement& placement, proto::GenerationPlan& plan);

// The mesh of a plan; without one in it, its members are data parallel. REQUIRES: members.
// Errors: INVALID_ARGUMENT: it has not as many ranks as the plan; what Mesh::Create refuses.
absl::StatusOr<Mesh> MeshOf(const proto::GenerationPlan& plan);

// The table of a plan, index = rank: the one that PlaceRanks makes of its members' slots.
// Errors: INVALID_ARGUMENT: no members, or they are not placed as PlaceRanks places them.
absl::StatusOr<std::vector<RankPlace>> PlacesOf(const proto::GenerationPlan& plan);

}  // namespace dsrun

#endif  // DSRUN_COMMON_TOPOLOGY_PLAN_PLACES_H_
