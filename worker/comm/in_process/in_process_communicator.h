// Ranks as threads of one process: the Communicator of tests, of one-process jobs, and the measure
// for the others. Messages are copied once, straight from the sender's buffer into the receiver's.
//
// Destroying a rank's communicator tells its peers that it is gone, like the death of a process:
// whoever waits for it gets UNAVAILABLE. A message whose size is not the expected one gives
// FAILED_PRECONDITION on both sides.
//
// Threads: see Communicator; each rank's communicator belongs to its own thread and may be
// destroyed in any order.

#ifndef DSRUN_WORKER_COMM_IN_PROCESS_IN_PROCESS_COMMUNICATOR_H_
#define DSRUN_WORKER_COMM_IN_PROCESS_IN_PROCESS_COMMUNICATOR_H_

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

struct InProcessOptions {
  // How long one Exchange may last.
  absl::Duration timeout = absl::Seconds(30);
};

// One communicator for each rank of a new group. REQUIRES: size >= 1.
std::vector<std::unique_ptr<Communicator>> CreateInProcessGroup(int size,
                                                                const InProcessOptions& options);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_IN_PROCESS_IN_PROCESS_COMMUNICATOR_H_
