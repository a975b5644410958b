#include "common/topology/process_group.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace dsrun {

std::optional<int> ProcessGroup::RankIn(Rank rank) const {
  const auto found = std::lower_bound(ranks.begin(), ranks.end(), rank);
  if (found == ranks.end() || *found != rank) return std::nullopt;
  return static_cast<int>(found - ranks.begin());
}

ProcessGroup WorldGroup(int size) {
  ProcessGroup world;
  world.name = kWorldGroup;
  for (int rank = 0; rank < size; ++rank) world.ranks.push_back(Rank(rank));
  return world;
}

ProcessGroup GroupAlong(const Mesh& mesh, AxisSet axes, Rank rank) {
  ProcessGroup group;
  group.ranks = mesh.GroupOf(rank, axes);
  group.name = absl::StrCat(axes.ToString(), "@", group.ranks.front().value());
  return group;
}

absl::StatusOr<ProcessGroup> GroupNamed(const Mesh& mesh, const std::string& name) {
  if (name == kWorldGroup) return WorldGroup(mesh.size());
  const size_t at = name.find('@');
  int32_t first = -1;
  if (at != std::string::npos && absl::SimpleAtoi(name.substr(at + 1), &first) && first >= 0 &&
      first < mesh.size()) {
    const absl::StatusOr<AxisSet> axes = AxisSet::Parse(name.substr(0, at));
    if (axes.ok() && Mesh::HasGroups(*axes)) {
      ProcessGroup group = GroupAlong(mesh, *axes, Rank(first));
      // One name a group: in the order of Axis, and of its first rank.
      if (group.name == name) return group;
    }
  }
  return absl::NotFoundError(absl::StrCat("no group of ", mesh.size(), " ranks is called \"", name,
                                          "\"; expected world, or axes and a group's first rank, "
                                          "such as tp@0 or cp-dp@2"));
}

}  // namespace dsrun
