#include "common/topology/placement.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/counted.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

// Sorted by node and slot; the order of ranks.
absl::Status SortAndCheck(std::vector<NodeSlots>& nodes) {
  std::sort(nodes.begin(), nodes.end(),
            [](const NodeSlots& a, const NodeSlots& b) { return a.node < b.node; });
  for (size_t i = 0; i < nodes.size(); ++i) {
    const std::string name = absl::StrCat("node ", nodes[i].node.value());
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
      return absl::InvalidArgumentError(absl::StrCat("slot ", twice->value(), " of ", name,
                                                     " is given twice; give each slot once"));
    }
  }
  if (nodes.empty()) {
    return absl::InvalidArgumentError("no slot to place a rank on; name a host");
  }
  return absl::OkStatus();
}

// The parts of a tensor have neighbouring ranks: with another axis between them, a node that loses
// a slot would shift them onto two nodes. dp counts whatever its size, which a loss changes.
absl::Status CheckTensorFirst(const MeshShape& shape) {
  if (shape.tp == 1) return absl::OkStatus();
  const std::vector<std::string> axes = absl::StrSplit(shape.order, '-');
  for (const std::string& axis : axes) {
    if (axis == "tp") break;
    const bool apart = axis == "dp" || (axis == "cp" && shape.cp > 1) ||
                       (axis == "pp" && shape.pp > 1) || (axis == "ep" && shape.ep > 1);
    if (!apart) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "mesh order \"", shape.order, "\" has ", axis, " before tp, whose size is ", shape.tp,
        ": the parts of a tensor would not stay inside one node; put tp first in the order"));
  }
  return absl::OkStatus();
}

// Also where nothing is lost yet, tensor parts would be left over or go across nodes.
absl::Status CheckTensorParts(const std::vector<NodeSlots>& nodes, int32_t tp) {
  for (const NodeSlots& node : nodes) {
    const int32_t slots = node.of > 0 ? node.of : static_cast<int32_t>(node.slots.size());
    if (slots % tp == 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("node ", node.node.value(), " has ", Counted(slots, "slot"), ", which tp ", tp,
                     " does not divide: the parts of a tensor stay inside one node; give it ",
                     slots < tp ? "" : absl::StrCat(slots / tp * tp, " or "), (slots / tp + 1) * tp,
                     " slots, or make tp a divisor of ", slots));
  }
  return absl::OkStatus();
}

// The most replicas that `slots` hold.
absl::StatusOr<int32_t> WidthOf(int64_t slots, const MeshShape& shape, int64_t max_width) {
  const int64_t replica = int64_t{shape.tp} * shape.cp * shape.pp;
  // Experts are divided among cp * dp ranks, which ep must divide.
  const int64_t step = shape.ep / std::gcd(shape.ep, shape.cp);
  int64_t width = slots / replica;
  if (max_width > 0) width = std::min(width, max_width);
  width = width / step * step;
  if (width > 0) return static_cast<int32_t>(width);
  return absl::ResourceExhaustedError(absl::StrCat(
      Counted(slots, "slot"),
      max_width > 0 ? absl::StrCat(" and at most ", max_width, " replicas") : std::string(),
      " are not enough for ", Counted(step, "replica"), " of ", Counted(replica, "rank"), " (tp ",
      shape.tp, ", cp ", shape.cp, ", pp ", shape.pp, ", ep ", shape.ep, "): ", step * replica,
      " slots are needed"));
}

// Cuts every node to the slots whose ranks there are; the rest become spares.
std::vector<WorkerId> TakeSpares(std::vector<NodeSlots>& nodes, int32_t tp, int64_t ranks) {
  std::vector<WorkerId> spares;
  for (NodeSlots& node : nodes) {
    const int64_t alive = static_cast<int64_t>(node.slots.size());
    const int64_t used = std::min(alive / tp * tp, ranks);
    ranks -= used;
    for (int64_t i = used; i < alive; ++i) {
      spares.push_back({node.node, node.slots[static_cast<size_t>(i)]});
    }
    node.slots.resize(static_cast<size_t>(used));
  }
  std::erase_if(nodes, [](const NodeSlots& node) { return node.slots.empty(); });
  return spares;
}

std::vector<RankPlace> TableOf(const std::vector<NodeSlots>& nodes, const Mesh& mesh) {
  std::vector<RankPlace> table;
  for (size_t n = 0; n < nodes.size(); ++n) {
    for (size_t s = 0; s < nodes[n].slots.size(); ++s) {
      RankPlace place;
      place.rank = Rank(static_cast<int32_t>(table.size()));
      place.node = nodes[n].node;
      place.slot = nodes[n].slots[s];
      place.local_rank = static_cast<int32_t>(s);
      place.local_size = static_cast<int32_t>(nodes[n].slots.size());
      place.cross_rank = static_cast<int32_t>(n);
      place.cross_size = static_cast<int32_t>(nodes.size());
      place.at = mesh.CoordinatesOf(place.rank);
      table.push_back(place);
    }
  }
  return table;
}

}  // namespace

absl::StatusOr<Placement> PlaceRanks(std::vector<NodeSlots> nodes, const MeshShape& shape,
                                     int64_t max_width) {
  RETURN_IF_ERROR(SortAndCheck(nodes));
  // Every size is looked at before it divides anything; ep divides the cp * dp that is found.
  MeshShape found = shape;
  found.dp = std::max(shape.ep, 1);
  RETURN_IF_ERROR(Mesh::Create(found).status());
  RETURN_IF_ERROR(CheckTensorFirst(shape));
  RETURN_IF_ERROR(CheckTensorParts(nodes, shape.tp));
  int64_t usable = 0;
  for (const NodeSlots& node : nodes) {
    usable += static_cast<int64_t>(node.slots.size()) / shape.tp * shape.tp;
  }
  ASSIGN_OR_RETURN(found.dp, WidthOf(usable, shape, max_width));
  ASSIGN_OR_RETURN(const Mesh mesh, Mesh::Create(found));
  std::vector<WorkerId> spares = TakeSpares(nodes, shape.tp, mesh.size());
  return Placement{mesh, TableOf(nodes, mesh), std::move(spares)};
}

}  // namespace dsrun
