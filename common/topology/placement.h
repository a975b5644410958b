// Who sits where in one generation: nodes and their slots -> the rank table. Ranks are numbered by
// node, then slot, and are dense whatever nodes were lost; nodes may have different numbers of
// slots. Pure.

#ifndef DSRUN_COMMON_TOPOLOGY_PLACEMENT_H_
#define DSRUN_COMMON_TOPOLOGY_PLACEMENT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"

namespace dsrun {

// A node that takes part, with its slots in use.
struct NodeSlots {
  NodeId node;
  std::vector<Slot> slots;
};

struct RankPlace {
  Rank rank;
  NodeId node;
  Slot slot;
  int32_t local_rank = 0;  // position among this node's ranks
  int32_t local_size = 0;  // ranks on this node
  int32_t cross_rank = 0;  // position of the node among those that take part
  int32_t cross_size = 0;  // nodes that take part
  int32_t dp = 0;          // coordinates; ranks are data parallel only, so this is the rank
  int32_t pp = 0;
  int32_t tp = 0;

  WorkerId worker() const { return {node, slot}; }
  friend bool operator==(const RankPlace&, const RankPlace&) = default;
};

// The table, indexed by rank. Nodes and slots may come in any order.
// Errors: INVALID_ARGUMENT: no slot at all, a node or slot twice, a node without slots.
absl::StatusOr<std::vector<RankPlace>> PlaceRanks(std::vector<NodeSlots> nodes);

}  // namespace dsrun

#endif  // DSRUN_COMMON_TOPOLOGY_PLACEMENT_H_
