// Ranks as processes, over TCP by Gloo: a full mesh, point-to-point messages only. Gloo's own
// collectives are not used: they cannot be woken while a peer is stopped, and their sums are not in
// our order.
//
// Every pair of ranks proves membership of the generation to each other in its first messages; see
// membership_proof.h for what that is worth.
//
// Threads: see Communicator. Each object has two threads of its own (Gloo's I/O and a watch over
// the peers) and one more during Create.
//
// Creating the first one makes the process ignore SIGPIPE, if nobody has set a handler: Gloo writes
// to sockets that the peer's death has closed, and says so by an error as well.

#ifndef DSRUN_WORKER_COMM_GLOO_GLOO_COMMUNICATOR_H_
#define DSRUN_WORKER_COMM_GLOO_GLOO_COMMUNICATOR_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/core/rendezvous.h"

namespace dsrun::worker {

struct GlooOptions {
  int rank = 0;
  int size = 1;
  // Names the group where a generation has several; one name, one communicator.
  std::string group = "world";
  // Numeric address to listen on and connect from; ports are chosen by the system.
  std::string bind_address = "127.0.0.1";
  // How long one Exchange may last.
  absl::Duration timeout = absl::Seconds(30);
  // How long the connections and proofs may take together, after the rendezvous.
  absl::Duration connect_timeout = absl::Seconds(30);
  std::string job_token;
  int64_t generation = 0;
  // Asked every few milliseconds while connecting; true gives up with ABORTED. May be empty. Called
  // from another thread.
  std::function<bool()> cancelled;
  // Longer messages travel in parts of this size; the same on all ranks. Below 2^40.
  size_t part_bytes = size_t{1} << 30;
};

class GlooCommunicator {
 public:
  // Meets the others through `rendezvous` (used during the call only), connects to all of them and
  // verifies them. A group of one rank uses neither rendezvous nor network.
  // Errors: those of `rendezvous`; UNAVAILABLE: a peer died on the way; PERMISSION_DENIED: a peer
  // has another token, generation or group (PeerRank says which peer); ABORTED: cancelled;
  // DEADLINE_EXCEEDED, INVALID_ARGUMENT (bind address, malformed address blob).
  static absl::StatusOr<std::unique_ptr<Communicator>> Create(const GlooOptions& options,
                                                              Rendezvous& rendezvous);
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_GLOO_GLOO_COMMUNICATOR_H_
