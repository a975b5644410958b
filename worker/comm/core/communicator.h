// Communicator: what ranks of one generation say to each other. The one primitive is Exchange, a
// batch of point-to-point messages; every collective is built on it (collectives.h), so a backend
// has little to get wrong and every reduction is ours, in our order (docs/numerics.md). Backends:
// in_process_communicator (threads), gloo_communicator (TCP), and
// shared_memory_communicator around one of them.
//
// Life: a communicator belongs to one generation. After any error, or Abort, it is dead: every
// further call returns the first error at once. A new generation builds a new one; nothing is ever
// revived.
//
// Threads: one thread at a time calls Exchange (the owner). Abort may be called from any thread, at
// any time, any number of times; it is the only such call.

#ifndef DSRUN_WORKER_COMM_CORE_COMMUNICATOR_H_
#define DSRUN_WORKER_COMM_CORE_COMMUNICATOR_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace dsrun::worker {

// One message to `peer`. `bytes` may be 0: such a message is not sent and must not be expected.
struct SendOp {
  int peer;
  const void* data;
  size_t bytes;
};

// One message from `peer`, of exactly `bytes` bytes.
struct RecvOp {
  int peer;
  void* data;
  size_t bytes;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Performs all sends and receives at once, in no particular order between peers; between two
  // ranks, the k-th send meets the k-th receive. Done means: every receive buffer is filled and
  // every send buffer may be reused. A message to oneself is a copy. Never blocks for ever: it ends
  // when all is done, on Abort, on a dead peer, or at the deadline (SetTimeout). Received bytes are
  // undefined after an error.
  //
  // `what` names the operation in error messages ("reduce-scatter bucket 3").
  //
  // Errors: UNAVAILABLE: a peer is gone (the message names its rank); ABORTED: Abort was called
  // here; DEADLINE_EXCEEDED: nobody answered (names the rank that was waited for and `what`);
  // FAILED_PRECONDITION: ranks disagree about the operation (checked_communicator). The status
  // carries the peer in PeerRank().
  virtual absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                                const std::string& what) = 0;

  // How long one Exchange may last from now on; at first, what the communicator was created with.
  // A rank that computes longer is not dead, so the engine sets this from the length of its steps.
  // Called by the owner.
  virtual void SetTimeout(absl::Duration timeout) = 0;

  // Wakes a blocked Exchange within milliseconds, also when a peer is stopped, and makes all later
  // calls fail with ABORTED and `reason`. ENSURES: thread-safe, idempotent, never blocks for long.
  virtual void Abort(const std::string& reason) = 0;
};

// The peer rank that an error of a Communicator is about, or -1.
int PeerRank(const absl::Status& status);
absl::Status WithPeerRank(absl::Status status, int peer);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_COMMUNICATOR_H_
