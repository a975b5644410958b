// Who sits where in one generation: the slots that are alive -> the rank table. Dry-run,
// coordinator and agents use this one. Pure.
//
// Rank order. Ranks are numbered by node, then slot, over the slots that are used; they are dense
// whatever nodes or slots were lost, and survivors keep their order. What a rank is (tensor part,
// stage, replica) follows from its number by the mesh, whose data-parallel size is found here: as
// many whole replicas as there is room for.
//
// Which slots are used. A tensor-parallel group never spans two nodes: a node gives as many slots
// as the greatest multiple of tp that is alive there, its first ones, and of those of all nodes the
// first that make up whole replicas. What is left over are spares, the last of a node or the last
// nodes. So when a slot is lost, those behind it move up and a spare fills the hole; without enough
// of them the job has a replica less, never a part of one. With tp = 1 and nothing else this is
// "every slot has a rank".

#ifndef DSRUN_COMMON_TOPOLOGY_PLACEMENT_H_
#define DSRUN_COMMON_TOPOLOGY_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/topology/mesh.h"

namespace dsrun {

// A node that takes part.
struct NodeSlots {
  NodeId node;
  std::vector<Slot> slots;  // those that are alive
  int32_t of = 0;           // how many the job has there; 0: these
};

struct RankPlace {
  Rank rank;
  NodeId node;
  Slot slot;
  int32_t local_rank = 0;  // position among this node's ranks
  int32_t local_size = 0;  // ranks on this node
  int32_t cross_rank = 0;  // position of the node among those that have ranks
  int32_t cross_size = 0;  // nodes that have ranks
  Coordinates at;

  WorkerId worker() const { return {node, slot}; }
  friend bool operator==(const RankPlace&, const RankPlace&) = default;
};

struct Placement {
  Mesh mesh;
  std::vector<RankPlace> ranks;  // index = rank
  std::vector<WorkerId> spares;  // alive and without a rank, by node, then slot
};

// Nodes and slots may come in any order. `shape.dp` is not read. `max_width`: the most replicas; 0:
// no limit.
// Errors: RESOURCE_EXHAUSTED: fewer slots are alive than the least number of replicas needs.
// INVALID_ARGUMENT: no slot at all, a node or slot twice, a node without slots; what Mesh::Create
// refuses; tp does not divide the slots that the job has on a node; tp > 1 and an
// order with an axis before tp (one of size 1 may stand there, but for dp, whose size changes).
absl::StatusOr<Placement> PlaceRanks(std::vector<NodeSlots> nodes, const MeshShape& shape = {},
                                     int64_t max_width = 0);

}  // namespace dsrun

#endif  // DSRUN_COMMON_TOPOLOGY_PLACEMENT_H_
