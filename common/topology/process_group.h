// ProcessGroup: ranks of a generation that communicate among themselves, by a name that says which.
// Pure.
//
//   "world"    all ranks
//   "tp@6"     the ranks along tp among which 6 is the first; "cp-dp@0", "ep@2" likewise
//
// Everybody who has the mesh knows the ranks of a name, so a name is all that travels: workers put
// their addresses under it, and the coordinator knows whom it waits for. Inside a group ranks count
// anew, from 0, in the order of the world's.
//
// One order for all: whoever makes several groups makes them in the order of one list of kinds that
// is the same on every rank. A rank is in one group of a kind, so no two ranks make two groups that
// they share in different orders, and the least group that is not made has all its ranks ready.

#ifndef DSRUN_COMMON_TOPOLOGY_PROCESS_GROUP_H_
#define DSRUN_COMMON_TOPOLOGY_PROCESS_GROUP_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/topology/mesh.h"

namespace dsrun {

inline constexpr char kWorldGroup[] = "world";

struct ProcessGroup {
  std::string name;
  std::vector<Rank> ranks;  // of the world, ascending; index = rank in the group

  int size() const { return static_cast<int>(ranks.size()); }
  // The rank in the group of a rank of the world; absent when it is no member.
  std::optional<int> RankIn(Rank rank) const;
};

// All of `size` ranks.
ProcessGroup WorldGroup(int size);
// The one along `axes` that `rank` is in. REQUIRES: Mesh::HasGroups(axes).
ProcessGroup GroupAlong(const Mesh& mesh, AxisSet axes, Rank rank);
// Errors: NOT_FOUND: `mesh` has no group of that name.
absl::StatusOr<ProcessGroup> GroupNamed(const Mesh& mesh, const std::string& name);

}  // namespace dsrun

#endif  // DSRUN_COMMON_TOPOLOGY_PROCESS_GROUP_H_
