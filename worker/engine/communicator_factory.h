// CommunicatorFactory: the one room that knows which communicators a generation gets.

#ifndef DSRUN_WORKER_ENGINE_COMMUNICATOR_FACTORY_H_
#define DSRUN_WORKER_ENGINE_COMMUNICATOR_FACTORY_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/topology/mesh.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/core/process_groups.h"
#include "worker/comm/core/rendezvous.h"

namespace dsrun::worker {

struct CommunicatorRequest {
  int rank = 0;  // in the group that is connected, as the size
  int size = 1;
  // Names the communicator where a generation has several; no two have the same name.
  std::string name = "world";
  Generation generation;
  std::string bind_address;
  std::string job_token;
  absl::Duration timeout;           // of one exchange
  absl::Duration connect_timeout;   // of the whole mesh
  std::string check;                // TrainSpec::check_collectives
  bool shared_memory = false;       // TrainSpec::shared_memory
  std::function<bool()> cancelled;  // asked while the mesh is being built
};

// A new mesh of the ranks that meet at `rendezvous`. Errors: those of Communicator;
// PERMISSION_DENIED: a peer did not know the job's token.
absl::StatusOr<std::unique_ptr<Communicator>> BuildCommunicator(const CommunicatorRequest& request,
                                                                Rendezvous& rendezvous);

// Where the ranks of the group of that name meet.
using GroupRendezvous = std::function<std::unique_ptr<Rendezvous>(const std::string& group)>;

// The communicators of `rank` of the world for all of `lanes`. Of `request`, rank, size and name
// are not read. Errors: those of BuildCommunicator and of ProcessGroups::Create.
absl::StatusOr<std::unique_ptr<ProcessGroups>> BuildProcessGroups(
    const CommunicatorRequest& request, const Mesh& mesh, Rank rank, std::vector<GroupLane> lanes,
    const GroupRendezvous& rendezvous);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_COMMUNICATOR_FACTORY_H_
