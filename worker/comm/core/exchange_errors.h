// The errors that every Communicator backend gives, in one wording, so that logs and the launcher's
// last screen read the same whatever the transport. Pure.

#ifndef DSRUN_WORKER_COMM_CORE_EXCHANGE_ERRORS_H_
#define DSRUN_WORKER_COMM_CORE_EXCHANGE_ERRORS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace dsrun::worker {

// UNAVAILABLE. `detail` is what the transport said; may be empty.
absl::Status PeerGoneError(int rank, int peer, const std::string& what, const std::string& detail);
// DEADLINE_EXCEEDED. `waited_for` is "a message from" or "the acceptance of a message by".
absl::Status NoAnswerError(int rank, int peer, const std::string& what,
                           const std::string& waited_for, absl::Duration timeout);
// ABORTED.
absl::Status AbortedError(int rank, const std::string& reason);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_EXCHANGE_ERRORS_H_
