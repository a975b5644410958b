// CommunicatorFactory: the one room that knows which communicator a generation gets.

#ifndef DSRUN_WORKER_ENGINE_COMMUNICATOR_FACTORY_H_
#define DSRUN_WORKER_ENGINE_COMMUNICATOR_FACTORY_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/core/rendezvous.h"

namespace dsrun::worker {

struct CommunicatorRequest {
  int rank = 0;
  int size = 1;
  Generation generation;
  std::string bind_address;
  std::string job_token;
  absl::Duration timeout;           // of one exchange
  absl::Duration connect_timeout;   // of the whole mesh
  std::string check;                // TrainSpec::check_collectives
  bool shared_memory = false;       // TrainSpec::shared_memory
  std::function<bool()> cancelled;  // asked while the mesh is being built
};

// A new mesh of the generation's ranks. Errors: those of Communicator; PERMISSION_DENIED: a peer
// did not know the job's token.
absl::StatusOr<std::unique_ptr<Communicator>> BuildCommunicator(const CommunicatorRequest& request,
                                                                Rendezvous& rendezvous);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_ENGINE_COMMUNICATOR_FACTORY_H_
