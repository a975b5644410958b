// The part of an Exchange that needs no transport: messages to oneself, and the check that all
// peers exist. Shared by the backends.

#ifndef DSRUN_WORKER_COMM_CORE_SELF_MESSAGES_H_
#define DSRUN_WORKER_COMM_CORE_SELF_MESSAGES_H_

#include <span>
#include <string>

#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

// Copies every message to oneself, the k-th send into the k-th receive. CHECK-fails when a peer is
// no rank, or when sends to and receives from oneself do not match: both are the caller's bugs.
void CopySelfMessages(int rank, int size, std::span<const SendOp> sends,
                      std::span<const RecvOp> recvs, const std::string& what);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_SELF_MESSAGES_H_
