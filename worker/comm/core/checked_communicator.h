// Compares, before data moves, what two ranks believe they are doing: the number of the operation
// between them, its name, and the sizes of the messages in both directions. A disagreement is
// FAILED_PRECONDITION on both sides, and the text shows both ("rank 2 is at operation 17
// 'all-gather params' 4096 bytes, but rank 0 is at operation 17 'barrier' 1 bytes"), where the
// transport alone would deliver the wrong bytes or wait for ever.
//
// Costs one more small message per peer and operation. All ranks of a group use the same policy.
// Threads: as the communicator inside. The kinds of error: those of the communicator inside, and
// the one above; after it, every call returns it.

#ifndef DSRUN_WORKER_COMM_CORE_CHECKED_COMMUNICATOR_H_
#define DSRUN_WORKER_COMM_CORE_CHECKED_COMMUNICATOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

struct CheckPolicy {
  // Operations checked between any two ranks, from the first on.
  uint64_t first_operations = 0;

  static CheckPolicy Off() { return {0}; }
  static CheckPolicy Start(uint64_t operations) { return {operations}; }
  static CheckPolicy Always() { return {UINT64_MAX}; }
};

std::unique_ptr<Communicator> CreateCheckedCommunicator(std::unique_ptr<Communicator> inner,
                                                        CheckPolicy policy);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_CHECKED_COMMUNICATOR_H_
