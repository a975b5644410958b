// ProcessGroups: the communicators of one rank in one generation, by the axes of its groups and by
// lane: one AsyncCommunicator for each (group, lane).
//
// A lane is a queue of its own between the ranks of a group, by a name that says what it is for
// ("gradients", "parameters"): what stands on one lane does not hold up what stands on another.
//
// All are made in one order (by axes, then lane), the same on every rank whatever order they were
// asked for in; common/topology/process_group.h says why that cannot end in ranks that wait for
// each other in a circle.
//
// Errors of a group's communicators name ranks of the world: PeerRank is one, and the text says
// which rank of which group it is.
//
// Threads: as AsyncCommunicator, each on its own. Abort and AsyncError from any thread.

#ifndef DSRUN_WORKER_COMM_CORE_PROCESS_GROUPS_H_
#define DSRUN_WORKER_COMM_CORE_PROCESS_GROUPS_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "common/topology/mesh.h"
#include "common/topology/process_group.h"
#include "worker/comm/core/async_communicator.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

struct GroupLane {
  AxisSet axes;
  std::string lane;
};

// Connects the rank number `rank` of `group` to the others of it. `name` is the (group, lane)'s,
// "tp@6/gradients": no two communicators of a generation have the same.
using GroupConnector = std::function<absl::StatusOr<std::unique_ptr<Communicator>>(
    const ProcessGroup& group, int rank, const std::string& name)>;

class ProcessGroups {
 public:
  // Calls `connect` for every one of `lanes`; all ranks of the mesh ask for the same ones.
  // Errors: INVALID_ARGUMENT: axes without groups, a pair of axes and lane twice, a lane without a
  // name or with a '/' in it; those of `connect`.
  static absl::StatusOr<std::unique_ptr<ProcessGroups>> Create(const Mesh& mesh, Rank rank,
                                                               std::vector<GroupLane> lanes,
                                                               const GroupConnector& connect);

  // One that was asked for; CHECK-fails otherwise.
  AsyncCommunicator& At(AxisSet axes, const std::string& lane) const;
  const ProcessGroup& GroupAt(AxisSet axes) const;

  // Of all lanes. Abort comes before any buffer or stream that they use dies.
  void Abort(const std::string& reason);
  // Of the first lane that has one.
  absl::Status AsyncError();

 private:
  struct Entry {
    std::string axes;
    std::string lane;
    ProcessGroup group;
    std::unique_ptr<AsyncCommunicator> communicator;
  };
  ProcessGroups() = default;

  std::vector<Entry> entries_;
};

// A communicator whose errors speak of ranks of the world. `inner` is one of `group`.
std::unique_ptr<Communicator> NameRanksOfTheWorld(std::unique_ptr<Communicator> inner,
                                                  ProcessGroup group);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_PROCESS_GROUPS_H_
