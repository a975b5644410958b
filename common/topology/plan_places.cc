#include "common/topology/plan_places.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

constexpr char kBothSides[] = "; coordinator and agent must be of one version";

proto::MeshShape ToProto(const MeshShape& shape) {
  proto::MeshShape to;
  to.set_tp(shape.tp);
  to.set_cp(shape.cp);
  to.set_ep(shape.ep);
  to.set_dp(shape.dp);
  to.set_pp(shape.pp);
  to.set_order(shape.order);
  return to;
}

MeshShape ShapeOf(const proto::GenerationPlan& plan) {
  MeshShape shape;
  shape.dp = plan.members_size();
  if (!plan.has_mesh()) return shape;
  const proto::MeshShape& from = plan.mesh();
  return {from.tp(), from.cp(), from.ep(), from.dp(), from.pp(), from.order()};
}

proto::Coordinates ToProto(const Coordinates& at) {
  proto::Coordinates to;
  to.set_tp(at.tp);
  to.set_cp(at.cp);
  to.set_dp(at.dp);
  to.set_pp(at.pp);
  to.set_ep(at.ep);
  to.set_edp(at.edp);
  return to;
}

Coordinates FromProto(const proto::Coordinates& at) {
  return {at.tp(), at.cp(), at.dp(), at.pp(), at.ep(), at.edp()};
}

}  // namespace

void PutPlacement(const Placement& placement, proto::GenerationPlan& plan) {
  *plan.mutable_mesh() = ToProto(placement.mesh.shape());
  plan.clear_members();
  for (const RankPlace& place : placement.ranks) {
    proto::Member* const member = plan.add_members();
    member->set_node(place.node.value());
    member->set_slot(place.slot.value());
    member->set_local_rank(place.local_rank);
    *member->mutable_at() = ToProto(place.at);
  }
}

absl::StatusOr<Mesh> MeshOf(const proto::GenerationPlan& plan) {
  ASSIGN_OR_RETURN(Mesh mesh, Mesh::Create(ShapeOf(plan)));
  if (mesh.size() == plan.members_size()) return mesh;
  return absl::InvalidArgumentError(absl::StrCat("the plan of generation ", plan.generation(),
                                                 " has ", plan.members_size(), " ranks, its mesh ",
                                                 mesh.size(), kBothSides));
}

absl::StatusOr<std::vector<RankPlace>> PlacesOf(const proto::GenerationPlan& plan) {
  ASSIGN_OR_RETURN(const Mesh mesh, MeshOf(plan));
  std::vector<NodeSlots> nodes;
  for (const proto::Member& member : plan.members()) {
    if (nodes.empty() || nodes.back().node != NodeId(member.node())) {
      nodes.push_back({NodeId(member.node()), {}});
    }
    nodes.back().slots.push_back(Slot(member.slot()));
  }
  ASSIGN_OR_RETURN(Placement placement, PlaceRanks(std::move(nodes), mesh.shape()));
  for (int rank = 0; rank < plan.members_size(); ++rank) {
    const proto::Member& member = plan.members(rank);
    const RankPlace& place = placement.ranks[static_cast<size_t>(rank)];
    const bool same = place.node == NodeId(member.node()) && place.slot == Slot(member.slot()) &&
                      (!member.has_at() || place.at == FromProto(member.at()));
    if (same) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "rank ", rank, " of the plan of generation ", plan.generation(), " is slot ", member.slot(),
        " of node ", member.node(), ", and by the order of ranks it is slot ", place.slot.value(),
        " of node ", place.node.value(), " or has another place in the mesh", kBothSides));
  }
  return std::move(placement.ranks);
}

}  // namespace dsrun
