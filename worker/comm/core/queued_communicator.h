// The AsyncCommunicator over a communicator that only blocks: a queue, and a thread that works it
// off. Backends with queues of their own (NCCL's streams) need none of this.
//
// Whoever awaits an operation that the thread has not begun performs it himself: a blocking
// Exchange costs no change of threads, and the thread is started by the first Enqueue.

#ifndef DSRUN_WORKER_COMM_CORE_QUEUED_COMMUNICATOR_H_
#define DSRUN_WORKER_COMM_CORE_QUEUED_COMMUNICATOR_H_

#include <memory>
#include <string>

#include "worker/comm/core/async_communicator.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

// Errors: those of `inner`; RESOURCE_EXHAUSTED: no thread could be started, as the lane's error.
// `name` says which lane it is in those that come from here; empty: there is one.
std::unique_ptr<AsyncCommunicator> QueueOperations(std::unique_ptr<Communicator> inner,
                                                   std::string name = "");

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_QUEUED_COMMUNICATOR_H_
