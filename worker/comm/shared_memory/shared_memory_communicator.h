// Ranks of one node talk through shared memory, everybody else through the communicator inside.
// On a CPU node this halves what communication costs: loopback TCP copies every byte through the
// kernel twice and wakes three threads for it.
//
// A message between two ranks of a node is one copy into a ring in the receiver's inbox
// (shared_memory_inbox.h) and one out of it. Whether a pair uses it is agreed by both sides through
// the rendezvous; where the system refuses it, the communicator inside carries their messages too,
// and the log says so. Where every pair uses it, all ranks drop the communicator inside: Gloo's
// thread alone would wake a hundred times a second.
//
// An Exchange moves the node's messages first, then the others. A rank that fails tells its node
// whom its error names, so that the others name the same rank and not the messenger.
//
// Threads and errors: as Communicator. FAILED_PRECONDITION: a message has another size than the one
// that is waited for.

#ifndef DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_COMMUNICATOR_H_
#define DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_COMMUNICATOR_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/core/rendezvous.h"

namespace dsrun::worker {

struct SharedMemoryOptions {
  std::string group = "world";  // as GlooOptions
  // Ranks with equal names share a node, if they also share a kernel and a process table.
  std::string node;
  absl::Duration timeout = absl::Seconds(30);  // of one Exchange
  // For each pair and direction; the same on all ranks. A message may be longer.
  size_t ring_bytes = size_t{1} << 20;
};

// All ranks of `inner` call it. Errors: those of `rendezvous`; INVALID_ARGUMENT: a malformed blob.
absl::StatusOr<std::unique_ptr<Communicator>> CreateSharedMemoryCommunicator(
    std::unique_ptr<Communicator> inner, const SharedMemoryOptions& options,
    Rendezvous& rendezvous);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_COMMUNICATOR_H_
