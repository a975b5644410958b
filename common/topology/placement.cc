#include "common/topology/placement.h"

#include <algorithm>
#include <string>

namespace dsrun {
namespace {

std::string Str(int64_t value) { return std::to_string(value); }

// Sorted by node and slot; the order of ranks.
absl::Status SortAndCheck(std::vector<NodeSlots>& nodes) {
  std::sort(nodes.begin(), nodes.end(),
            [](const NodeSlots& a, const NodeSlots& b) { return a.node < b.node; });
  for (size_t i = 0; i < nodes.size(); ++i) {
    const std::string name = "node " + Str(nodes[i].node.value());
    if (i > 0 && nodes[i].node == nodes[i - 1].node) {
      return absl::InvalidArgumentError(name + " is given twice; give each node once");
    }
    std::vector<Slot>& slots = nodes[i].slots;
    if (slots.empty()) {
      return absl::InvalidArgumentError(name + " has no slot; leave it out or give it one");
    }
    std::sort(slots.begin(), slots.end());
    const auto twice = std::adjacent_find(slots.begin(), slots.end());
    if (twice != slots.end()) {
      return absl::InvalidArgumentError("slot " + Str(twice->value()) + " of " + name +
                                        " is given twice; give each slot once");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<RankPlace>> PlaceRanks(std::vector<NodeSlots> nodes) {
  const absl::Status sorted = SortAndCheck(nodes);
  if (!sorted.ok()) return sorted;
  int64_t world = 0;
  for (const NodeSlots& node : nodes) world += static_cast<int64_t>(node.slots.size());
  if (world == 0) return absl::InvalidArgumentError("no slot to place a rank on; name a host");
  std::vector<RankPlace> table;
  for (size_t n = 0; n < nodes.size(); ++n) {
    for (size_t s = 0; s < nodes[n].slots.size(); ++s) {
      const int32_t rank = static_cast<int32_t>(table.size());
      RankPlace place;
      place.rank = Rank(rank);
      place.node = nodes[n].node;
      place.slot = nodes[n].slots[s];
      place.local_rank = static_cast<int32_t>(s);
      place.local_size = static_cast<int32_t>(nodes[n].slots.size());
      place.cross_rank = static_cast<int32_t>(n);
      place.cross_size = static_cast<int32_t>(nodes.size());
      place.dp = rank;
      table.push_back(place);
    }
  }
  return table;
}

}  // namespace dsrun
